"""Scores on held-out images, never on test images, by which the best weights are chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from memory_defense.certificates.intervals import verified
from memory_defense.contracts import Attack, Ball, Batch, Objective, Rows
from memory_defense.data.images import ImageSet
from memory_defense.randomness import ImageDraws
from memory_defense.ranks import current

Validate = Callable[[nn.Module], float]
"""Scores a model on held-out images; larger is better."""

_LARGE = 3 * 128 * 128
"""Numbers of an image's pixels from which held-out images are attacked a few at a time."""
_FEW = 32
"""How many of such images are attacked at a time."""


def _unheard() -> None:
    return None


@dataclass
class Counting:
    """How far a score is: whoever is stopped in its middle goes on from there."""

    counts: list[int] = field(default_factory=list[int])
    """Images that are right, chunk by chunk, as far as they are known."""
    heard: Callable[[], None] = _unheard
    """Told after each chunk."""


@runtime_checkable
class Counted(Protocol):
    """A score that is made chunk by chunk."""

    counted: Counting

    def __call__(self, model: nn.Module) -> float:
        """Return the score."""
        ...


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


@dataclass
class RobustAccuracy:
    """A score: accuracy on what `attack` makes of these images inside `ball`.

    Parameters
    ----------
    images
        This process's share of the held-out images.
    total
        How many all processes have.
    attack, ball
        What they are attacked with.
    draws
        Of the attack.
    """

    images: ImageSet
    total: int
    attack: Attack
    ball: Ball
    draws: ImageDraws
    counted: Counting = field(default_factory=Counting)

    def __call__(self, model: nn.Module) -> float:
        """Return the accuracy in [0, 1]."""
        size = len(self.images) if self.images.images[:1].numel() <= _LARGE else _FEW
        counts = self.counted.counts
        everyone = torch.arange(len(self.images), device=self.images.labels.device)
        for rows in torch.split(everyone, max(size, 1))[len(counts) :]:
            if len(rows):
                counts.append(self._right(model, rows))
                self.counted.heard()
        return float(torch.tensor(current().total(sum(counts))[0]).float() / self.total)

    def _right(self, model: nn.Module, rows: Rows) -> int:
        labels = self.images.labels[rows]
        attacked = self.attack(model, self.images.floats(rows), labels, self.ball, self.draws.rows(rows))
        with torch.no_grad():
            return int((model(attacked).argmax(1) == labels).sum())


def robust_accuracy(images: ImageSet, attack: Attack, ball: Ball, seed: int) -> RobustAccuracy:
    """Return a score: accuracy on what `attack` makes of these images inside `ball`. Several ranks share them."""
    share = images.take(current().rows(len(images)))
    draws = ImageDraws.of(seed, "held-out attack", share.ids, share.labels.device)
    return RobustAccuracy(share, len(images), attack, ball, draws)


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
