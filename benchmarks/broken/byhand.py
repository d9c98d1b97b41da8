"""Attacks written out by hand, apart from the library's own, so that an error there does not hide itself here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from memory_defense.contracts import Classifier, Images, Labels, Logits, PerImage

Loss = Callable[[Logits, Labels], PerImage]
"""What an attack climbs: (B, K) and (B,) to (B,)."""


def cross_entropy(logits: Logits, labels: Labels) -> PerImage:
    """Return the cross-entropy, which is 0 with a gradient of 0 where the softmax rounds to one class."""
    return F.cross_entropy(logits, labels, reduction="none")


def lead(logits: Logits, labels: Labels) -> PerImage:
    """Return by how much the best wrong class is ahead of the right one."""
    own = labels[:, None]
    return logits.scatter(1, own, -torch.inf).amax(1) - logits.gather(1, own).squeeze(1)


@dataclass(frozen=True)
class Towards:
    """By how much one wrong class of each image, (B,), is ahead of the right one."""

    classes: Labels

    def __call__(self, logits: Logits, labels: Labels) -> PerImage:
        """Return (B,) the lead of that class."""
        return (logits.gather(1, self.classes[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class Climb:
    """Sign steps up a loss inside an L-inf ball."""

    on: Classifier
    """What is differentiated: the defense itself, or a stand-in for it."""
    loss: Loss = cross_entropy
    steps: int = 10
    step: float | None = None
    """Length of a step in units of epsilon; None begins with 1 and shrinks to a hundredth along a cosine."""
    starts: int = 1
    """Ascents from other random points of the ball; 0 begins once, at the clean image."""
    ranks: int = 0
    """Further ascents, one towards each of so many wrong classes, those ahead at the clean image first."""
    samples: int = 1
    """Calls that each gradient is averaged over: the expectation, where a defense draws."""
    spread: float = 0.0
    """Half the side of the cube, in units of epsilon, within which a gradient is taken at random points."""
    differences: int = 0
    """Directions of central finite differences in place of a gradient, `spread` away; 0 differentiates."""
    tries: int = 1
    """Images handed in for each ascent: its end, and others a hundredth of epsilon away."""

    def __call__(self, images: Images, labels: Labels, epsilon: float, seed: int = 0) -> list[Images]:
        """Return the point where each ascent ended, inside the ball and inside [0, 1]."""
        draws = torch.Generator().manual_seed(seed)
        losses = [self.loss] * max(1, self.starts)
        if self.ranks:
            with torch.no_grad():
                others = self.on(images).scatter(1, labels[:, None], -torch.inf)
            losses += [Towards(one) for one in others.topk(self.ranks, 1).indices.unbind(1)]
        ends = [self._ascent(loss, images, labels, epsilon, draws) for loss in losses]
        near = ((end, _cube(end, draws)) for end in ends for _ in range(self.tries - 1))
        return [*ends, *(_inside(end + 0.01 * epsilon * away, images, epsilon) for end, away in near)]

    def _ascent(self, loss: Loss, images: Images, labels: Labels, epsilon: float, draws: torch.Generator) -> Images:
        points = images
        if self.starts:
            points = _inside(images + epsilon * _cube(images, draws), images, epsilon)
        for number in range(self.steps):
            length = self.step or 0.505 + 0.495 * math.cos(math.pi * number / self.steps)
            gradient = self._gradient(loss, points, labels, epsilon, draws)
            points = _inside(points + epsilon * length * gradient.sign(), images, epsilon)
        return points

    def _gradient(
        self, loss: Loss, points: Images, labels: Labels, epsilon: float, draws: torch.Generator
    ) -> Tensor:
        total = torch.zeros_like(points)
        for _ in range(self.differences):
            away = epsilon * self.spread * torch.randint(0, 2, points.shape, generator=draws).mul(2).sub(1)
            with torch.no_grad():
                rise = loss(self.on(points + away), labels) - loss(self.on(points - away), labels)
            total += rise[:, None, None, None] * away
        for _ in range(0 if self.differences else self.samples):
            near = points + epsilon * self.spread * _cube(points, draws) if self.spread else points
            leaf = near.detach().requires_grad_()
            found = loss(self.on(leaf), labels).sum()
            gradient = torch.autograd.grad(found, leaf, allow_unused=True)[0] if found.requires_grad else None
            if gradient is not None:
                total += gradient.nan_to_num(0.0)
        return total


def _cube(like: Images, draws: torch.Generator) -> Tensor:
    return 2 * torch.rand(like.shape, generator=draws) - 1


def _inside(points: Images, images: Images, epsilon: float) -> Images:
    return torch.minimum(torch.maximum(points, images - epsilon), images + epsilon).clamp(0, 1).detach()
