"""Plain networks of convolutions and ReLU, in which interval bounds stay tight enough to prove something.

No pooling and few layers: a layer's intervals are at least as wide as what the layer before can make of its own.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Unpack

from torch import nn

from memory_defense.networks.layers import ImageClassifier, ImageShape, features_of

Plan = tuple[tuple[int, int, int], ...]
"""Channels, kernel and stride of each convolution; one pixel of zeros stands around each image."""

FOUR: Plan = ((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2))
"""Four convolutions that two processor cores train in half an hour."""

SEVEN: Plan = ((64, 3, 1), (64, 3, 1), (128, 3, 2), (128, 3, 1), (128, 3, 1))
"""Those of CNN7 (Shi et al. 2021; Mao et al. 2024, arXiv:2406.04848), which has two linear layers behind them."""


class IntervalCnn(ImageClassifier):
    """Convolutions, each with ReLU, and two linear layers, at least 4 pixels; made for interval bounds.

    Parameters
    ----------
    plan
        The convolutions.
    hidden
        Width of the hidden layer.
    batch_norm
        Normalise before every ReLU.
    shape
        See `ImageShape`.
    """

    def __init__(
        self, *, plan: Plan = FOUR, hidden: int = 512, batch_norm: bool = False, **shape: Unpack[ImageShape]
    ) -> None:
        super().__init__(smallest=4, **shape)
        layers: list[nn.Module] = []
        inputs = shape["channels"]
        for width, kernel, stride in plan:
            layers.append(nn.Conv2d(inputs, width, kernel, stride=stride, padding=1, bias=not batch_norm))
            layers += [*([nn.BatchNorm2d(width)] if batch_norm else []), nn.ReLU()]
            inputs = width
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(features_of(self.trunk, shape["channels"], shape["size"]), hidden, bias=not batch_norm),
            *([nn.BatchNorm1d(hidden)] if batch_norm else []),
            nn.ReLU(),
            nn.Linear(hidden, shape["classes"]),
        )
        initialise_for_intervals(self)


cnn7 = partial(IntervalCnn, plan=SEVEN, batch_norm=True)
"""CNN7 with batch normalisation and its published widths: for a GPU."""

cnn7_narrow = partial(IntervalCnn, plan=tuple((width // 4, kernel, stride) for width, kernel, stride in SEVEN),
                      hidden=256, batch_norm=True)  # fmt: skip
"""The same with a quarter of the channels and half the hidden layer: for two processor cores."""


def initialise_for_intervals(network: nn.Module) -> None:
    """Draw the weights of all convolutions and linear layers but the last so that boxes keep their width.

    Normal with standard deviation ``sqrt(2 pi) / n`` for n inputs: then the mean absolute weight is ``2 / n``, and
    intervals half of whose width passes the ReLU before are as wide behind the layer as they were before that (Shi
    et al. 2021, arXiv:2103.17268, section 3.1). Biases become 0. Draws come from the global generator.
    """
    layers = [one for one in network.modules() if isinstance(one, (nn.Conv2d, nn.Linear))]
    for layer in layers[:-1]:
        nn.init.normal_(layer.weight, std=math.sqrt(2 * math.pi) / layer.weight[0].numel())
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
