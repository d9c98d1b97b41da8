"""Classifiers: images (B, C, H, W) in [0, 1] to logits (B, K). Each begins with `Normalize`.

Initialisation draws from the global generator; wrap the construction in `randomness.seeded`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from torch import Tensor, nn

from memory_defense.contracts import Images, Logits
from memory_defense.networks.layers import Activation, Normalize, activation_layer, check_network, features_of
from memory_defense.networks.resnet import resnet18, resnet50
from memory_defense.networks.target_cnns import cnn_a, cnn_b, cnn_c, mlp_d


class Linear(nn.Module):
    """One affine map of the pixels; its adversarial examples are known in closed form.

    Parameters
    ----------
    channels, size, classes
        C, H = W and K.
    mean, std
        For `Normalize`.
    """

    def __init__(
        self, *, channels: int, size: int, classes: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        check_network(channels, size, classes, mean)
        self.normalize = Normalize(mean, std)
        self.output = nn.Linear(channels * size * size, classes)

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        return self.output(self.normalize(images).flatten(1))


class SmallCNN(nn.Module):
    """Three convolutions and two linear layers: a selector that two processor cores train in minutes.

    Convolution 5x5 stride 2, 3x3, 3x3 stride 2, 2x2 max-pooling, then a hidden layer and the output.

    Parameters
    ----------
    channels, size, classes
        C, H = W (5 to 128) and K.
    mean, std
        For `Normalize`.
    widths
        Channels of the three convolutions.
    hidden
        Width of the hidden layer.
    activation
        ``relu`` or ``silu``.

    Raises
    ------
    ValueError
        For a size out of range.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        widths: tuple[int, int, int] = (32, 32, 64),
        hidden: int = 128,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        check_network(channels, size, classes, mean, smallest=5)
        first, second, third = widths
        self.normalize = Normalize(mean, std)
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, first, 5, stride=2, padding=2),
            activation_layer(activation),
            nn.Conv2d(first, second, 3, stride=1, padding=1),
            activation_layer(activation),
            nn.Conv2d(second, third, 3, stride=2, padding=1),
            activation_layer(activation),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Sequential(
            nn.Linear(features_of(self.trunk, channels, size), hidden),
            activation_layer(activation),
            nn.Linear(hidden, classes),
        )

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        return self.head(self.trunk(self.normalize(images)))


class LeNetSmall(nn.Module):
    """Two convolutions 4x4 of stride 2 and two linear layers (Wong & Kolter 2018): the cheapest robust selector.

    Parameters
    ----------
    channels, size, classes
        C, H = W (4 to 128) and K.
    mean, std
        For `Normalize`.
    widths
        Channels of the two convolutions.
    hidden
        Width of the hidden layer.

    Raises
    ------
    ValueError
        For a size out of range.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        widths: tuple[int, int] = (16, 32),
        hidden: int = 100,
    ) -> None:
        super().__init__()
        check_network(channels, size, classes, mean, smallest=4)
        first, second = widths
        self.normalize = Normalize(mean, std)
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, first, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.head = nn.Sequential(
            nn.Linear(features_of(self.trunk, channels, size), hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        return self.head(self.trunk(self.normalize(images)))


class TargetClassifier(nn.Module):
    """Classifier-B of Table 4: two 5x5 convolutions and three linear layers.

    The table's ``6 x 5 x 1`` is channels x kernel x stride. Its first linear layer has 256 inputs, which is
    right for 28 pixels; here they follow from the size. Dropout, absent from the table, is 0.5 as in the
    released code (reading A18).

    Parameters
    ----------
    channels, size, classes
        C, H = W (16 to 128) and K.
    mean, std
        For `Normalize`; mean 0 and deviation 1 when the input is normalised already.
    dropout
        Probability, after both hidden layers.

    Raises
    ------
    ValueError
        For a size out of range.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_network(channels, size, classes, mean, smallest=16)
        self.normalize = Normalize(mean, std)
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, 6, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(6, 16, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.head = nn.Sequential(
            nn.Linear(features_of(self.trunk, channels, size), 256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, classes),
        )

    def forward(self, images: Tensor) -> Logits:
        """Return logits (B, K)."""
        return self.head(self.trunk(self.normalize(images)))


class Builder(Protocol):
    """Makes a freshly initialised classifier."""

    def __call__(
        self, *, channels: int, size: int, classes: int, mean: Sequence[float], std: Sequence[float]
    ) -> nn.Module:
        """Return it; images in [0, 1] to logits."""
        ...


CLASSIFIERS: dict[str, Builder] = {
    "linear": Linear,
    "lenet-small": LeNetSmall,
    "small-cnn": SmallCNN,
    "small-cnn-silu": partial(SmallCNN, activation="silu"),
    "target-classifier": TargetClassifier,
    "cnn-a": cnn_a,
    "cnn-b": cnn_b,
    "cnn-c": cnn_c,
    "mlp-d": mlp_d,
    "resnet18": resnet18,
    "resnet18-silu": partial(resnet18, activation="silu"),
    "resnet50": resnet50,
}
"""Every classifier by name. ``resnet50`` is the paper's selector, its stem followed by max-pooling; ``cnn-a`` to
``mlp-d`` are Defense-GAN's targets A to D."""
