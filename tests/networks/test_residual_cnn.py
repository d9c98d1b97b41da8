"""The wide residual network for small images: its size, its plan, and its answers written another way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from memory_defense.networks.classifiers import CLASSIFIERS
from memory_defense.networks.residual_cnn import STEM, ResidualCnn
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
