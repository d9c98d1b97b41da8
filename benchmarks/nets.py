"""The networks of the benchmarks, trained here with the library's own loop and kept under ``benchmarks/.cache``.

`NETS` read Fashion-MNIST and train in minutes; the adversarial ones are made for L-inf radius 0.1. `DESK` are as
large as a core trains in an hour, one of them for CIFAR-10 at 8/255.

    python benchmarks/nets.py [--nets desk-fashion desk-cifar]
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from memory_defense.contracts import Images, Objective
from memory_defense.data.images import Splits, load_dataset
from memory_defense.randomness import derive
from memory_defense.recipes.parts import QUICK_OPTIMIZER
from memory_defense.recipes.scales import rows_at
from memory_defense.systems.build import build_classifier
from memory_defense.training.adversarial import Benign, SingleStep, WarmStart
from memory_defense.training.checkpoint import load_weights, save_weights
from memory_defense.training.fit import FitConfig, fit
from memory_defense.training.validate import clean_accuracy

DATASET = "fashion-mnist"
EPSILON = 0.1
CACHE = Path(__file__).parent / ".cache"


class Shattered(nn.Module):
    """A network behind ``x + amplitude * sin(2 pi x / period)``: differentiable, and its gradient is useless.

    The sine moves no pixel by more than its amplitude, so the decisions hardly change; its slope swings between
    ``1 - s`` and ``1 + s`` with ``s = 2 pi amplitude / period``, many times within a ball (shattered gradients,
    Athalye et al. 2018).

    Parameters
    ----------
    network
        What reads the shifted images.
    amplitude, period
        In pixel units.
    """

    def __init__(self, network: nn.Module, amplitude: float = 0.02, period: float = 0.01) -> None:
        super().__init__()
        self.network, self.amplitude, self.period = network, amplitude, period

    def forward(self, images: Images) -> Tensor:
        """Return logits (B, K)."""
        return self.network(images + self.amplitude * (2 * math.pi / self.period * images).sin())


@dataclass(frozen=True)
class Net:
    """How one network is made."""

    network: str
    """A name of `memory_defense.networks.classifiers.CLASSIFIERS`."""
    objective: Objective
    epochs: int
    front: Callable[[nn.Module], nn.Module] | None = None
    """Put around the trained network."""
    dataset: str = DATASET
    epsilon: float = EPSILON
    """L-inf radius within which it is attacked."""
    desk: bool = False
    """Train as scale `desk` does, in bfloat16 where the processor multiplies it."""

    def build(self) -> nn.Module:
        """Return it untrained."""
        return build_classifier(self.network, self.dataset, 0, "benchmark")

    def fit_config(self) -> FitConfig:
        """Return how long and how to train; small ones in float32 everywhere, so that weights agree."""
        if not self.desk:
            return FitConfig(epochs=self.epochs, optimizer=QUICK_OPTIMIZER, averaging=0.998, precision="float32")
        scale = rows_at("desk", self.dataset)["resnet-online"].stages[0].fit
        return replace(scale, epochs=self.epochs, averaging=0.998)


NETS = {
    "standard": Net("small-cnn", Benign(), 3),
    "robust": Net("lenet-small", WarmStart(epsilon=EPSILON, step=0.75), 15),
    "robust-2": Net("lenet-small", SingleStep(epsilon=EPSILON), 10),
    "masked": Net("small-cnn", Benign(), 3, front=Shattered),
}

DESK = {
    "desk-fashion": Net("residual-cnn-128", SingleStep(epsilon=EPSILON), 4, desk=True),
    "desk-cifar": Net(
        "residual-cnn",
        SingleStep(epsilon=8 / 255, label_smoothing=0.1),
        6,
        dataset="cifar10",
        epsilon=8 / 255,
        desk=True,
    ),
}
ALL = NETS | DESK


def load_net(name: str, splits: Splits, cache: Path = CACHE) -> nn.Module:
    """Return a network in eval mode, trained now if it is not in the cache."""
    net = ALL[name]
    model = net.build()
    recipe = f"{net.network} {net.objective!r} {net.fit_config()!r}"
    place = cache / f"{net.network}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.safetensors"
    if place.exists():
        load_weights(place, model)
    else:
        fit(model, net.objective, splits.train, net.fit_config(), seed=derive(0, "benchmark", net.network))
        place.parent.mkdir(parents=True, exist_ok=True)
        save_weights(place, model, {"recipe": recipe})
    model = net.front(model) if net.front else model
    return model.eval()


def main() -> None:
    """Train what is missing and print clean accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(ALL))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for name in asked.nets:
        splits, started = load_dataset(ALL[name].dataset), time.perf_counter()
        model = load_net(name, splits)
        taken = time.perf_counter() - started
        print(f"{name:10s} clean accuracy {clean_accuracy(splits.test)(model):.3f}  ({taken:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
