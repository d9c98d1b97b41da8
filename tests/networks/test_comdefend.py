"""ComCNN and RecCNN: the published widths, counted on paper."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from memory_defense.networks.comdefend import ComCNN, ComDefendPlan, CompressionNetwork, RecCNN, comdefend_plan

GREY_COMPRESS = (1, 32, 64, 128, 256, 128, 64, 64, 32, 4)
GREY_REBUILD = (4, 32, 64, 128, 256, 128, 64, 64, 32, 1)
COLOUR_COMPRESS = (3, 16, 32, 64, 128, 256, 128, 64, 32, 12)
COLOUR_REBUILD = (12, 32, 64, 128, 256, 128, 64, 32, 16, 3)


def count(widths: tuple[int, ...]) -> int:
    return sum(outputs * (9 * inputs + 1) for inputs, outputs in pairwise(widths))


@pytest.mark.parametrize(
    ("channels", "size", "compress", "rebuild"),
    [(1, 28, GREY_COMPRESS, GREY_REBUILD), (3, 32, COLOUR_COMPRESS, COLOUR_REBUILD)],
)
def test_widths_and_shapes_are_the_published_ones(
    channels: int, size: int, compress: tuple[int, ...], rebuild: tuple[int, ...]
) -> None:
    network = CompressionNetwork(comdefend_plan(channels))
    images = torch.rand(2, channels, size, size)

    code = network.compressor(images)
    made = network.reconstructor(code.sigmoid())

    assert code.shape == (2, 4 * channels, size, size)
    assert made.shape == images.shape
    assert 0 < made.min() < made.max() < 1
    for part, widths in ((network.compressor, compress), (network.reconstructor, rebuild)):
        assert sum(parameter.numel() for parameter in part.parameters()) == count(widths)
        layers = [layer for layer in part.modules() if isinstance(layer, nn.Conv2d)]
        assert tuple(layer.in_channels for layer in layers) == widths[:-1]


def test_layers_are_elu_between_and_nothing_after_the_code() -> None:
    plan = ComDefendPlan(channels=1, compress=(3,), bits=2, reconstruct=(5,))
    compressor, rebuild, images = ComCNN(plan), RecCNN(plan), torch.rand(2, 1, 6, 6)
    one, _, two = compressor.layers
    code = F.conv2d(F.elu(F.conv2d(images - 0.5, one.weight, one.bias, padding=1)), two.weight, two.bias, padding=1)
    assert torch.allclose(compressor(images), code, atol=1e-6)
    one, _, two = rebuild.layers
    made = F.conv2d(F.elu(F.conv2d(code, one.weight, one.bias, padding=1)), two.weight, two.bias, padding=1)
    assert torch.allclose(rebuild(code), made.sigmoid(), atol=1e-6)


def test_the_small_preset_is_small() -> None:
    small, paper = (CompressionNetwork(comdefend_plan(1, name)) for name in ("small", "paper"))

    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (small, paper)]
    assert sizes[0] == count((1, 16, 32, 16, 4)) + count((4, 16, 32, 16, 1))
    assert 40 * sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: comdefend_plan(1, "papr"), "'papr'; did you mean 'paper'"),
        (lambda: comdefend_plan(0), "channels is 0"),
        (lambda: ComDefendPlan(channels=1, compress=(4, 0), bits=2, reconstruct=()), r"compress is \(4, 0\)"),
        (lambda: ComCNN(comdefend_plan(1, "small"))(torch.rand(2, 3, 8, 8)), r"takes \(B, 1, H, W\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
