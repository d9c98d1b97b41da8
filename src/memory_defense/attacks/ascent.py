"""The loop of plain gradient steps that PGD and its variants share.

    x_0 = a start;   x_{k+1} = P(x_k + size_k * ascent(grad loss_k(x_k)))

With momentum (Dong et al. 2018, arXiv 1710.06081) a step follows a sum of gradients instead, each at length 1:

    g_k = momentum * g_{k-1} + grad loss_k(x_k) / ||grad loss_k(x_k)||_1

The logits that come with a gradient also judge the iterate it was taken at, so judging costs one more pass, at the
very end. An image leaves the loop at the first iterate that fools the model; one that never does is returned at its
iterate of highest score, which another model is most likely to mistake.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from memory_defense.attacks.engine import Victim, column, put, reached
from memory_defense.contracts import Ball, Draws, Images, Logits, PerImage, Rows
from memory_defense.losses import AdversarialLoss
from memory_defense.threat import Linf


def cosine_steps(epsilon: float, steps: int) -> list[float]:
    """Return the step sizes ``epsilon * (1 + cos(pi * k / steps))``: first across the ball, then ever finer."""
    return [epsilon * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]


def check_step_size(step_size: float | None) -> None:
    """Raise ValueError unless the size is positive and finite, or None."""
    if step_size is not None and not 0 < step_size < math.inf:
        raise ValueError(f"step_size is {step_size}, expected a positive number of pixel units or None")


def step_sizes(step_size: float | None, epsilon: float, steps: int) -> list[float]:
    """Return the constant sizes, or `cosine_steps` if None; raise ValueError for None in an unbounded ball."""
    if step_size is not None:
        return [step_size] * steps
    if math.isinf(epsilon):
        raise ValueError(
            "the ball is unbounded, so step_size=None has no meaning; give a step_size, or a finite epsilon"
        )
    return cosine_steps(epsilon, steps)


Start = Callable[[Rows], Images]
"""From the rows of a micro-batch to new images (B, C, H, W) to start from."""


@dataclass
class _MicroBatch:
    """The iterates of a micro-batch. It stays together, so nothing is gathered until one of its images is done."""

    rows: Rows
    here: Images
    limits: tuple[Images, ...]
    """Lowest and highest pixels allowed in L-inf; in other norms the ball's centre, for `Ball.project`."""
    push: tuple[Tensor, ...] = ()
    """The sum of gradients that momentum follows, from the first step on; nothing without momentum."""

    def keep(self, kept: Rows) -> None:
        """Forget all images but those at these positions."""
        self.rows, self.here = self.rows.index_select(0, kept), self.here.index_select(0, kept)
        self.limits = tuple(limit.index_select(0, kept) for limit in self.limits)
        self.push = tuple(push.index_select(0, kept) for push in self.push)

    def pushed(self, gradient: Tensor, momentum: float) -> Tensor:
        """Return what to follow: the gradient, or with momentum the sum with those before it."""
        if momentum == 0:
            return gradient
        length = gradient.flatten(1).abs().sum(1).clamp_min_(torch.finfo(gradient.dtype).tiny)
        unit = gradient / column(length)
        self.push = (unit.add_(self.push[0], alpha=momentum) if self.push else unit,)
        return self.push[0]

    @classmethod
    def packed(cls, parts: Sequence[Self], most: int) -> Sequence[Self]:
        """Return the parts, or the same images in fewer if fewer hold them."""
        left = sum(len(part.rows) for part in parts)
        if -(-left // most) == len(parts):
            return parts
        rows, here = torch.cat([part.rows for part in parts]), torch.cat([part.here for part in parts])
        limits = [torch.cat(each) for each in zip(*(part.limits for part in parts), strict=True)]
        push = [torch.cat(each) for each in zip(*(part.push for part in parts), strict=True)]
        cuts = [slice(first, first + most) for first in range(0, left, most)]
        return [
            cls(rows[cut], here[cut], tuple(limit[cut] for limit in limits), tuple(one[cut] for one in push))
            for cut in cuts
        ]


class ProjectedAscent:
    """One call of an attack: the best iterate of every image so far, over any number of runs.

    Parameters
    ----------
    victim, images, ball
        The model with its labels, the clean images (N, C, H, W), and the ball around each.
    score
        The loss that ranks iterates; need not be the one whose gradient is followed.
    targeted, stop_when_fooled
        See `memory_defense.attacks`.
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
        seen = [self._judge(self.clean(part), part) for part in self.victim.parts(rows)]
        return torch.cat([part for part, _ in seen]), torch.cat([logits for _, logits in seen])

    def clean(self, rows: Rows) -> Images:
        """Return these images as they are: a `Start`."""
        return self.images.index_select(0, rows)

    def random(self, draws: Draws) -> Start:
        """Return the start at a random point of the ball."""

        def start(rows: Rows) -> Images:
            return self.ball.random_point(self.clean(rows), draws.rows(rows))

        return start

    def noise(self, draws: Draws, length: float) -> Start:
        """Return the start one step of this length along normal noise: random signs, or a random direction."""

        def start(rows: Rows) -> Images:
            centre = self.clean(rows)
            noise = draws.rows(rows).normal(*centre.shape[1:]).to(centre)
            return self.ball.project(centre + length * self.ball.ascent(noise), centre)

        return start

    def run(
        self,
        start: Start,
        rows: Rows,
        sizes: Sequence[float],
        loss_of: Callable[[int, Rows], AdversarialLoss],
        *,
        momentum: float = 0.0,
        judge: bool = True,
    ) -> Rows:
        """Take all steps once with these rows; return those that go on.

        Parameters
        ----------
        start
            The images to start from.
        rows
            Positions of the images to move.
        sizes
            The length of every step in pixel units.
        loss_of
            From the step, counted from 0, and the rows of a micro-batch to its loss.
        momentum
            The share of the earlier gradients that a step follows too, in [0, 1).
        judge
            Spend a pass on judging the last iterates. Otherwise they are taken without one.
        """
        parts: Sequence[_MicroBatch] = [
            _MicroBatch(part, self.victim.laid_out(start(part)), self._limits(part))
            for part in self.victim.parts(rows)
        ]
        for step, size in enumerate(sizes):
            for part in parts:
                self._step(part, size, loss_of(step, part.rows), momentum)
            parts = _MicroBatch.packed(parts, self.victim.micro_batch)
        if not judge:
            for part in parts:
                self.best.index_copy_(0, part.rows, part.here)
            return torch.cat([rows[:0], *(part.rows for part in parts)])
        return torch.cat([rows[:0], *(self._judge(part.here, part.rows)[0] for part in parts)])

    def _step(self, part: _MicroBatch, size: float, loss: AdversarialLoss, momentum: float) -> None:
        """Judge one micro-batch and move its survivors one step."""
        seen = self.victim.gradient(part.here, part.rows, loss)
        logits = seen.logits
        if self.stop_when_fooled:
            logits = self.victim.confirmed(logits, part.here, part.rows, self.targeted)
        scores = seen.losses if loss is self.score else self._scores(logits, part.rows, part.here)
        going = self._record(part.here, part.rows, scores, logits)
        gradient = seen.gradient
        if going is not None:
            gradient = gradient.index_select(0, going)
            part.keep(going)
        way = self.ball.ascent(part.pushed(gradient, momentum))
        if (
            len(part.limits) > 1
        ):  # an L-inf ball's signs are nobody else's, and memory anew costs as much as the sum
            part.here = torch.add(part.here, way, alpha=size, out=way).clamp_(*part.limits)
        else:
            part.here = self.ball.project(torch.add(part.here, way, alpha=size), *part.limits)

    def _limits(self, rows: Rows) -> tuple[Images, ...]:
        centre = self.victim.laid_out(self.clean(rows))
        # Of this very type: one made from it may project otherwise.
        return self.ball.walls(centre) if type(self.ball) is Linf else (centre,)

    def _judge(self, here: Images, rows: Rows) -> tuple[Rows, Logits]:
        """Judge one micro-batch without moving it; return its survivors and its logits."""
        logits = self.victim.answers(here, rows)
        going = self._record(here, rows, self._scores(logits, rows, here), logits)
        return rows if going is None else rows[going], logits

    def _scores(self, logits: Logits, rows: Rows, like: Images) -> PerImage:
        return self.score(logits, self.victim.labels.index_select(0, rows)).to(like.dtype)

    def _record(self, here: Images, rows: Rows, scores: PerImage, logits: Logits) -> Rows | None:
        """Store what is worth keeping; return the positions of those that go on, None for all of them."""
        better = scores > self.best_score.index_select(0, rows)
        going = None
        if self.stop_when_fooled:
            fooled = reached(logits, self.victim.labels.index_select(0, rows), self.targeted)
            if not self.victim.on_cpu or bool(fooled.any()):
                going, better = (~fooled).nonzero().squeeze(1), better | fooled
                going = None if len(going) == len(rows) else going
        if not self.victim.on_cpu:
            put(self.best, rows, better, here)
            put(self.best_score, rows, better, scores)
            return going
        chosen = better.nonzero().squeeze(1)
        if len(chosen) < len(rows):
            here, rows, scores = here.index_select(0, chosen), rows.index_select(0, chosen), scores[chosen]
        self.best.index_copy_(0, rows, here)
        self.best_score.index_copy_(0, rows, scores)
        return going
