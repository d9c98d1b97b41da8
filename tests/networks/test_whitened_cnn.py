"""The network that learns small colour images in few epochs: its filters, its plan, what it trains."""

from __future__ import annotations

import pytest
import torch
from scipy.fft import dctn
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.networks.whitened_cnn import LOGITS, WhitenedCnn, whitening_filters
from memory_defense.randomness import seeded

COLOUR = {"channels": 3, "size": 32, "classes": 10, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}


def small(**changed) -> WhitenedCnn:
    with seeded(0, "network"):
        return WhitenedCnn(**{**COLOUR, **changed}, widths=(24, 32, 32))


def test_whitening_filters_are_the_cosine_transform_of_a_patch() -> None:
    filters, patch = whitening_filters(3), torch.rand(3, 2, 2)
    expected = torch.from_numpy(dctn(patch.numpy(), norm="ortho")).permute(1, 2, 0).flatten()
    torch.testing.assert_close((filters * patch).sum((1, 2, 3)), expected)
    flat = whitening_filters(5).flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(20), atol=1e-6, rtol=0)


def test_the_stem_makes_both_signs_of_one_variance() -> None:
    stem = small().trunk[0].train()
    images = torch.rand(64, 3, 16, 16) * torch.tensor([0.1, 1.0, 3.0]).view(3, 1, 1)
    whitened = stem[1](stem[0](images))
    assert whitened.shape == (64, 24, 15, 15)
    torch.testing.assert_close(whitened[:, :12], -whitened[:, 12:], atol=1e-4, rtol=0)
    raw = stem[0](images).var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(whitened.var((0, 2, 3), unbiased=False), raw / (raw + 5e-4), atol=1e-3, rtol=0)


def test_filters_and_factors_of_normalisation_are_not_among_what_is_trained() -> None:
    network = small().requires_grad_(True)
    norms = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    assert len(norms) == 7
    assert all(one.weight is None and one.momentum == 0.4 for one in norms)
    vectors = [tuple(one.shape) for one in network.parameters() if one.dim() == 1]
    assert vectors == [(24,), *[(24,)] * 2, *[(32,)] * 4], (
        "one shift a normalisation, which learns at `vector_rate`"
    )
    assert "trunk.0.0.filters" in network.state_dict()


def test_every_convolution_begins_as_the_identity() -> None:
    for layer in small().trunk.modules():
        if isinstance(layer, nn.Conv2d):
            inputs = torch.rand(2, layer.in_channels, 6, 6)
            torch.testing.assert_close(layer(inputs)[:, : layer.in_channels], inputs)


def test_it_answers_as_its_plan_says() -> None:
    network = small().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    for name, shift in network.named_parameters():
        if name.endswith("shift"):
            nn.init.normal_(shift, std=0.1)
    images, state = torch.rand(3, 3, 32, 32), network.state_dict()

    def normed(features: Tensor, name: str, eps: float = 1e-5) -> Tensor:
        mean, variance = (state[f"{name}.norm.{one}"].view(-1, 1, 1) for one in ("running_mean", "running_var"))
        return F.gelu((features - mean) / (variance + eps).sqrt() + state[f"{name}.shift"].view(-1, 1, 1))

    mean, std = (torch.tensor(COLOUR[one]).view(3, 1, 1) for one in ("mean", "std"))
    found = normed(F.conv2d((images - mean) / std, state["trunk.0.0.filters"]), "trunk.0.1", eps=5e-4)
    for block in ("trunk.1", "trunk.2", "trunk.3"):
        pooled = F.max_pool2d(F.conv2d(found, state[f"{block}.0.weight"], padding=1), 2)
        found = F.conv2d(normed(pooled, f"{block}.2"), state[f"{block}.4.weight"], padding=1)
        found = normed(found, f"{block}.5")
    expected = LOGITS * found.flatten(2).max(2).values @ state["head.weight"].T
    torch.testing.assert_close(network(images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "channels"), [(9, 1), (28, 1), (32, 3), (128, 3)])
def test_it_takes_any_size_from_nine_pixels(size, channels) -> None:
    shape = {"size": size, "channels": channels, "mean": (0.5,) * channels, "std": (0.2,) * channels}
    assert small(**shape).eval()(torch.rand(2, channels, size, size)).shape == (2, 10)


def test_smaller_images_are_refused() -> None:
    with pytest.raises(ValueError, match="size is 8, but this network takes 9 to 128 pixels"):
        small(size=8)
