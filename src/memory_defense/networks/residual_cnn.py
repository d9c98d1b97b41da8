"""A wide and shallow residual network for small images, shaped so that a processor multiplies large matrices.

Convolutions of 64 channels and more, in multiples of 32, and pooling before the activation keep the matrix units of
a processor busy; the plan follows the nets that learn CIFAR-10 fastest (Page 2018; Jordan 2024, arXiv:2404.00498).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, Unpack, get_args

import torch
from torch import Tensor, nn

from memory_defense.contracts import Images, Logits
from memory_defense.names import check_name
from memory_defense.networks.layers import Activation, ImageClassifier, ImageShape, Scale, Sum, activation_layer

STEM = 24
"""Channels of the first convolution, where it is learned."""

Stem = Literal["learned", "whitening"]


def whitening_filters(channels: int) -> Tensor:
    """Return the discrete cosine transform of a 2x2 patch over its C channels too: (4 C, C, 2, 2), orthonormal.

    It nearly decorrelates the pixels of natural images (Ahmed et al. 1974): sums and differences of neighbours, of
    grey, of red against blue, of green against both. Batch normalisation then makes all of one variance.
    """
    side, across = _cosines(2), _cosines(channels)
    return torch.einsum("ax,by,lc->ablcxy", side, side, across).reshape(4 * channels, channels, 2, 2)


def _cosines(count: int) -> Tensor:
    """Return the orthonormal DCT-II of so many numbers, a row for each frequency."""
    frequency, place = torch.arange(count).view(-1, 1), torch.arange(count) + 0.5
    rows = (frequency * place * math.pi / count).cos() * math.sqrt(2 / count)
    return torch.cat([rows[:1] / math.sqrt(2), rows[1:]])


class WhiteningStem(nn.Sequential):
    """Whitened 2x2 patches with both signs, 8 C channels, one pixel smaller; the convolution is not trained.

    A network whose first layer is given so learns faster (Page 2018; Jordan 2024).

    Parameters
    ----------
    channels
        C of the images.
    activation
        ``relu`` or ``silu``.
    """

    def __init__(self, channels: int, activation: Activation) -> None:
        patches = nn.Conv2d(channels, 8 * channels, 2, bias=False)
        filters = whitening_filters(channels)
        patches.weight = nn.Parameter(torch.cat([filters, -filters]), requires_grad=False)
        super().__init__(patches, nn.BatchNorm2d(8 * channels, eps=5e-4), activation_layer(activation))


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
    """A stem, a `PooledBlock` for each width, global max-pooling and one linear layer, at least 8 pixels.

    Parameters
    ----------
    widths
        Channels of the blocks; 64, 256, 256 have 2.0 million weights on CIFAR-10.
    activation
        ``relu`` or ``silu``.
    stem
        ``learned``, a 3x3 convolution, or ``whitening``, a `WhiteningStem`, which takes at least 9 pixels.
    scale
        Factor of the features before the linear layer: below 1 it begins with small logits and learns more slowly
        than the layers before it.
    shape
        See `ImageShape`.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (64, 256, 256),
        activation: Activation = "silu",
        stem: Stem = "learned",
        scale: float = 1.0,
        **shape: Unpack[ImageShape],
    ) -> None:
        check_name(stem, get_args(Stem), "stem")
        whitening = stem == "whitening"
        super().__init__(smallest=2 ** len(widths) + whitening, **shape)
        channels = shape["channels"]
        if whitening:
            self.stem = WhiteningStem(channels, activation)
        else:
            self.stem = nn.Sequential(nn.Conv2d(channels, STEM, 3, padding=1), activation_layer(activation))
        first = 8 * channels if whitening else STEM
        self.blocks = nn.Sequential(
            *(PooledBlock(inputs, outputs, activation) for inputs, outputs in pairwise((first, *widths)))
        )
        self.scale = Scale(widths[-1], scale)
        self.output = nn.Linear(widths[-1], shape["classes"])

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        features = self.blocks(self.stem(self.normalize(images)))  # (B, F, h, w)
        return self.output(self.scale(features).amax((2, 3)))

    def layers(self) -> Sequence[nn.Module]:
        """Return what `forward` amounts to."""
        return (
            self.normalize,
            self.stem,
            self.blocks,
            self.scale,
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            self.output,
        )
