"""Images that a file could hold: whole grey levels, 1/255 apart, and a model that is only ever shown such.

A float image between two grey levels is in the ball, but no file holds it. A defense that notices it may answer it,
or differentiate it, otherwise than what an adversary would hand in. So every image that an attack returns is also
handed in with its pixels at whole levels, and a defense that tells the two apart is attacked through `OnGrid`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memory_defense.contracts import Ball, Classifier, Images, Logits, PerImage, Rows
from memory_defense.passes import regular
from memory_defense.randomness import ImageDraws
from memory_defense.wrappers import StraightThrough, gradient_at, rows_of

LEVELS = 255
"""Steps between black and white in a file of eight bits."""

ON_GRID = "on-grid"
"""The knowledge of whoever differentiates the defense at whole grey levels only."""

_ROOM = 1e-4
_LARGER = 2.0
"""A model moves less over half a level than over a whole one; so many times more is another branch."""

_SAME = 1e-3
_TURNED = 0.3


def at_levels(images: Images) -> Images:
    """Return the nearest images at whole levels, the very floats that reading a file gives."""
    return (images * LEVELS).round() / LEVELS


def rounded_inside(ball: Ball, points: Images, clean: Images) -> Images:
    """Return points (B, C, H, W) at whole levels inside the ball around images at whole levels.

    To the nearest level, and where that leaves the ball, to the next one towards the clean image.
    """
    nearest, base = at_levels(points), (clean * LEVELS).round()
    offset = points * LEVELS - base
    towards = (base + (offset + _ROOM * offset.sign()).trunc()) / LEVELS
    fits = ball.contains(nearest, clean).view(-1, *([1] * (clean.dim() - 1)))
    return torch.where(fits, nearest, towards)


@dataclass(frozen=True)
class OnGrid:
    """A classifier of images rounded to whole levels; on the way back rounding counts as nothing.

    Parameters
    ----------
    model
        The classifier; it never sees anything between two levels.
    """

    model: Classifier

    def __call__(self, images: Images) -> Logits:
        """Return the logits (B, K) at the nearest whole levels."""
        return self.model(StraightThrough(at_levels)(images))

    def rows(self, index: Rows) -> OnGrid:
        """Return the classifier for these rows."""
        return OnGrid(rows_of(self.model, index))


def tells_levels(model: Classifier, images: Images, ball: Ball, draws: ImageDraws) -> PerImage:
    """Return (B,) bool: the model answers, or turns its gradient, between two levels as no smooth one could.

    A random point of the ball at whole levels is compared with one at most half a level away, and with another at
    whole levels, at most one away.

    Parameters
    ----------
    model
        In eval mode, deterministic.
    images
        (B, C, H, W) at whole levels.
    ball
        Where the points are.
    draws
        One stream for each image.
    """
    shape = images.shape[1:]
    point = rounded_inside(ball, ball.random_point(images, draws.child("point")), images)
    half = (point + (draws.child("half").uniform(*shape).to(images) - 0.5) / LEVELS).clamp(0, 1)
    whole = (point + (draws.child("whole").integers(3, *shape).to(images) - 1) / LEVELS).clamp(0, 1)
    asked = regular(model)
    (here, slope), (between, tilted), (next_to, turned) = (
        _seen(asked, one) for one in (point, half, at_levels(whole))
    )
    length = _length(here).clamp_min(1e-30)
    jumps = _length(between - here) > _LARGER * _length(next_to - here) + _SAME * length
    jumps |= ~between.isfinite().all(1)
    if slope is None or tilted is None or turned is None:
        return jumps | ((slope is None) != (tilted is None))
    return jumps | (_angle(slope, tilted) > _LARGER * _angle(slope, turned) + _TURNED)


def _seen(model: Classifier, images: Images) -> tuple[Logits, Tensor | None]:
    """Return the logits, and the gradient of the lead of the first answer over the mean; None without any."""
    found: list[Logits] = []

    def lead() -> Tensor:
        logits = model(leaf)
        found.append(logits.detach())
        return (logits.amax(1) - logits.mean(1)).sum()

    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        gradient = gradient_at(leaf, lead)
    return found[-1], gradient


def _length(offset: Tensor) -> PerImage:
    return offset.flatten(1).square().sum(1).sqrt()


def _angle(one: Tensor, other: Tensor) -> PerImage:
    """Return (B,) 1 less the cosine of two gradients; 0 where both vanish."""
    lengths = _length(one) * _length(other)
    cosine = (one * other).flatten(1).sum(1) / lengths.clamp_min(1e-30)
    both = (_length(one) == 0) & (_length(other) == 0)
    return torch.where(both, 0.0, 1 - cosine)
