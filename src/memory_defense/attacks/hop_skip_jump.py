"""HopSkipJump (Chen, Jordan & Wainwright 2020, arXiv 1904.02144): the nearest wrong answer, from labels alone.

A round stands at a wrong answer x_t just behind the boundary. With phi = +1 for a wrong answer, -1 for a right one:

    v      = sum_b (phi(x_t + delta u_b) - mean phi) u_b,  u_b random       the boundary's normal (their Eq. 16)
    x'     = x_t + xi ascent(v),  xi = ||x_t - clean|| / sqrt(t), halved until x' is wrong
    x_t+1  = the end of the bisection from x' towards the clean image

Nothing but labels leaves the `LabelsOnly` victim. What happens to an image depends on its own
draws and its own budget only. The rounds are in `hop_skip_jump_search`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch.nn import functional as F

from memory_defense.attacks.closest import Closest, check_search, column
from memory_defense.attacks.engine import Victim, attacked, reached
from memory_defense.attacks.hop_skip_jump_search import Budget, Search
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, Logits, Rows


@dataclass(frozen=True, kw_only=True)
class HopSkipJump:
    """HopSkipJump in the ball's own norm, L-inf or L2; returns the closest image found that fools the model.

    An image for which nothing is found inside the ball comes back unchanged, as does one already mistaken.

    Parameters
    ----------
    queries
        The most calls of the model for one image, at least 1; the clean image and the result cost one more each.
    steps
        The most rounds, at least 1. Round t asks ``evaluations * sqrt(t)`` times for a direction, so 5000
        queries are spent after about 16 of them.
    evaluations
        Calls for the first direction, at least 1. The last one makes do with what the budget leaves.
    starts
        Random images that are tried as a start, at least 1: uniform noise in cells of 1, 2, 4 and 8 pixels in
        turn, as some models have one answer for all fine noise. If none is wrong, nothing is found.
    gamma
        How coarse bisections are, positive: they end within ``gamma / D^(3/2)`` of the way in L2 and
        ``gamma / D^2`` in L-inf for D pixels, and directions are probed at ``gamma / D`` of the distance.
    stop_when_fooled
        Leave an image alone once something inside the ball is found; its distance is then no minimum.
    push
        Move the closest image found along its own change to the surface of the ball (in an unbounded one, to
        twice the distance): from inside unless that undoes its success, and from outside.
    micro_batch
        Images in one pass; None is 256 on a CPU and 512 elsewhere.

    Raises
    ------
    ValueError
        For a value outside these ranges.
    """

    queries: int = 5000
    steps: int = 64
    evaluations: int = 100
    starts: int = 100
    gamma: float = 1.0
    stop_when_fooled: bool = True
    push: bool = False
    micro_batch: int | None = None
    gradient_free: ClassVar[bool] = True
    hard_label: ClassVar[bool] = True

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("queries", "steps", "evaluations", "starts")}
        check_search(0.0, self.micro_batch, {}, {"gamma": self.gamma}, **counts)

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        with attacked(model, images, labels, self.micro_batch) as scored:
            victim = LabelsOnly(scored)
            clean = images.clamp(0, 1)
            if ball.epsilon == 0:
                return clean
            found = Closest(
                victim,
                clean,
                ball,
                confidence=0.0,
                targeted=False,
                best_effort=False,
                stop_when_fooled=self.stop_when_fooled,
            )
            rows, _ = found.start()
            search = Search(found, draws, Budget(self.queries, self.evaluations), self.gamma)
            rows = search.begin(rows, self.starts)
            for step in range(1, self.steps + 1):
                rows = search.round(rows, step)
            return _pushed(found) if self.push else found.result()

    def for_transfer(self) -> Self:
        """Return the same attack with `push` and no early stops.

        Labels tell no confidence to ask for. What another model may mistake is the change itself, at full length.
        """
        return replace(self, stop_when_fooled=False, push=True)


class LabelsOnly(Victim):
    """A victim that gives nothing but its answer away: 1 for the class it chooses, 0 for all others.

    Parameters
    ----------
    victim
        What is attacked.
    """

    def __init__(self, victim: Victim) -> None:
        super().__init__(victim.model, victim.labels, victim.micro_batch)

    def answers(self, points: Images, rows: Rows) -> Logits:
        """Return the choices as (B, K); see `Victim.answers`."""
        logits = super().answers(points, rows)
        return F.one_hot(logits.argmax(1), logits.shape[1]).to(points.dtype)


def _pushed(found: Closest) -> Images:
    """Return the closest images found at the surface of the ball, or further inside where only that fools."""
    result, victim, ball = found.result(), found.victim, found.ball
    rows = ((found.distance > 0) & found.distance.isfinite()).nonzero().squeeze(1)
    for part in victim.parts(rows):
        clean, length = found.clean[part], found.distance[part]
        stretch = ball.epsilon / length if math.isfinite(ball.epsilon) else torch.full_like(length, 2.0)
        moved = ball.project(clean + (found.best[part] - clean) * column(stretch), clean)
        keep = reached(victim.answers(moved, part), victim.labels[part]) | (length > ball.epsilon)
        result[part] = torch.where(column(keep), moved, result[part])
    return result
