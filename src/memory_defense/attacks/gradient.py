"""Gradient steps inside a ball: FGSM, BIM and PGD are settings of one loop.

    x_0 = clean, or a random point of the ball;   x_{k+1} = P(x_k + size_k * ascent(grad loss(x_k)))

The logits that come with a gradient also judge the iterate it was taken at, so no pass is spent on judging
but one at the very end. An image leaves the loop at the first iterate that fools the model; one that never
does is returned at its iterate of highest loss, which is what a different model is most likely to mistake.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from memory_defense.attacks.engine import Victim, ascent_loss, attacked, check_settings, reached
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, Rows


@dataclass(frozen=True, kw_only=True)
class Pgd:
    """Projected gradient descent (Madry et al. 2018, arXiv 1706.06083), in the ball's own norm.

    Parameters
    ----------
    steps
        Gradient steps of one restart, at least 1.
    step_size
        Length of every step in pixel units. None starts at the ball's diameter and shrinks to nothing along a
        cosine (`cosine_steps`), which fools more images in 10 steps than a constant size does in 40.
    random_start
        Start at a random point of the ball. The clean image counts as an iterate either way.
    restarts
        Independent random starts, at least 1; each works on what the earlier ones did not fool.
    loss
        A name of `losses.LOSSES`. The cross-entropy is followed through `engine.log_odds`.
    targeted
        The labels are the classes to reach, not the ones to leave.
    stop_when_fooled
        Leave an image alone from the first iterate that fools the model, the clean one included. Otherwise
        every image takes every step of every restart and is returned at its highest loss.
    micro_batch
        Images in one pass; None is 64 on a CPU and 512 elsewhere.

    Raises
    ------
    ValueError
        For a count below 1, a step size that is not positive, an unknown loss, or restarts that would all
        start at the clean image.
    """

    steps: int = 40
    step_size: float | None = None
    random_start: bool = True
    restarts: int = 1
    loss: str = "cross-entropy"
    targeted: bool = False
    stop_when_fooled: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        check_settings(self.loss, self.micro_batch, steps=self.steps, restarts=self.restarts)
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size is {self.step_size}, expected a positive number of pixel units or None")
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts is {self.restarts}, but without random_start all of them are the same")

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        with attacked(model, images, labels, self.micro_batch) as victim:
            if ball.epsilon == 0:
                return images.clamp(0, 1)
            climb = _Climb(self, victim, images, ball)
            rows = victim.all_rows()
            if self.random_start and self.stop_when_fooled:
                rows = climb.judge(images, rows)
            for restart in range(self.restarts):
                rows = climb.run(rows, draws.child("restart", restart))
            return climb.best

    def for_transfer(self) -> Self:
        """Return the same attack without early stops: highest loss instead of first success."""
        return replace(self, stop_when_fooled=False)


@dataclass(frozen=True, kw_only=True)
class Bim:
    """Basic iterative method (Kurakin et al. 2017, arXiv 1607.02533): `Pgd` from the clean image.

    Parameters and errors are `Pgd`'s. A step size above epsilon is allowed, as the paper's settings ask for
    it: the iterates then jump between corners of the ball.
    """

    steps: int = 10
    step_size: float | None = None
    loss: str = "cross-entropy"
    targeted: bool = False
    stop_when_fooled: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        self._as_pgd()

    def _as_pgd(self) -> Pgd:
        return Pgd(
            steps=self.steps,
            step_size=self.step_size,
            random_start=False,
            loss=self.loss,
            targeted=self.targeted,
            stop_when_fooled=self.stop_when_fooled,
            micro_batch=self.micro_batch,
        )

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        return self._as_pgd()(model, images, labels, ball, draws)

    def for_transfer(self) -> Self:
        """Return the same attack without early stops: highest loss instead of first success."""
        return replace(self, stop_when_fooled=False)


@dataclass(frozen=True, kw_only=True)
class Fgsm:
    """Fast gradient sign method (Goodfellow et al. 2015, arXiv 1412.6572): one step to the ball's surface.

    In an L2 ball the step is along the gradient itself. Parameters and errors are `Pgd`'s. Images that the
    model already mistakes stay as they are unless `stop_when_fooled` is off.
    """

    loss: str = "cross-entropy"
    targeted: bool = False
    stop_when_fooled: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        check_settings(self.loss, self.micro_batch)

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        if math.isinf(ball.epsilon):
            raise ValueError("one step cannot reach the surface of an unbounded ball; give it a finite epsilon")
        once = Pgd(
            steps=1,
            step_size=ball.epsilon or None,
            random_start=False,
            loss=self.loss,
            targeted=self.targeted,
            stop_when_fooled=self.stop_when_fooled,
            micro_batch=self.micro_batch,
        )
        return once(model, images, labels, ball, draws)

    def for_transfer(self) -> Self:
        """Return the same attack stepping on every image, also on those already mistaken."""
        return replace(self, stop_when_fooled=False)


PAPER_FGSM = Fgsm()
"""FGSM as the paper runs it."""

PAPER_BIM = Bim(steps=10, step_size=0.05)
"""BIM as the paper runs it; for every epsilon up to 12/255 its step is longer than epsilon."""

PAPER_PGD = Pgd(steps=40, step_size=0.0075)
"""PGD as the paper runs it."""


def cosine_steps(epsilon: float, steps: int) -> list[float]:
    """Return the step sizes ``epsilon * (1 + cos(pi * k / steps))``: first across the ball, then ever finer."""
    return [epsilon * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]


class _Climb:
    """The state of one call: where every image stands and the best iterate it has seen."""

    def __init__(self, settings: Pgd, victim: Victim, images: Images, ball: Ball) -> None:
        if settings.step_size is None and math.isinf(ball.epsilon):
            raise ValueError("the ball is unbounded, so step_size=None has no meaning; give a step_size")
        self.settings, self.victim, self.images, self.ball = settings, victim, images, ball
        constant = settings.step_size
        self.sizes = [constant] * settings.steps if constant else cosine_steps(ball.epsilon, settings.steps)
        self.loss = ascent_loss(settings.loss, settings.targeted)
        self.best = images.clamp(0, 1)
        self.best_loss = images.new_full((len(images),), -math.inf)

    def run(self, rows: Rows, draws: Draws) -> Rows:
        """Climb once with these rows; return those that were never seen fooled."""
        points = self.images.clone()
        if self.settings.random_start:
            for part in self.victim.parts(rows):
                start = self.ball.random_point(self.images[part], draws.rows(part.cpu()))
                points.index_copy_(0, part, start)
        for size in self.sizes:
            survivors = [self._step(points, part, size) for part in self.victim.parts(rows)]
            rows = torch.cat(survivors) if survivors else rows
        if self.settings.steps == 1 and not self.settings.random_start:
            self.best.index_copy_(0, rows, points.index_select(0, rows))  # one step has no rival to be judged by
            return rows
        return self.judge(points, rows)

    def _step(self, points: Images, rows: Rows, size: float) -> Rows:
        """Judge one micro-batch and move its survivors one step, in place; return their rows."""
        here = points.index_select(0, rows)
        seen = self.victim.gradient(here, rows, self.loss)
        keep = self._record(here, rows, seen.losses, seen.logits)
        gradient = seen.gradient
        if keep is not None:
            here, rows, gradient = here[keep], rows[keep], gradient[keep]
        moved = here.add_(self.ball.ascent(gradient), alpha=size)
        points.index_copy_(0, rows, self.ball.project(moved, self.images.index_select(0, rows)))
        return rows

    def judge(self, points: Images, rows: Rows) -> Rows:
        """Judge these rows of `points` without moving them; return the survivors."""
        survivors = [rows[:0]]
        for part in self.victim.parts(rows):
            here = points.index_select(0, part)
            logits = self.victim.answers(here, part)
            losses = self.loss(logits, self.victim.labels.index_select(0, part)).to(here.dtype)
            keep = self._record(here, part, losses, logits)
            survivors.append(part if keep is None else part[keep])
        return torch.cat(survivors)

    def _record(self, here: Images, rows: Rows, losses: Tensor, logits: Tensor) -> Tensor | None:
        """Store what is worth keeping; return which rows go on, None for all of them."""
        better = losses > self.best_loss.index_select(0, rows)
        keep = None
        if self.settings.stop_when_fooled:
            fooled = reached(logits, self.victim.labels.index_select(0, rows), self.settings.targeted)
            if bool(fooled.any()):
                keep, better = ~fooled, better | fooled
        chosen = better.nonzero().squeeze(1)
        if len(chosen) < len(rows):
            here, rows, losses = here.index_select(0, chosen), rows.index_select(0, chosen), losses[chosen]
        self.best.index_copy_(0, rows, here)
        self.best_loss.index_copy_(0, rows, losses)
        return keep
