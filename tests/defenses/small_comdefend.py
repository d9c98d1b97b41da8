"""Small ComDefends: one that runs fast, one that pen and paper can follow."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from memory_defense.contracts import Batch
from memory_defense.defenses.comdefend import ComDefend, build_comdefend
from memory_defense.networks.classifiers import Linear
from memory_defense.networks.comdefend import ComDefendPlan, CompressionNetwork
from memory_defense.randomness import ImageDraws, seeded


def build(channels: int = 1, size: int = 28, preset: str = "small", **options: object) -> ComDefend:
    with seeded(0, "defense"):
        linear = Linear(channels=channels, size=size, classes=4, mean=(0.3,) * channels, std=(0.4,) * channels)
        defense = build_comdefend(channels=channels, size=size, classifier=linear, preset=preset)
        if options:
            defense = ComDefend(linear, defense.purifier, **options)  # type: ignore[arg-type]
    return defense.eval()


def by_hand(**options: object) -> ComDefend:
    """Return one that reads and writes single pixels: code ``3 (x - 1/2) + 0.2``, image ``sigmoid(2 s - 0.7)``."""
    network = CompressionNetwork(ComDefendPlan(channels=1, compress=(), bits=1, reconstruct=()))
    with torch.no_grad():
        for layer, (weight, bias) in (
            (network.compressor.layers[0], (3.0, 0.2)),
            (network.reconstructor.layers[0], (2.0, -0.7)),
        ):
            layer.weight.zero_()
            layer.weight[0, 0, 1, 1] = weight
            layer.bias.fill_(bias)
    return ComDefend(nn.Flatten(), network, **options).double()  # type: ignore[arg-type]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def batch(images: Tensor, clean: Tensor | None = None, seed: int = 0) -> Batch:
    ids = torch.arange(len(images))
    return Batch(images, ids % 4, ids, ImageDraws.of(seed, "test", ids), 0.0, images if clean is None else clean)
