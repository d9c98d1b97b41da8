"""Classifiers: images (B, C, H, W) in [0, 1] to logits (B, K).

Initialisation draws from the global generator; wrap the construction in `randomness.seeded`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Protocol, Unpack

from torch import nn

from memory_defense.contracts import Images, Logits
from memory_defense.networks.interval_cnn import IntervalCnn, cnn7, cnn7_narrow
from memory_defense.networks.layers import (
    MAX_SIZE,
    Activation,
    ImageClassifier,
    ImageShape,
    activation_layer,
    features_of,
)
from memory_defense.networks.residual_cnn import ResidualCnn
from memory_defense.networks.resnet import resnet18, resnet50
from memory_defense.networks.target_cnns import cnn_a, cnn_b, cnn_c, mlp_d
from memory_defense.networks.whitened_cnn import WhitenedCnn


class Linear(ImageClassifier):
    """One affine map of the pixels; its adversarial examples are known in closed form."""

    def __init__(self, **shape: Unpack[ImageShape]) -> None:
        super().__init__(**shape)
        self.output = nn.Linear(shape["channels"] * shape["size"] ** 2, shape["classes"])

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        return self.output(self.normalize(images).flatten(1))

    def layers(self) -> Sequence[nn.Module]:
        """Return what `forward` calls in turn."""
        return self.normalize, nn.Flatten(), self.output


def _hidden_head(
    trunk: nn.Module, hidden: int, activation: nn.Module, **shape: Unpack[ImageShape]
) -> nn.Sequential:
    """Return two linear layers behind a trunk that flattens, the first as wide as `hidden`."""
    features = features_of(trunk, shape["channels"], shape["size"])
    return nn.Sequential(nn.Linear(features, hidden), activation, nn.Linear(hidden, shape["classes"]))


class SmallCNN(ImageClassifier):
    """Three convolutions and two linear layers, at least 5 pixels: two processor cores train it in minutes.

    Convolution 5x5 stride 2, 3x3, 3x3 stride 2, 2x2 max-pooling, then a hidden layer and the output.

    Parameters
    ----------
    widths
        Channels of the three convolutions.
    hidden
        Width of the hidden layer.
    activation
        ``relu`` or ``silu``.
    shape
        See `ImageShape`.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, int, int] = (32, 32, 64),
        hidden: int = 128,
        activation: Activation = "relu",
        **shape: Unpack[ImageShape],
    ) -> None:
        super().__init__(smallest=5, **shape)
        first, second, third = widths
        self.trunk = nn.Sequential(
            nn.Conv2d(shape["channels"], first, 5, stride=2, padding=2),
            activation_layer(activation),
            nn.Conv2d(first, second, 3, stride=1, padding=1),
            activation_layer(activation),
            nn.Conv2d(second, third, 3, stride=2, padding=1),
            activation_layer(activation),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.head = _hidden_head(self.trunk, hidden, activation_layer(activation), **shape)


class LeNetSmall(ImageClassifier):
    """Two convolutions 4x4 of stride 2 and two linear layers (Wong & Kolter 2018), at least 4 pixels.

    The cheapest selector that can be made robust.

    Parameters
    ----------
    widths
        Channels of the two convolutions.
    hidden
        Width of the hidden layer.
    shape
        See `ImageShape`.
    """

    def __init__(
        self, *, widths: tuple[int, int] = (16, 32), hidden: int = 100, **shape: Unpack[ImageShape]
    ) -> None:
        super().__init__(smallest=4, **shape)
        first, second = widths
        self.trunk = nn.Sequential(
            nn.Conv2d(shape["channels"], first, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.head = _hidden_head(self.trunk, hidden, nn.ReLU(), **shape)


class LeNet(ImageClassifier):
    """Two 5x5 convolutions, each pooled, and two linear layers (LeCun et al. 1998), wider, at least 16 pixels.

    Parameters
    ----------
    widths
        Channels of the two convolutions.
    hidden
        Width of the hidden layer.
    shape
        See `ImageShape`.
    """

    def __init__(
        self, *, widths: tuple[int, int] = (32, 64), hidden: int = 512, **shape: Unpack[ImageShape]
    ) -> None:
        super().__init__(smallest=16, **shape)
        first, second = widths
        self.trunk = nn.Sequential(
            nn.Conv2d(shape["channels"], first, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(first, second, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.head = _hidden_head(self.trunk, hidden, nn.ReLU(), **shape)


class TargetClassifier(ImageClassifier):
    """Classifier-B of Table 4: two 5x5 convolutions and three linear layers, at least 16 pixels.

    The table's ``6 x 5 x 1`` is channels x kernel x stride. Its first linear layer has 256 inputs, which is
    right for 28 pixels; here they follow from the size. Dropout, absent from the table, is 0.5 as in the
    released code (reading A18). Above 128 pixels, which the paper does not speak of, the second pooling is as many
    times wider, so that the first linear layer stays as large as at 128.

    Parameters
    ----------
    dropout
        Probability, after both hidden layers.
    shape
        See `ImageShape`.
    """

    LARGEST = 1024

    def __init__(self, *, dropout: float = 0.5, **shape: Unpack[ImageShape]) -> None:
        super().__init__(smallest=16, largest=self.LARGEST, **shape)
        pool = math.ceil(shape["size"] / MAX_SIZE)
        self.trunk = nn.Sequential(
            nn.Conv2d(shape["channels"], 6, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(6, 16, 5),
            nn.MaxPool2d(2 * pool),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.head = nn.Sequential(
            nn.Linear(features_of(self.trunk, shape["channels"], shape["size"]), 256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, shape["classes"]),
        )


class Builder(Protocol):
    """Makes a freshly initialised classifier."""

    def __call__(
        self, *, channels: int, size: int, classes: int, mean: Sequence[float], std: Sequence[float]
    ) -> nn.Module:
        """Return a module from images (B, C, H, W) in [0, 1] to logits (B, K)."""
        ...


CLASSIFIERS: dict[str, Builder] = {
    "linear": Linear,
    "lenet": LeNet,
    "lenet-small": LeNetSmall,
    "small-cnn": SmallCNN,
    "small-cnn-silu": partial(SmallCNN, activation="silu"),
    "target-classifier": TargetClassifier,
    "cnn-a": cnn_a,
    "cnn-b": cnn_b,
    "cnn-c": cnn_c,
    "mlp-d": mlp_d,
    "interval-cnn": IntervalCnn,
    "interval-cnn7": cnn7,
    "interval-cnn7-narrow": cnn7_narrow,
    "residual-cnn": ResidualCnn,
    "residual-cnn-128": partial(ResidualCnn, widths=(64, 128, 256)),
    "residual-cnn-32": partial(ResidualCnn, widths=(32, 64, 128), activation="relu"),
    "whitened-cnn": WhitenedCnn,
    "resnet18": resnet18,
    "resnet18-silu": partial(resnet18, activation="silu"),
    "resnet50": resnet50,
}
"""Every classifier by name. ``resnet50`` is the paper's selector, its stem followed by max-pooling; ``cnn-a`` to
``mlp-d`` are Defense-GAN's targets A to D; the ``interval-`` ones are made for interval bounds."""
