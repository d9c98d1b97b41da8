"""Guided adversarial margin attack (Sriramanan et al. 2020, arXiv 2011.14969), GAMA-PGD.

    maximise   max_{i != y} p_i(x) - p_y(x) + weight_k * ||p(x) - p(clean)||^2,   p = softmax of the logits

The relaxation term leads the first steps away from the clean answer along any direction that changes it, out of
reach of a flat margin; its weight falls linearly to 0. The steps start at twice the radius and are divided by
10 at 60 % and 85 % of the steps. Here p(clean) is the answer at the clean image, as in the paper; the authors'
code takes the answer at the noisy start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from memory_defense.attacks.ascent import ProjectedAscent
from memory_defense.attacks.calls import checked
from memory_defense.attacks.engine import StopsEarly, attacked, check_settings
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, Logits, PerImage, Rows
from memory_defense.losses import AdversarialLoss, margin

_DROPS = (0.6, 0.85)
"""The shares of the steps after which step sizes are divided by `_DROP`."""

_DROP = 10.0


def drop_steps(epsilon: float, steps: int) -> list[float]:
    """Return the step sizes: ``2 * epsilon`` first, divided by 10 from 60 % and again from 85 % of the steps on."""
    return [2 * epsilon / _DROP ** sum(step >= share * steps for share in _DROPS) for step in range(steps)]


def guided_margin(logits: Logits, labels: Labels, clean: Tensor, weight: float) -> PerImage:
    """Return (B,) the margin of the probabilities plus `weight` times their squared distance to `clean` (B, K)."""
    probabilities = logits.softmax(1)
    return margin(probabilities, labels) + weight * (probabilities - clean).square().sum(1)


@dataclass(frozen=True, kw_only=True)
class Gama(StopsEarly):
    """GAMA-PGD in the ball's own norm, which must be bounded; `guided_margin` is the loss.

    A start is one step of length epsilon along noise: random signs in L-inf, a random direction in L2. An image
    that never fools the model is returned at its largest margin of logits.

    Parameters
    ----------
    weight
        Weight of the relaxation term in the first step, at least 0.
    decay_end
        The share of the steps after which the weight is 0, in (0, 1].
    steps, restarts, stop_when_fooled, micro_batch
        See `memory_defense.attacks`.
    """

    steps: int = 100
    weight: float = 50.0
    decay_end: float = 0.25
    restarts: int = 1
    stop_when_fooled: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        check_settings("margin", self.micro_batch, steps=self.steps, restarts=self.restarts)
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight is {self.weight}, expected a number of at least 0; 0 is the margin alone")
        if not 0 < self.decay_end <= 1:
            raise ValueError(f"decay_end is {self.decay_end}, expected a share of the steps in (0, 1]")

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        if math.isinf(ball.epsilon):
            raise ValueError("the first step is 2 epsilon long, so the ball must be bounded; give a finite epsilon")
        with attacked(model, images, labels, self.micro_batch) as victim:
            if ball.epsilon == 0:
                return images.clamp(0, 1)
            ascent = ProjectedAscent(victim, images, ball, score=margin, stop_when_fooled=self.stop_when_fooled)
            rows, logits = ascent.begin()
            loss_of = self._guided_by(logits.softmax(1))
            for restart in range(self.restarts):
                start = ascent.noise(draws.child("restart", restart), ball.epsilon)
                rows = ascent.run(start, rows, drop_steps(ball.epsilon, self.steps), loss_of)
            return ascent.best

    def _guided_by(self, clean: Tensor) -> Callable[[int, Rows], AdversarialLoss]:
        """Return the loss of each step for each micro-batch, given the clean probabilities (N, K)."""

        def loss_of(step: int, rows: Rows) -> AdversarialLoss:
            weight = self.weight * max(0.0, 1 - step / (self.decay_end * self.steps))
            return lambda logits, labels: guided_margin(logits, labels, clean[rows], weight)

        return loss_of
