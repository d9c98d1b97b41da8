"""The loop of plain gradient steps that PGD and its variants share.

    x_0 = a start;   x_{k+1} = P(x_k + size_k * ascent(grad loss_k(x_k)))

The logits that come with a gradient also judge the iterate it was taken at, so no pass is spent on judging
but one at the very end. An image leaves the loop at the first iterate that fools the model; one that never
does is returned at its iterate of highest score, which is what a different model is most likely to mistake.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from memory_defense.attacks.engine import Victim, reached
from memory_defense.contracts import Ball, Draws, Images, Logits, PerImage, Rows
from memory_defense.losses import AdversarialLoss


def cosine_steps(epsilon: float, steps: int) -> list[float]:
    """Return the step sizes ``epsilon * (1 + cos(pi * k / steps))``: first across the ball, then ever finer."""
    return [epsilon * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]


def check_step_size(step_size: float | None) -> None:
    """Raise ValueError unless the size is positive and finite, or None."""
    if step_size is not None and not 0 < step_size < math.inf:
        raise ValueError(f"step_size is {step_size}, expected a positive number of pixel units or None")


def step_sizes(step_size: float | None, epsilon: float, steps: int) -> list[float]:
    """Return the constant sizes, or `cosine_steps` where `step_size` is None.

    Raises
    ------
    ValueError
        For None in an unbounded ball.
    """
    if step_size is not None:
        return [step_size] * steps
    if math.isinf(epsilon):
        raise ValueError("the ball is unbounded, so step_size=None has no meaning; give a step_size")
    return cosine_steps(epsilon, steps)


def always(loss: AdversarialLoss) -> Callable[[int, Rows], AdversarialLoss]:
    """Return what `Climb.run` asks for where every step and every image has the same loss."""

    def loss_of(step: int, rows: Rows) -> AdversarialLoss:
        del step, rows
        return loss

    return loss_of


class Climb:
    """The state of one call: the best iterate that every image has seen, over any number of runs.

    Parameters
    ----------
    victim, images, ball
        What is attacked.
    score
        What an iterate is ranked by; need not be the loss that is climbed.
    targeted
        The labels are the classes to reach, not the ones to leave.
    stop_when_fooled
        Leave an image alone from the first iterate that fools the model. Otherwise every image takes every
        step of every run, and rests at its highest score.
    """

    def __init__(
        self,
        victim: Victim,
        images: Images,
        ball: Ball,
        *,
        score: AdversarialLoss,
        targeted: bool = False,
        stop_when_fooled: bool,
    ) -> None:
        self.victim, self.images, self.ball = victim, images, ball
        self.score, self.targeted, self.stop_when_fooled = score, targeted, stop_when_fooled
        self.best = images.clamp(0, 1)
        self.best_score = images.new_full((len(images),), -math.inf)

    def begin(self) -> tuple[Rows, Logits]:
        """Judge the clean images; return the rows that go on, and all logits (N, K)."""
        rows = self.victim.all_rows()
        seen = [self._judge(self.images, part) for part in self.victim.parts(rows)]
        return torch.cat([part for part, _ in seen]), torch.cat([logits for _, logits in seen])

    def random_points(self, rows: Rows, draws: Draws) -> Images:
        """Return all images (N, C, H, W), with these rows at a random point of their ball."""
        points = self.images.clone()
        for part in self.victim.parts(rows):
            start = self.ball.random_point(self.images[part], draws.rows(part.cpu()))
            points.index_copy_(0, part, start)
        return points

    def run(
        self,
        points: Images,
        rows: Rows,
        sizes: Sequence[float],
        loss_of: Callable[[int, Rows], AdversarialLoss],
        *,
        judge: bool = True,
    ) -> Rows:
        """Climb once with these rows; return those that go on.

        Parameters
        ----------
        points
            (N, C, H, W) where to start; moved in place.
        rows
            Positions of the images that climb.
        sizes
            The length of every step in pixel units.
        loss_of
            The loss of one step, counted from 0, for a micro-batch with these rows.
        judge
            Spend a pass on the last iterates. Otherwise they are taken without one.
        """
        for step, size in enumerate(sizes):
            survivors = [self._step(points, part, size, loss_of(step, part)) for part in self.victim.parts(rows)]
            rows = torch.cat(survivors) if survivors else rows
        if not judge:
            self.best.index_copy_(0, rows, points.index_select(0, rows))
            return rows
        return torch.cat([rows[:0], *(self._judge(points, part)[0] for part in self.victim.parts(rows))])

    def _step(self, points: Images, rows: Rows, size: float, loss: AdversarialLoss) -> Rows:
        """Judge one micro-batch and move its survivors one step, in place; return their rows."""
        here = points.index_select(0, rows)
        seen = self.victim.gradient(here, rows, loss)
        scores = seen.losses if loss is self.score else self._scores(seen.logits, rows, here)
        keep = self._record(here, rows, scores, seen.logits)
        gradient = seen.gradient
        if keep is not None:
            here, rows, gradient = here[keep], rows[keep], gradient[keep]
        moved = here.add_(self.ball.ascent(gradient), alpha=size)
        points.index_copy_(0, rows, self.ball.project(moved, self.images.index_select(0, rows)))
        return rows

    def _judge(self, points: Images, rows: Rows) -> tuple[Rows, Logits]:
        """Judge one micro-batch without moving it; return its survivors and its logits."""
        here = points.index_select(0, rows)
        logits = self.victim.answers(here, rows)
        keep = self._record(here, rows, self._scores(logits, rows, here), logits)
        return rows if keep is None else rows[keep], logits

    def _scores(self, logits: Logits, rows: Rows, like: Images) -> PerImage:
        return self.score(logits, self.victim.labels.index_select(0, rows)).to(like.dtype)

    def _record(self, here: Images, rows: Rows, scores: PerImage, logits: Logits) -> PerImage | None:
        """Store what is worth keeping; return which rows go on, None for all of them."""
        better = scores > self.best_score.index_select(0, rows)
        keep = None
        if self.stop_when_fooled:
            fooled = reached(logits, self.victim.labels.index_select(0, rows), self.targeted)
            if bool(fooled.any()):
                keep, better = ~fooled, better | fooled
        chosen = better.nonzero().squeeze(1)
        if len(chosen) < len(rows):
            here, rows, scores = here.index_select(0, chosen), rows.index_select(0, chosen), scores[chosen]
        self.best.index_copy_(0, rows, here)
        self.best_score.index_copy_(0, rows, scores)
        return keep
