"""A wide and shallow residual network for small images, shaped so that a processor multiplies large matrices.

Convolutions of 64 channels and more, in multiples of 32, and pooling before the activation keep the matrix units of
a processor busy; the plan follows the nets that learn CIFAR-10 fastest (Page 2018; Jordan 2024, arXiv:2404.00498).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Unpack

from torch import Tensor, nn

from memory_defense.contracts import Images, Logits
from memory_defense.networks.layers import Activation, ImageClassifier, ImageShape, Sum, activation_layer

STEM = 24
"""Channels of the first convolution."""


class PooledBlock(nn.Module):
    """Convolution, 2x2 max-pooling, then one residual branch: half the size comes out.

    Parameters
    ----------
    inputs, outputs
        Channels that come in, and that come out.
    activation
        ``relu`` or ``silu``.
    """

    def __init__(self, inputs: int, outputs: int, activation: Activation) -> None:
        super().__init__()
        self.pooled = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(outputs),
            activation_layer(activation),
        )
        self.branch = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            activation_layer(activation),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, outputs, H // 2, W // 2)."""
        pooled = self.pooled(features)
        return pooled + self.branch(pooled)

    def layers(self) -> Sequence[nn.Module]:
        """Return what `forward` amounts to (`published.Layered`)."""
        return self.pooled, Sum(nn.Identity(), self.branch)


class ResidualCnn(ImageClassifier):
    """A 3x3 stem, a `PooledBlock` for each width, global max-pooling and one linear layer, at least 8 pixels.

    Parameters
    ----------
    widths
        Channels of the blocks; 64, 256, 256 have 2.0 million weights on CIFAR-10.
    activation
        ``relu`` or ``silu``.
    shape
        See `ImageShape`.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (64, 256, 256),
        activation: Activation = "silu",
        **shape: Unpack[ImageShape],
    ) -> None:
        super().__init__(smallest=2 ** len(widths), **shape)
        self.stem = nn.Sequential(nn.Conv2d(shape["channels"], STEM, 3, padding=1), activation_layer(activation))
        self.blocks = nn.Sequential(
            *(PooledBlock(inputs, outputs, activation) for inputs, outputs in pairwise((STEM, *widths)))
        )
        self.output = nn.Linear(widths[-1], shape["classes"])

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        features = self.blocks(self.stem(self.normalize(images)))  # (B, F, h, w)
        return self.output(features.amax((2, 3)))

    def layers(self) -> Sequence[nn.Module]:
        """Return what `forward` amounts to."""
        return self.normalize, self.stem, self.blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten(), self.output
