"""The denoising autoencoders of MagNet (Meng & Chen 2017): images to images of the same shape.

Every convolution is 3x3, keeps the size and ends in a sigmoid, the output's included, so that what comes out lies
in (0, 1) and needs no clipping.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.contracts import Images
from memory_defense.networks.layers import MAX_SIZE, check_input

Step = int | Literal["average"]
"""A convolution with so many channels, or 2x2 average pooling."""

SMALLEST_SIZE = 4

STRUCTURE_I: dict[bool, tuple[Step, ...]] = {False: (3, "average", 3), True: (3,)}
"""Encoder of autoencoder I for grey (False) and colour (True) images; pooling costs colour images too much."""

STRUCTURE_II: tuple[Step, ...] = (3,)
"""Encoder of autoencoder II."""


class Reconstructed(NamedTuple):
    """Reconstructions and the activity of the convolutions."""

    images: Images
    """(B, C, H, W) in (0, 1)."""
    activity: Tensor
    """(B,) the sum of the squares of everything the convolutions put out."""


class DenoisingAutoencoder(nn.Module):
    """An encoder of convolutions and pooling, and its mirror image.

    Parameters
    ----------
    channels
        C of the images.
    structure
        The encoder's steps; the decoder has them in reverse, with nearest-neighbour upsampling for pooling, and one
        more convolution to C channels.

    Raises
    ------
    ValueError
        For a structure without a convolution, or with one of fewer than 1 channel.
    """

    def __init__(self, *, channels: int, structure: Sequence[Step]) -> None:
        super().__init__()
        widths = [step for step in structure if isinstance(step, int)]
        if not widths or min(widths) < 1:
            raise ValueError(
                f"structure is {tuple(structure)}, but an autoencoder needs at least one convolution, each with at "
                "least 1 channel"
            )
        self.channels, self.structure = channels, tuple(structure)
        layers: list[nn.Module] = []
        inputs = channels
        for outputs in (*widths, *reversed(widths), channels):
            layers.append(nn.Conv2d(inputs, outputs, 3, padding=1))
            inputs = outputs
        self.convolutions = nn.ModuleList(layers)

    def forward(self, images: Images) -> Images:
        """Return reconstructions (B, C, H, W) in (0, 1)."""
        return self.reconstruct(images).images

    def reconstruct(self, images: Images) -> Reconstructed:
        """Return reconstructions and activities; raise ValueError for other channels or sizes out of range."""
        check_input(images, "the autoencoder", self.channels)
        if not all(SMALLEST_SIZE <= side <= MAX_SIZE for side in images.shape[2:]):
            raise ValueError(
                f"images are {tuple(images.shape[2:])} pixels, but the autoencoder takes {SMALLEST_SIZE} to "
                f"{MAX_SIZE}; resize them"
            )
        convolutions = iter(self.convolutions)
        sizes: list[tuple[int, int]] = []
        activity = torch.zeros(len(images), dtype=images.dtype, device=images.device)
        features = images

        def convolve() -> tuple[Tensor, Tensor]:
            made = torch.sigmoid(next(convolutions)(features))
            return made, activity + made.to(activity.dtype).square().flatten(1).sum(1)

        for step in self.structure:
            if step == "average":
                sizes.append((features.shape[2], features.shape[3]))
                features = F.avg_pool2d(features, 2, ceil_mode=True)  # an odd last row is averaged by itself
            else:
                features, activity = convolve()
        for step in reversed(self.structure):
            if step == "average":
                height, width = sizes.pop()
                features = F.interpolate(features, scale_factor=2)[:, :, :height, :width]
            else:
                features, activity = convolve()
        features, activity = convolve()
        return Reconstructed(features, activity)


def autoencoder_one(channels: int) -> DenoisingAutoencoder:
    """Return autoencoder I, reformer and first detector; draws from the global generator."""
    return DenoisingAutoencoder(channels=channels, structure=STRUCTURE_I[channels > 1])


def autoencoder_two(channels: int) -> DenoisingAutoencoder:
    """Return autoencoder II, the second detector; draws from the global generator."""
    return DenoisingAutoencoder(channels=channels, structure=STRUCTURE_II)
