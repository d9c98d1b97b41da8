"""The wide residual network for small images: its size, its plan, and its answers written another way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from memory_defense.networks.classifiers import CLASSIFIERS
from memory_defense.networks.residual_cnn import STEM, ResidualCnn, WhiteningStem, whitening_filters
from memory_defense.randomness import seeded

COLOUR = {"channels": 3, "size": 32, "classes": 10, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
GREY = {"channels": 1, "size": 28, "classes": 10, "mean": (0.286,), "std": (0.353,)}


def count(widths: tuple[int, ...], channels: int) -> int:
    """Weights by hand: stem with bias, two convolutions and two normalisations a block, one linear layer."""
    total = channels * STEM * 9 + STEM
    for inputs, outputs in zip((STEM, *widths), widths, strict=False):
        total += 9 * outputs * (inputs + outputs) + 4 * outputs
    return total + 10 * widths[-1] + 10


@pytest.mark.parametrize(
    ("name", "shape", "widths"),
    [("residual-cnn", COLOUR, (64, 256, 256)), ("residual-cnn-128", GREY, (64, 128, 256))],
)
def test_it_has_the_weights_that_its_plan_says(name, shape, widths) -> None:
    network = CLASSIFIERS[name](**shape)
    assert sum(one.numel() for one in network.parameters()) == count(widths, shape["channels"])
    assert all(one % 32 == 0 for one in widths), "what keeps a matrix unit busy"


def test_it_answers_as_its_plan_says() -> None:
    with seeded(0, "network"):
        network = ResidualCnn(**COLOUR, widths=(8, 16), activation="relu").eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    images, state = torch.rand(3, 3, 32, 32), network.state_dict()

    def normed(features: Tensor, name: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(features, *(state[f"{name}.{one}"] for one in names))

    mean, std = (torch.tensor(COLOUR[one]).view(3, 1, 1) for one in ("mean", "std"))
    found = F.conv2d((images - mean) / std, state["stem.0.weight"], state["stem.0.bias"], padding=1).relu()
    for block in ("blocks.0", "blocks.1"):
        pooled = F.max_pool2d(F.conv2d(found, state[f"{block}.pooled.0.weight"], padding=1), 2)
        pooled = normed(pooled, f"{block}.pooled.2").relu()
        branch = F.conv2d(pooled, state[f"{block}.branch.0.weight"], padding=1)
        found = pooled + normed(branch, f"{block}.branch.1").relu()
    expected = found.flatten(2).max(2).values @ state["output.weight"].T + state["output.bias"]
    torch.testing.assert_close(network(images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [8, 9, 31, 128])
def test_it_takes_any_size_from_eight_pixels(size) -> None:
    network = ResidualCnn(**{**COLOUR, "size": size}, widths=(8, 8, 8)).eval()
    assert network(torch.rand(2, 3, size, size)).shape == (2, 10)


def test_smaller_images_are_refused() -> None:
    with pytest.raises(ValueError, match="size is 7, but this network takes 8 to 128 pixels"):
        ResidualCnn(**{**COLOUR, "size": 7})


def test_whitening_filters_are_the_cosine_transform_of_a_patch() -> None:
    scipy = pytest.importorskip("scipy.fft")
    filters = whitening_filters(3)
    patch = torch.rand(3, 2, 2)
    expected = torch.from_numpy(scipy.dctn(patch.numpy(), norm="ortho")).permute(1, 2, 0).flatten()
    torch.testing.assert_close((filters * patch).sum((1, 2, 3)), expected)
    flat = whitening_filters(5).flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(20), atol=1e-6, rtol=0)


def test_the_whitening_stem_makes_both_signs_of_one_variance_and_is_not_trained() -> None:
    stem = WhiteningStem(3, "relu").train()
    images = torch.rand(64, 3, 16, 16) * torch.tensor([0.1, 1.0, 3.0]).view(3, 1, 1)
    whitened = stem[1](stem[0](images))
    assert whitened.shape == (64, 24, 15, 15)
    torch.testing.assert_close(whitened[:, :12], -whitened[:, 12:], atol=1e-4, rtol=0)
    variance = whitened.var((0, 2, 3), unbiased=False)
    raw = stem[0](images).var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(variance, raw / (raw + 5e-4), atol=1e-3, rtol=0)
    trained = {name for name, one in stem.named_parameters() if one.requires_grad}
    assert trained == {"1.weight", "1.bias"}, "the convolution stays what it is"


@pytest.mark.parametrize("size", [9, 28, 32])
def test_a_whitened_network_scales_its_features_and_says_its_layers(size) -> None:
    with seeded(0, "network"):
        network = ResidualCnn(**{**COLOUR, "size": size}, widths=(8, 8, 8), stem="whitening", scale=1 / 8).eval()
    images = torch.rand(2, 3, size, size)
    found = images
    for layer in network.layers():
        found = layer(found)
    torch.testing.assert_close(network(images), found)
    features = network.blocks(network.stem(network.normalize(images))).amax((2, 3))
    torch.testing.assert_close(network(images), network.output(features / 8))
    factor, added = network.scale.affine()
    assert factor.tolist() == [1 / 8] * 8
    assert added.tolist() == [0.0] * 8


def test_a_whitened_network_needs_a_pixel_more() -> None:
    with pytest.raises(ValueError, match="size is 8, but this network takes 9 to 128 pixels"):
        ResidualCnn(**{**COLOUR, "size": 8}, stem="whitening")


def test_an_unknown_stem_is_refused() -> None:
    with pytest.raises(ValueError, match="'whitening'"):
        ResidualCnn(**COLOUR, stem="whitened")
