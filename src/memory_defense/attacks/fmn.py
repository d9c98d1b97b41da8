"""Fast minimum norm (Pintor et al. 2021, arXiv 2102.12827): the smallest L2 or L-inf change that fools.

    x_{k+1} = clip(P_{eps_{k+1}}(x_k + size_k * g / ||g||_2)),   g the gradient of the lead L of a wrong class

The radius of the projection P is the estimated distance of the boundary, ``||x_k - clean|| + |L| / ||g||_*``,
until an image is fooled; from then on it shrinks by ``1 - gamma_k`` where x_k fools the model, never above the
closest distance found, and grows by ``1 + gamma_k`` where it does not (their Algorithm 1). Here the
radius grows by ``1 + gamma_k`` before that too, from the larger of itself and the estimate: a linear boundary
is otherwise met exactly and never crossed, and a step that the box cuts short is repeated for ever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from memory_defense.attacks.calls import checked
from memory_defense.attacks.closest import SmallestChange, check_search, column
from memory_defense.attacks.engine import attacked
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, PerImage
from memory_defense.threat import L2

_LAST_STEP = 0.01
"""The gradient step falls to this share of itself along a cosine."""

_LAST_GAMMA = 0.001


@dataclass(frozen=True, kw_only=True)
class Fmn(SmallestChange):
    """Pintor et al.'s attack in the ball's own norm; returns the closest image found that fools the model.

    An image for which none is found inside the ball comes back unchanged, as does one already mistaken.

    Parameters
    ----------
    step_size
        Length of the first gradient step in pixel units, Euclidean in either norm, positive.
    gamma
        Share by which the radius moves in the first step, in (0.001, 1); it falls to 0.001 along a cosine.
    steps, confidence, best_effort, stop_when_fooled, targeted, micro_batch
        See `memory_defense.attacks`.
    """

    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05
    confidence: float = 0.0
    best_effort: bool = False
    stop_when_fooled: bool = False
    targeted: bool = False
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        lengths = {"step_size": self.step_size}
        check_search(self.confidence, self.micro_batch, {"gamma": self.gamma}, lengths, steps=self.steps)
        if self.gamma <= _LAST_GAMMA:
            raise ValueError(f"gamma is {self.gamma}, but it falls to {_LAST_GAMMA}, so start above that")

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        del draws  # nothing is random
        with attacked(model, images, labels, self.micro_batch, exact=True) as victim:
            clean = images.clamp(0, 1)
            if ball.epsilon == 0:
                return clean
            found = self.closest(victim, clean, ball)
            rows, _ = found.start()
            points = clean.clone()
            limit = found.reach()
            radius = torch.zeros_like(limit)
            for step in range(self.steps):
                decay = (1 + math.cos(math.pi * step / self.steps)) / 2
                size = self.step_size * (_LAST_STEP + (1 - _LAST_STEP) * decay)
                gamma = _LAST_GAMMA + (self.gamma - _LAST_GAMMA) * decay
                for part in victim.parts(rows):
                    here, centre = points[part], clean[part]
                    seen = victim.gradient(here, part, found.lead)
                    fooled = found.record(here, part, seen.logits)
                    slope = dual_norm(ball, seen.gradient).clamp(min=1e-12)
                    boundary = ball.distance(here, centre) + seen.losses.abs() / slope
                    estimate = torch.where(found.distance[part].isinf(), boundary, 0)
                    missed = torch.maximum(radius[part], estimate) * (1 + gamma)
                    shrunk = torch.minimum(radius[part] * (1 - gamma), found.distance[part])
                    radius[part] = torch.minimum(torch.where(fooled, shrunk, missed), limit[part])
                    offset = (here - centre).add_(L2(1.0).ascent(seen.gradient), alpha=size)
                    points[part] = shorten(ball, offset, radius[part]).add_(centre).clamp_(0, 1)
                rows = found.unfinished(rows)
            for part in victim.parts(rows):
                found.record(points[part], part, victim.answers(points[part], part))
            return found.result()


def dual_norm(ball: Ball, gradient: Tensor) -> PerImage:
    """Return (B,) how fast a loss with this gradient rises for each unit of the ball's norm."""
    return (gradient * ball.ascent(gradient)).flatten(1).sum(1)


def shorten(ball: Ball, offset: Tensor, radius: PerImage) -> Tensor:
    """Return offsets (B, C, H, W) projected to a radius (B,) of their own, without lengthening any."""
    if ball.norm == "linf":
        return torch.minimum(torch.maximum(offset, -column(radius)), column(radius))
    length = offset.square().flatten(1).sum(1).sqrt()
    return offset * column((radius / length.clamp(min=1e-12)).clamp(max=1))
