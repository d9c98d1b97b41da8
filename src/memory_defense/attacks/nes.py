"""Natural evolution strategies (Ilyas et al. 2018, arXiv 1804.08598): a gradient made of scores alone.

A step asks about pairs of probes, on either side of where it stands, and follows the noise that raised the margin:

    g_k = sum_b (margin(x_k + r u_b) - margin(x_k - r u_b)) u_b,  u_b normal, in cells of pixels
    x_k+1 = P(x_k + size_k * ascent(momentum * g_k-1 + g_k / ||g_k||_1))

With random signs for u_b it is SPSA (Uesato et al. 2018, arXiv 1802.05666). A search that keeps single changes has
nowhere to go where one change shows only together with others; a sum over many probes does. How far probes reach is
a share of the radius, so that they look across whatever is flat, stepped or turned round nearby.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from memory_defense.attacks.ascent import cosine_steps
from memory_defense.attacks.calls import checked
from memory_defense.attacks.engine import StopsEarly, Victim, attacked, check_settings, column, put, reached
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, PerImage, Rows
from memory_defense.losses import margin

_COARSER = (4, 2, 1, 1, 1)
"""Cells in each quarter of the steps, as multiples of `Nes.cells`, and in the last one."""

_FINEST = 28
"""Cells along the shorter side of an image for which 50 pairs still tell a direction."""

_FEWEST = 4
"""Cells along the shorter side of an image at least, as far as it has pixels."""

_BLOCK = 64
"""Pairs of one image that are drawn at once."""


@dataclass(frozen=True, kw_only=True)
class Nes(StopsEarly):
    """Natural evolution strategies in an L-inf or an L2 ball, which must be bounded, on the margin loss.

    Parameters
    ----------
    queries
        The most calls of the model for one image, at least 1; the clean image and the random point of the ball at
        which it starts cost one more each. So many steps are taken as they pay for, each of two calls for a pair
        and one for where it leads: fewer than 3 pay for none.
    pairs
        Pairs of probes for one step, at least 1; fewer where `queries` do not pay for one such step.
    reach
        How far probes reach, as a share of epsilon, above 0: the typical change of a pixel in L-inf, the typical
        length in L2. Probes may leave the ball, but not [0, 1]; they are never returned.
    cells
        Side of the cells of a probe's noise in pixels, at least 1; four times as large in the first quarter of the
        steps, and twice in the second. Coarser noise needs fewer pairs for a direction, and finds none that changes
        from one pixel to the next. None is 1 for images of 28 pixels, and grows with them: 8 for 224.
    momentum
        The share of the earlier steps' directions that each step follows too, in [0, 1).
    stop_when_fooled, micro_batch
        See `memory_defense.attacks`; without early stops an image is returned at its largest margin.
    """

    queries: int = 5000
    pairs: int = 50
    reach: float = 1.0
    cells: int | None = None
    momentum: float = 0.75
    stop_when_fooled: bool = True
    micro_batch: int | None = None
    gradient_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        counts = {"queries": self.queries, "pairs": self.pairs}
        counts |= {} if self.cells is None else {"cells": self.cells}
        check_settings("margin", self.micro_batch, **counts)
        if not 0 < self.reach < math.inf:
            raise ValueError(f"reach is {self.reach}, expected a positive share of epsilon")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}, expected a share in [0, 1)")

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        if math.isinf(ball.epsilon):
            raise ValueError("probes reach a share of the ball's radius, so it must be bounded; give an epsilon")
        with attacked(model, images, labels, self.micro_batch, exact=True) as victim:
            climb = _Climb(self, victim, images.clamp(0, 1), ball)
            return climb.run(draws) if ball.epsilon > 0 else climb.clean


class _Climb:
    """One call: where every image stands, and the best of where it stood.

    Parameters
    ----------
    attack
        The options.
    victim
        The model and the labels.
    clean
        (N, C, H, W) in [0, 1].
    ball
        Bounded, and more than a point.
    """

    def __init__(self, attack: Nes, victim: Victim, clean: Images, ball: Ball) -> None:
        self.attack, self.victim, self.clean, self.ball = attack, victim, clean, ball
        self.pairs = max(min(attack.pairs, (attack.queries - 1) // 2), 1)
        self.cells = attack.cells or max(round(min(clean.shape[2:]) / _FINEST), 1)
        self.reach = attack.reach * ball.epsilon
        if ball.norm == "l2":
            self.reach /= math.sqrt(clean[0].numel())

    def run(self, draws: Draws) -> Images:
        """Return the images that fool, and the others at their largest margin."""
        self.here, self.best = self.clean.clone(), self.clean.clone()
        self.push = torch.zeros_like(self.clean)
        self.lead = self.clean.new_full((len(self.clean),), -math.inf)
        rows = self._judge(self.victim.all_rows())
        for part in self.victim.parts(rows):
            self.here[part] = self.ball.random_point(self.clean[part], draws.child("start").rows(part))
        rows = self._judge(rows)
        together = max(self.victim.micro_batch // (2 * min(self.pairs, _BLOCK)), 1)
        steps = self.attack.queries // (2 * self.pairs + 1)
        for step, size in enumerate(cosine_steps(self.ball.epsilon, steps)):
            cells = self.cells * _COARSER[4 * (step + 1) // steps]
            for part in torch.split(rows, together) if len(rows) else ():
                self._move(part, size, self._slope(part, draws.child("probes", step).rows(part), cells))
            rows = self._judge(rows)
        return self.best

    def _slope(self, rows: Rows, draws: Draws, cells: int) -> Tensor:
        """Return (B, C, H, W): the noise of all pairs, weighted by what it raised the margin by."""
        total = torch.zeros_like(self.clean[: len(rows)], dtype=torch.float64)
        for first in range(0, self.pairs, _BLOCK):
            noise = self._noise(draws.child(first), min(_BLOCK, self.pairs - first), cells)
            total += (self._rise(rows, noise) * noise).sum(1, dtype=torch.float64)
        return total.to(self.clean)

    def _noise(self, draws: Draws, pairs: int, cells: int) -> Tensor:
        """Return (B, pairs, C, H, W), standard normal in cells."""
        channels, height, width = self.clean.shape[1:]
        side = min(cells, max(min(height, width) // _FEWEST, 1))
        noise = draws.normal(pairs * channels, -(-height // side), -(-width // side)).to(self.clean)
        if side > 1:
            noise = F.interpolate(noise, scale_factor=side, mode="nearest")[:, :, :height, :width]
        return noise.reshape(-1, pairs, channels, height, width)

    def _rise(self, rows: Rows, noise: Tensor) -> Tensor:
        """Return (B, pairs, 1, 1, 1): how much larger the margin is along the noise than against it."""
        here, moved = self.here[rows][:, None], self.reach * noise  # (B, 1, C, H, W), (B, pairs, C, H, W)
        points = torch.stack([here + moved, here - moved], 2).clamp_(0, 1).flatten(0, 2)
        owners = rows.repeat_interleave(2 * noise.shape[1])
        leads = [
            self._lead(points[at : at + self.victim.micro_batch], part)[0]
            for at, part in zip(
                range(0, len(owners), self.victim.micro_batch), self.victim.parts(owners), strict=True
            )
        ]
        both = torch.cat(leads).view(len(rows), -1, 2)
        return (both[..., 0] - both[..., 1])[..., None, None, None]

    def _move(self, rows: Rows, size: float, slope: Tensor) -> None:
        """Take one step."""
        length = slope.flatten(1).abs().sum(1).clamp_min(torch.finfo(slope.dtype).tiny)
        self.push[rows] = push = self.attack.momentum * self.push[rows] + slope / column(length)
        self.here[rows] = self.ball.project(self.here[rows] + size * self.ball.ascent(push), self.clean[rows])

    def _judge(self, rows: Rows) -> Rows:
        """Keep the images that stand where they never stood better; return the rows that go on."""
        going = [rows[:0]]
        for part in self.victim.parts(rows):
            here = self.here[part]
            lead, fooled = self._lead(here, part)
            better = (lead > self.lead[part]) | (fooled & ~(lead < self.lead[part]))
            put(self.best, part, better, here)
            put(self.lead, part, better, lead)
            going.append(part[~fooled] if self.attack.stop_when_fooled else part)
        return torch.cat(going)

    def _lead(self, points: Images, rows: Rows) -> tuple[PerImage, PerImage]:
        """Return (B,) the margin, and whether the model errs."""
        logits, labels = self.victim.answers(points, rows), self.victim.labels[rows]
        return margin(logits, labels).to(points.dtype), reached(logits, labels)
