"""ComDefend's two networks (Jia et al., CVPR 2019, arXiv 1811.12673): a compressor to bits and a reconstructor.

Convolutions 3x3 of stride 1 throughout, so that a code has the image's height and width: 4 bits for each grey
pixel instead of 8, 12 for each colour pixel instead of 24. ELU between layers, none after the code layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from memory_defense.checks import check_at_least, nearest
from memory_defense.contracts import Images
from memory_defense.networks.layers import check_input

CENTRE = 0.5
"""Subtracted from pixels before compression."""


@dataclass(frozen=True, kw_only=True)
class ComDefendPlan:
    """The widths of both networks."""

    channels: int
    """C of the images."""
    compress: tuple[int, ...]
    """Output channels of ComCNN's layers but the last."""
    bits: int
    """N, bits for each pixel: the output channels of ComCNN's last layer."""
    reconstruct: tuple[int, ...]
    """Output channels of RecCNN's layers but the last, which makes C."""

    def __post_init__(self) -> None:
        check_at_least(1, channels=self.channels, bits=self.bits)
        for name, widths in (("compress", self.compress), ("reconstruct", self.reconstruct)):
            if min(widths, default=1) < 1:
                raise ValueError(f"{name} is {widths}, but a layer has at least 1 channel")


_GREY = (32, 64, 128, 256, 128, 64, 64, 32)
_COLOUR = (16, 32, 64, 128, 256, 128, 64, 32)
_SMALL = (16, 32, 16)

WIDTHS: dict[str, dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "paper": {"grey": (_GREY, _GREY), "colour": (_COLOUR, _COLOUR[::-1])},
    "small": {"grey": (_SMALL, _SMALL), "colour": (_SMALL, _SMALL)},
}
"""Widths of compressor and reconstructor by preset; ``small`` is ours, for two processor cores."""


def comdefend_plan(channels: int, preset: str = "paper") -> ComDefendPlan:
    """Return the published widths for grey (1) or colour (any other number) images: 4 bits for each channel.

    Raises
    ------
    ValueError
        For an unknown preset or no channels.
    """
    if preset not in WIDTHS:
        raise nearest(preset, WIDTHS, "preset of ComDefend")
    compress, reconstruct = WIDTHS[preset]["grey" if channels == 1 else "colour"]
    return ComDefendPlan(channels=channels, compress=compress, bits=4 * channels, reconstruct=reconstruct)


def _stack(widths: tuple[int, ...]) -> nn.Sequential:
    """Return convolutions from each width to the next with ELU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ELU()]
    return nn.Sequential(*layers[:-1])


class ComCNN(nn.Module):
    """The compressor: images (B, C, H, W) to the logits of their code (B, N, H, W)."""

    def __init__(self, plan: ComDefendPlan) -> None:
        super().__init__()
        self.channels = plan.channels
        self.layers = _stack((plan.channels, *plan.compress, plan.bits))

    def forward(self, images: Images) -> Tensor:
        """Return c, the code before sigmoid and threshold; raise ValueError for another number of channels."""
        check_input(images, "this ComDefend", self.channels)
        return self.layers(images - CENTRE)


class RecCNN(nn.Module):
    """The reconstructor: codes (B, N, H, W) in [0, 1] to images (B, C, H, W) in (0, 1)."""

    def __init__(self, plan: ComDefendPlan) -> None:
        super().__init__()
        self.layers = _stack((plan.bits, *plan.reconstruct, plan.channels))

    def forward(self, codes: Tensor) -> Images:
        """Return the reconstruction."""
        return torch.sigmoid(self.layers(codes))


class CompressionNetwork(nn.Module):
    """ComCNN and RecCNN together, the part of ComDefend that is trained."""

    def __init__(self, plan: ComDefendPlan) -> None:
        super().__init__()
        self.plan = plan
        self.compressor = ComCNN(plan)
        self.reconstructor = RecCNN(plan)
