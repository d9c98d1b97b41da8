"""A small dataset of Fashion-MNIST's shape, and the tiny recipe trained on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from memory_defense.data.decode import Arrays
from memory_defense.data.images import Splits, split
from memory_defense.data.spec import DATASETS
from memory_defense.randomness import ImageDraws
from memory_defense.recipes.fashion_mnist import TINY
from memory_defense.run_directory import RunDirectory
from memory_defense.workflows.train import train


def made_up_splits(held_out: int = 50) -> Splits:
    """Return 300 training images, of which some are held out, and 100 test images; class k has a bright bar."""
    spec = replace(DATASETS["fashion-mnist"], held_out_images=held_out)
    labels = (torch.arange(400) % 10).to(torch.uint8)
    images = (ImageDraws.of(0, "made up", 400).uniform(1, 28, 28) * 120).to(torch.uint8)
    for row, label in enumerate(labels.tolist()):
        images[row, 0, 2 * label : 2 * label + 4] += 120
    return split(Arrays(images[:300], labels[:300], images[300:], labels[300:]), spec)


def tiny_run(path: Path, splits: Splits) -> RunDirectory:
    """Return a finished run of the tiny recipe."""
    return train(TINY, path, splits, seed=3)
