"""A network for small colour images that learns them in few epochs, after Jordan 2024 (arXiv:2404.00498).

Whitened patches come in; behind them every convolution begins as the identity, batch normalisation has no factor
to learn but a shift that learns quickly (`training.optimizer.OptimizerConfig.vector_rate`), and the logits begin
small.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.networks.layers import ImageClassifier, ImageShape

NEW = 0.4
"""Share of a batch in the running statistics of batch normalisation: there are few steps to follow."""
LOGITS = 1 / 9
"""Factor of the features before the last layer."""


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


class Patches(nn.Module):
    """The `whitening_filters` of an image with both signs: (B, C, H, W) to (B, 8 C, H - 1, W - 1), never trained.

    Parameters
    ----------
    channels
        C.
    """

    filters: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        filters = whitening_filters(channels)
        self.register_buffer("filters", torch.cat([filters, -filters]))  # (8 C, C, 2, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return the filtered images."""
        return F.conv2d(images, self.filters)


class Shifted(nn.Module):
    """Batch normalisation that learns a shift of each channel, and no factor.

    Parameters
    ----------
    channels
        C of what comes in.
    eps
        Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=eps, momentum=NEW, affine=False)
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Return features (B, C, H, W), normalised and shifted."""
        normed = self.norm(features)
        return normed + self.shift.to(normed.dtype).view(-1, 1, 1)


class Scaled(nn.Module):
    """Features times `LOGITS`."""

    def forward(self, features: Tensor) -> Tensor:
        """Return features (B, F), smaller."""
        return LOGITS * features


def _whitening(channels: int) -> nn.Sequential:
    return nn.Sequential(Patches(channels), Shifted(8 * channels, eps=5e-4), nn.GELU())


def _identity(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution whose first outputs are its inputs, before it is trained."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight.data[: min(inputs, outputs)])
    return layer


def _block(inputs: int, outputs: int) -> nn.Sequential:
    first = (_identity(inputs, outputs), nn.MaxPool2d(2), Shifted(outputs), nn.GELU())
    return nn.Sequential(*first, _identity(outputs, outputs), Shifted(outputs), nn.GELU())


class WhitenedCnn(ImageClassifier):
    """Whitened patches, two convolutions a block with pooling between, and one linear layer, at least 9 pixels.

    Parameters
    ----------
    widths
        Channels of the blocks; 64, 256, 256 have 2.0 million weights on CIFAR-10.
    shape
        See `ImageShape`.
    """

    def __init__(self, *, widths: tuple[int, ...] = (64, 256, 256), **shape: Unpack[ImageShape]) -> None:
        super().__init__(smallest=2 ** len(widths) + 1, **shape)
        channels = shape["channels"]
        blocks = (_block(*pair) for pair in pairwise((8 * channels, *widths)))
        self.trunk = nn.Sequential(_whitening(channels), *blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten(), Scaled())
        self.head = nn.Linear(widths[-1], shape["classes"], bias=False)
