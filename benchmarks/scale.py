"""What attacks and training cost: passes, FLOP and bytes for each image, and from them hours on GPUs.

Passes are counted on a small CNN, once where every image survives (the true class is raised out of reach) and once
where images fall; they do not depend on the network otherwise. FLOP and bytes of one pass are counted for each
network, operation by operation. Hours are those numbers divided by what a card reaches; nothing is timed here.

    python benchmarks/scale.py            # counts, writes results/scale.json and the tables of docs/scale.md
    python benchmarks/scale.py --tables   # only the tables, from the file
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memory_defense.attacks import ATTACKS, Pgd
from memory_defense.contracts import Attack, Images, Logits
from memory_defense.networks.classifiers import CLASSIFIERS
from memory_defense.networks.resnet import ResNet
from memory_defense.passes import regular
from memory_defense.randomness import ImageDraws, generator, seeded
from memory_defense.threat import L2, Linf
from memory_defense.training.speed import CountFlop
from memory_defense.wrappers import CountingPasses
from scale_tables import write_tables

RESULT = Path(__file__).parent / "results" / "scale.json"
IMAGES = 16
JOBS: dict[str, Attack] = {name: kind() for name, kind in ATTACKS.items()} | {
    "pgd-10, training": Pgd(steps=10, stop_when_fooled=False)
}
L2_ONLY = ("cw", "ddn", "fmn")
OUT_OF_REACH = 1e4


class CountBytes(TorchDispatchMode):
    """Count the bytes of tensors that operations read and write, as if each went to memory; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation and count it."""
        del types
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            leaves = tree_leaves((args, kwargs or {}, result))
            self.total += sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, Tensor))
        return result


@dataclass(frozen=True)
class Raised:
    """A classifier whose class 0 is out of reach, so that no image of class 0 ever falls; gradients are its own."""

    model: nn.Module

    def __call__(self, images: Images) -> Logits:
        """Return the logits (B, K) with the first one raised."""
        logits = self.model(images)
        return logits + OUT_OF_REACH * torch.nn.functional.one_hot(logits.new_zeros((), dtype=torch.long), 10)


@dataclass(frozen=True)
class Pass:
    """One image once through a network, in float32."""

    parameters: int
    forward_flop: float
    backward_flop: float
    """With respect to the image only, as an attack does; the weights are frozen."""
    training_flop: float
    """Forward and backward, with respect to the weights."""
    forward_bytes: float
    attack_bytes: float
    """Forward and backward."""
    training_bytes: float


def build(name: str, channels: int, size: int, classes: int = 10) -> nn.Module:
    """Return an untrained network: cost does not depend on the weights."""
    grey = {"channels": channels, "classes": classes, "mean": (0.5,) * channels, "std": (0.25,) * channels}
    with seeded(0, "scale"):
        if size <= 128:
            return CLASSIFIERS[name](size=size, **grey)
        network = ResNet(
            size=128, layers=50, stem_pool=True, **grey
        )  # it takes any size; ImageNet's stem is coarser
        network.stem[0] = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        return network


def cost_of_pass(network: nn.Module, channels: int, size: int, batch: int) -> Pass:
    """Count one pass in batches of this many images, over which the weights' bytes are shared."""
    images = torch.rand(batch, channels, size, size, generator=generator(0, "scale", size))

    def forward() -> None:
        with torch.no_grad():
            network(images)

    def attack() -> None:
        leaf = images.clone().requires_grad_()
        torch.autograd.grad(network(leaf).sum(), leaf)

    def training() -> None:
        network(images).sum().backward()

    counted: dict[str, tuple[float, float]] = {}
    for name, step in (("forward", forward), ("attack", attack), ("training", training)):
        network.train(name == "training").requires_grad_(name == "training")
        with CountFlop() as flop, CountBytes() as moved:
            step()
        counted[name] = (flop.total / batch, moved.total / batch)
    return Pass(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        forward_flop=counted["forward"][0],
        backward_flop=counted["attack"][0] - counted["forward"][0],
        training_flop=counted["training"][0],
        forward_bytes=counted["forward"][1],
        attack_bytes=counted["attack"][1],
        training_bytes=counted["training"][1],
    )


def passes(name: str, model: Callable[[Images], Logits], images: Images, labels: Tensor) -> dict[str, float]:
    """Return how often an image goes forward and back in an attack with its default settings."""
    counting = CountingPasses(model)
    ball = L2(0.5) if name in L2_ONLY else Linf(8 / 255)
    JOBS[name](regular(counting), images, labels, ball, ImageDraws.of(0, "scale", len(images)))
    return {"forward": counting.passes.forward / len(images), "backward": counting.passes.backward / len(images)}


def count_passes() -> dict[str, dict[str, dict[str, float]]]:
    """Return the passes of every attack, where images survive and where they fall."""
    network = build("small-cnn", 1, 28).eval()
    images = torch.rand(IMAGES, 1, 28, 28, generator=generator(0, "scale", "victims"))
    with torch.no_grad():
        answers = network(images).argmax(1)
    counted: dict[str, dict[str, dict[str, float]]] = {}
    for name in JOBS:
        counted[name] = {
            "survive": passes(name, Raised(network), images, torch.zeros(IMAGES, dtype=torch.long)),
            "fall": passes(name, network, images, answers),
        }
        print(f"{name}: {counted[name]}", flush=True)
    return counted


NETWORKS = {
    "small CNN, 28 px": ("small-cnn", 1, 28, 10),
    "small CNN, 32 px": ("small-cnn", 3, 32, 10),
    "ResNet-18, 28 px": ("resnet18", 1, 28, 10),
    "ResNet-18, 32 px": ("resnet18", 3, 32, 10),
    "ResNet-50, 28 px": ("resnet50", 1, 28, 10),
    "ResNet-50, 32 px": ("resnet50", 3, 32, 10),
    "ResNet-50, 224 px": ("resnet50", 3, 224, 1000),
}


def main() -> None:
    """Count, write the numbers, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="write the tables from the numbers that are there")
    if not parser.parse_args().tables:
        networks: dict[str, object] = {}
        for title, (name, channels, size, classes) in NETWORKS.items():
            network = build(name, channels, size, classes)
            networks[title] = asdict(cost_of_pass(network, channels, size, 2 if size > 128 else 32))
            print(title, networks[title], flush=True)
        found = {
            "torch": torch.__version__,
            "machine": platform.machine(),
            "images": IMAGES,
            "networks": networks,
            "passes": count_passes(),
        }
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_tables(json.loads(RESULT.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
