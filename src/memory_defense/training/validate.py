"""Scores on held-out images, never on test images, by which the best weights are chosen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from memory_defense.certificates.intervals import verified
from memory_defense.contracts import Attack, Ball, Batch, Objective
from memory_defense.data.images import ImageSet
from memory_defense.randomness import ImageDraws
from memory_defense.ranks import current


def clean_accuracy(images: ImageSet, batch_size: int = 500) -> Callable[[nn.Module], float]:
    """Return a score: accuracy on these images. Several ranks share them."""
    ranks = current()
    share = ranks.rows(len(images)).to(images.labels.device)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        correct = 0
        for start in range(0, len(share), batch_size):
            rows = share[start : start + batch_size]
            correct += int((model(images.floats(rows)).argmax(1) == images.labels[rows]).sum())
        return ranks.total(correct)[0] / len(images)

    return score


def robust_accuracy(images: ImageSet, attack: Attack, ball: Ball, seed: int) -> Callable[[nn.Module], float]:
    """Return a score: accuracy on what `attack` makes of these images inside `ball`. Several ranks share them."""
    ranks = current()
    share = images.take(ranks.rows(len(images)))
    clean, labels = share.floats(), share.labels
    draws = ImageDraws.of(seed, "held-out attack", share.ids, labels.device)

    def score(model: nn.Module) -> float:
        correct = 0
        if len(share):
            attacked = attack(model, clean, labels, ball, draws)
            with torch.no_grad():
                correct = int((model(attacked).argmax(1) == labels).sum())
        return float(torch.tensor(ranks.total(correct)[0]).float() / len(images))

    return score


def certified_accuracy(images: ImageSet, ball: Ball) -> Callable[[nn.Module], float]:
    """Return a score: the share of these images proven to keep their label in `ball`, by plain intervals.

    Several ranks share them. Raises ValueError for another norm than ``linf``.
    """
    if ball.norm != "linf":
        raise ValueError(f"the ball's norm is {ball.norm!r}, but intervals certify L-inf alone; give Linf(epsilon)")
    ranks = current()
    share = images.take(ranks.rows(len(images)))
    clean, labels = share.floats(), share.labels

    def score(model: nn.Module) -> float:
        certified = 0
        if len(share):
            certified = int(verified(model, clean, labels, ball.epsilon, method="ibp").sum())
        return ranks.total(certified)[0] / len(images)

    return score


def negative_objective(images: ImageSet, objective: Objective, seed: int) -> Callable[[nn.Module], float]:
    """Return a score: the objective on these images, with its sign turned so that larger is better."""
    draws = ImageDraws.of(seed, "held-out objective", images.ids, images.labels.device)
    batch = Batch(images.floats(), images.labels, images.ids, draws, 1.0)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return -float(objective(model, batch).total)

    return score
