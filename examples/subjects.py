"""What the examples attack: a trained defense with test images of its dataset, or a toy that needs neither."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import memory_defense
from memory_defense.data.images import load_dataset
from memory_defense.defenses.memory.presets import build_memory_defense
from memory_defense.networks.classifiers import CLASSIFIERS

SIZE = 28
CLASSES = ("across", "down", "falling", "rising")


@dataclass(frozen=True)
class Subject:
    """A defense, images (N, C, H, W) in [0, 1] that belong to it, and their labels (N,)."""

    defense: nn.Module
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def of_run(place: Path, count: int, dataset: str, data_dir: Path | None) -> Subject:
    """Return a trained defense (a run directory, or what `memdef export` wrote) and its first test images."""
    splits = load_dataset(dataset, data_dir=data_dir)
    test = splits.test.first(count)
    return Subject(memory_defense.load(place), test.floats(), test.labels, splits.spec.classes)


def toy_images(count: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return noisy grey images (N, 1, 28, 28) of stripes in four directions, and their labels."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % len(CLASSES)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    phases = torch.stack([rows, columns, rows + columns, rows - columns])[labels] * 0.5  # (N, H, W)
    shift = torch.rand(count, 1, 1, generator=draws)
    stripes = 0.5 + 0.3 * torch.sin(phases + shift)
    noise = 0.05 * torch.randn(count, SIZE, SIZE, generator=draws)
    return (stripes + noise).clamp(0, 1)[:, None], labels, CLASSES


def synthetic(count: int) -> Subject:
    """Return a Memory Defense trained for a second on toy images: enough to be attacked, not to be judged."""
    images, labels, classes = toy_images(max(count, 80))
    torch.manual_seed(0)
    shape = {"channels": 1, "size": SIZE, "classes": len(classes), "mean": (0.5,), "std": (0.25,)}
    defense = build_memory_defense(selector=CLASSIFIERS["linear"](**shape), memory_size=40, **shape)
    _fit(defense.selector, lambda: nn.functional.cross_entropy(defense.selector(images), labels), 60)
    _fit(defense, lambda: nn.functional.cross_entropy(defense.answer(images, labels), labels), 60)
    return Subject(defense.eval(), images[:count], labels[:count], classes)


def _fit(module: nn.Module, loss: Callable[[], Tensor], steps: int) -> None:
    module.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
