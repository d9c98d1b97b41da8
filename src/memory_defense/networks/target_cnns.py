"""The four target classifiers A to D of Defense-GAN (Samangouei et al. 2018), which Defense-VAE is tested with too.

Where a stride of 2 keeps the image's borders (``same``), the padding is TensorFlow's for an even side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Unpack

from torch import nn

from memory_defense.networks.layers import ImageClassifier, ImageShape, features_of


class TargetCNN(ImageClassifier):
    """A trunk and a head; made by `cnn_a`, `cnn_b`, `cnn_c` and `mlp_d`.

    Parameters
    ----------
    trunk
        Makes the trunk for C channels.
    head
        Makes the head out of F, the length of the trunk's features, and K.
    smallest
        Smallest H = W that the trunk takes.
    shape
        See `ImageShape`.
    """

    def __init__(
        self,
        *,
        trunk: Callable[[int], nn.Sequential],
        head: Callable[[int, int], nn.Sequential],
        smallest: int,
        **shape: Unpack[ImageShape],
    ) -> None:
        super().__init__(smallest=smallest, **shape)
        self.trunk = trunk(shape["channels"])
        self.head = head(features_of(self.trunk, shape["channels"], shape["size"]), shape["classes"])


def _trunk_a(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 64, 5, padding=2), nn.ReLU(), nn.Conv2d(64, 64, 5, stride=2), nn.ReLU(), nn.Flatten()
    )


def _trunk_b(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(0.2),
        nn.Conv2d(channels, 64, 8, stride=2, padding=3),
        nn.ReLU(),
        nn.Conv2d(64, 128, 6, stride=2),
        nn.ReLU(),
        nn.Conv2d(128, 128, 5),
        nn.ReLU(),
        nn.Flatten(),
    )


def _trunk_c(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 64, 5, stride=2), nn.ReLU(), nn.Flatten()
    )


def _flat(channels: int) -> nn.Sequential:
    del channels
    return nn.Sequential(nn.Flatten())


def _hidden_128(features: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(0.25), nn.Linear(features, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, classes)
    )


def _output_alone(features: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(features, classes))


def _two_of_200(features: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(features, 200),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, classes),
    )


cnn_a = partial(TargetCNN, trunk=_trunk_a, head=_hidden_128, smallest=5)
"""Network A: 64 x 5x5 same, 64 x 5x5 stride 2, hidden layer of 128."""

cnn_b = partial(TargetCNN, trunk=_trunk_b, head=_output_alone, smallest=28)
"""Network B: 64 x 8x8 stride 2 same, 128 x 6x6 stride 2, 128 x 5x5."""

cnn_c = partial(TargetCNN, trunk=_trunk_c, head=_hidden_128, smallest=5)
"""Network C: 128 x 3x3 same, 64 x 5x5 stride 2, hidden layer of 128."""

mlp_d = partial(TargetCNN, trunk=_flat, head=_two_of_200, smallest=1)
"""Network D: two hidden layers of 200."""
