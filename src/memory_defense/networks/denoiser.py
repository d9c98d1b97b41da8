"""A denoiser: a small U-Net that predicts the noise in an image, which is then taken off (Zhang et al. 2017).

Its first step moves each 2x2 square of pixels into channels (FFDNet, Zhang et al. 2018), so that no convolution
runs at full size; the levels below halve the size again. Each level of the way up gets what the way down had there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.checks import check_at_least
from memory_defense.contracts import Images
from memory_defense.networks.layers import check_input

CENTRE = 0.5
"""Subtracted from pixels first."""


@dataclass(frozen=True, kw_only=True)
class DenoiserPlan:
    """The sizes of a `Denoiser`.

    Raises
    ------
    ValueError
        For no channels, no level, a level without channels, or a negative number of blocks.
    """

    channels: int
    """C of the images."""
    widths: tuple[int, ...]
    """Channels of each level; the first works at half the image's size, each further one at half of that."""
    blocks: int
    """Residual blocks of each level, on the way down and again on the way up."""

    def __post_init__(self) -> None:
        check_at_least(1, channels=self.channels)
        check_at_least(0, blocks=self.blocks)
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths is {self.widths}, but a level has at least 1 channel; give (32,)")

    @property
    def stride(self) -> int:
        """Pixels a side of what becomes one position of the lowest level."""
        return 2 ** len(self.widths)


class DenoiserBlock(nn.Module):
    """Two 3x3 convolutions beside the identity.

    Parameters
    ----------
    width
        Channels that come in and go out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, width, h, w), as large as what comes in."""
        return torch.relu(features + self.branch(features))


class Denoiser(nn.Module):
    """Images under noise (B, C, H, W) to the noise in them (B, C, H, W), of any size.

    Before any training it predicts none.

    Parameters
    ----------
    plan
        See `DenoiserPlan`.
    """

    def __init__(self, plan: DenoiserPlan) -> None:
        super().__init__()
        self.plan = plan
        inner = 4 * plan.channels
        self.stem = nn.Conv2d(inner, plan.widths[0], 3, padding=1)
        self.down = nn.ModuleList(_blocks(width, plan.blocks) for width in plan.widths)
        self.shrink = nn.ModuleList(nn.Conv2d(upper, lower, 2, stride=2) for upper, lower in pairwise(plan.widths))
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(lower, upper, 2, stride=2) for upper, lower in pairwise(plan.widths)
        )
        self.up = nn.ModuleList(_blocks(width, plan.blocks) for width in plan.widths[:-1])
        self.output = nn.Conv2d(plan.widths[0], inner, 3, padding=1)
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    def encode(self, images: Images) -> tuple[Tensor, ...]:
        """Return each level's features on the way down, (B, widths[i], h, w), the lowest level's last.

        Sizes that do not divide are filled up by repeating the border. Raises ValueError for other channels.
        """
        check_input(images, "this denoiser", self.plan.channels)
        stride = self.plan.stride
        beyond = (0, -images.shape[3] % stride, 0, -images.shape[2] % stride)
        filled = F.pad(images, beyond, mode="replicate") if any(beyond) else images
        features = torch.relu(self.stem(F.pixel_unshuffle(filled - CENTRE, 2)))
        levels = list[Tensor]()
        for level, blocks in enumerate(self.down):
            features = blocks(self.shrink[level - 1](features) if level else features)
            levels.append(features)
        return tuple(levels)

    def decode(self, levels: Sequence[Tensor], height: int, width: int) -> Tensor:
        """Return the noise (B, C, height, width) of images whose levels these are."""
        *skipped, features = levels
        for level in reversed(range(len(skipped))):
            features = self.up[level](self.grow[level](features) + skipped[level])
        return F.pixel_shuffle(self.output(features), 2)[:, :, :height, :width]

    def forward(self, images: Images) -> Tensor:
        """Return the noise that it sees."""
        return self.decode(self.encode(images), *images.shape[2:])


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(DenoiserBlock(width) for _ in range(count)))
