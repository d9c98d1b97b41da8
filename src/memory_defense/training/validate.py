"""Scores on held-out images, by which the best weights are chosen; the test set never is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from memory_defense.contracts import Attack, Ball, Batch, Objective
from memory_defense.data.images import ImageSet
from memory_defense.randomness import ImageDraws


def clean_accuracy(images: ImageSet, batch_size: int = 500) -> Callable[[nn.Module], float]:
    """Return a score: accuracy on these images."""

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        correct = 0
        for start in range(0, len(images), batch_size):
            rows = torch.arange(start, min(start + batch_size, len(images)), device=images.labels.device)
            correct += int((model(images.floats(rows)).argmax(1) == images.labels[rows]).sum())
        return correct / len(images)

    return score


def robust_accuracy(images: ImageSet, attack: Attack, ball: Ball, seed: int) -> Callable[[nn.Module], float]:
    """Return a score: accuracy on what `attack` makes of these images inside `ball`."""
    clean, labels = images.floats(), images.labels
    draws = ImageDraws.of(seed, "held-out attack", images.ids, labels.device)

    def score(model: nn.Module) -> float:
        attacked = attack(model, clean, labels, ball, draws)
        with torch.no_grad():
            return float((model(attacked).argmax(1) == labels).float().mean())

    return score


def negative_objective(images: ImageSet, objective: Objective, seed: int) -> Callable[[nn.Module], float]:
    """Return a score: the objective on these images, with its sign turned so that larger is better."""
    draws = ImageDraws.of(seed, "held-out objective", images.ids, images.labels.device)
    batch = Batch(images.floats(), images.labels, images.ids, draws, 1.0)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return -float(objective(model, batch).total)

    return score
