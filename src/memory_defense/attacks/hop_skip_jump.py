"""HopSkipJump (Chen, Jordan & Wainwright 2020, arXiv 1904.02144): the nearest wrong answer, from labels alone.

A round stands at a wrong answer x_t just behind the boundary. With phi = +1 for a wrong answer, -1 for a right one:

    v      = sum_b (phi(x_t + delta u_b) - mean phi) u_b,  u_b random       the boundary's normal (their Eq. 16)
    x'     = x_t + xi ascent(v),  xi = ||x_t - clean|| / sqrt(t), halved until x' is wrong
    x_t+1  = the end of the bisection from x' towards the clean image

Only the predicted labels leave the `LabelsOnly` victim. What happens to an image depends on its own draws and its
own budget only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from memory_defense.attacks.calls import checked
from memory_defense.attacks.closest import Closest, SmallestChange, check_search, column
from memory_defense.attacks.engine import Victim, attacked, reached
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, Logits, PerImage, Rows

MOST_EVALUATIONS = 10_000
"""The most probes for one direction."""

_FIRST_REACH = 0.1
"""Distance of the first round's probes from the point, in pixel units."""

_START_PRECISION = 1e-3
"""Precision of the first bisection, as a share of the straight line from a random start to the clean image."""

_CELLS = (1, 2, 4, 8)
"""Sides of the cells of a random start, in pixels."""

_HALVINGS = 15
"""After so many halvings a stride is given up, and the point stays."""

_BLOCK = 32
"""Probes of one image that are drawn at once."""


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(SmallestChange):
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
        Coarseness of the bisections, positive: they end within ``gamma / D^(3/2)`` of the way in L2 and
        ``gamma / D^2`` in L-inf for D pixels, and directions are probed at ``gamma / D`` of the distance.
    push
        Move the closest image found along its own change to the surface of the ball (in an unbounded one, to
        twice the distance): from inside unless that undoes its success, and from outside.
    stop_when_fooled, micro_batch
        See `memory_defense.attacks`.
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

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        with attacked(model, images, labels, self.micro_batch, exact=True) as scored:
            victim = LabelsOnly(scored)
            clean = images.clamp(0, 1)
            if ball.epsilon == 0:
                return clean
            found = self.closest(victim, clean, ball)
            rows, _ = found.start()
            walk = BoundaryWalk(self, found, draws)
            rows = walk.begin(rows)
            for step in range(1, self.steps + 1):
                rows = walk.round(rows, step)
            return _pushed(found) if self.push else found.result()

    def for_transfer(self) -> Self:
        """Return the same attack with `push` and no early stops.

        Labels tell no confidence to ask for. What another model may mistake is the change itself, at full length.
        """
        return replace(self, stop_when_fooled=False, push=True)


class LabelsOnly(Victim):
    """A victim whose logits are 1 for the predicted class and 0 for all others."""

    def __init__(self, victim: Victim) -> None:
        super().__init__(victim.model, victim.labels, victim.micro_batch)

    def answers(self, points: Images, rows: Rows) -> Logits:
        """Return the choices as (B, K); see `Victim.answers`."""
        logits = super().answers(points, rows)
        return F.one_hot(logits.argmax(1), logits.shape[1]).to(points.dtype)


class BoundaryWalk:
    """The points x_t of all images. Each is an image that the model was asked about and that fooled it.

    Parameters
    ----------
    attack
        The options.
    found
        Records every answer but those to probes.
    draws
        Random numbers of the whole set.
    """

    def __init__(self, attack: HopSkipJump, found: Closest, draws: Draws) -> None:
        self.attack, self.found, self.draws = attack, found, draws
        self.victim, self.ball = found.victim, found.ball
        self.point = found.clean.clone()
        self.left = torch.full_like(self.victim.labels, attack.queries)
        pixels = found.clean[0].numel()
        self.reach = torch.full_like(found.distance, _FIRST_REACH)
        self.probe_share = attack.gamma / pixels
        self.precision = attack.gamma / pixels ** (1.5 if self.ball.norm == "l2" else 2)

    def begin(self, rows: Rows) -> Rows:
        """Find random images that fool the model, and go from there to the boundary; return the rows that did."""
        waiting = rows
        for number in range(self.attack.starts):
            waiting = self._able(waiting)
            if len(waiting) == 0:
                break
            wrong = self._ask(self._random_images(waiting, number), waiting)
            waiting = waiting[~wrong]
        rows = self._able(rows[(self.point[rows] != self.found.clean[rows]).flatten(1).any(1)])
        self._bisect(rows, "l2", _START_PRECISION)
        self._bisect(rows, self.ball.norm, self.precision)
        return self._able(rows)

    def round(self, rows: Rows, step: int) -> Rows:
        """Do one round, counted from 1, with the images that can afford it; return them."""
        spare = self.left[rows] - _halvings_to(self.precision) - 1
        wanted = min(int(self.attack.evaluations * math.sqrt(step)), MOST_EVALUATIONS)
        rows, counts = rows[spare > 0], spare[spare > 0].clamp(max=wanted)
        if len(rows) == 0:
            return rows
        direction = self.ball.ascent(self._normals(rows, counts, step))
        self._stride(rows, direction, step)
        self.reach[rows] = self.probe_share * self.ball.distance(self.point[rows], self.found.clean[rows])
        self._bisect(rows, self.ball.norm, self.precision)
        return self._able(rows)

    def _able(self, rows: Rows) -> Rows:
        """Return the rows that still need work and can afford a query."""
        return self.found.unfinished(rows[self.left[rows] > 0])

    def _ask(self, points: Images, rows: Rows) -> PerImage:
        """Ask once about each of these images; move to those that fool the model. Return (B,) which did."""
        answers = [rows.new_zeros(0, dtype=torch.bool)]
        for at, part in _split(len(rows), self.victim.micro_batch, rows):
            answers.append(self.found.record(points[at], part, self.victim.answers(points[at], part)))
        wrong = torch.cat(answers)
        self.left[rows] -= 1
        self.point[rows[wrong]] = points[wrong]
        return wrong

    def _random_images(self, rows: Rows, number: int) -> Images:
        channels, height, width = self.point.shape[1:]
        side = min(_CELLS[number % len(_CELLS)], height, width)
        own = self.draws.child("start", number).rows(rows)
        cells = own.uniform(channels, -(-height // side), -(-width // side)).to(self.point)
        return F.interpolate(cells, scale_factor=side, mode="nearest")[:, :, :height, :width]

    def _bisect(self, rows: Rows, norm: str, precision: float) -> None:
        """Move the points to within this share of the way of the boundary, towards the clean images."""
        far, clean = self.point[rows], self.found.clean[rows]
        span = (far - clean).abs().flatten(1).amax(1)  # (B,)
        low, high = torch.zeros_like(span), torch.ones_like(span)
        for _ in range(_halvings_to(precision)):
            going = torch.isin(rows, self._able(rows)).nonzero().squeeze(1)
            if len(going) == 0:
                break
            share = (low[going] + high[going]) / 2
            if norm == "l2":
                tried = torch.lerp(clean[going], far[going], column(share)).clamp_(0, 1)
            else:
                radius = column(share * span[going])
                tried = torch.minimum(torch.maximum(far[going], clean[going] - radius), clean[going] + radius)
            wrong = self._ask(tried, rows[going])
            high[going], low[going] = torch.where(wrong, share, high[going]), torch.where(wrong, low[going], share)

    def _normals(self, rows: Rows, counts: Tensor, step: int) -> Tensor:
        """Return (B, C, H, W): the sum of the probes, weighted by their answers; `counts` (B,) probes for each."""
        signed = torch.zeros_like(self.point[rows], dtype=torch.float64)
        plain, total = torch.zeros_like(signed), torch.zeros_like(self.reach[rows], dtype=torch.float64)
        for first in range(0, int(counts.max()), _BLOCK):
            going = (counts > first).nonzero().squeeze(1)
            for _, some in _split(len(going), max(1, self.victim.micro_batch // _BLOCK), going):
                used = first + torch.arange(_BLOCK, device=rows.device) < counts[some][:, None]  # (B, S)
                moved, phi = self._probe(rows[some], used, (step, first))
                signed[some] += (phi[:, :, None, None, None] * moved).sum(1)
                plain[some] += moved.sum(1)
                total[some] += phi.sum(1)
        mean = total / counts
        mean[mean.abs() == 1] = 0  # with one answer to all probes there is nothing to compare
        self.left[rows] -= counts
        return (signed - column(mean) * plain).to(self.point)

    def _probe(self, rows: Rows, used: Tensor, purpose: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the probes' offsets (B, S, C, H, W) in units of their reach, and the answers (B, S) as +-1.

        Both are 0 where a probe is not used.
        """
        here = self.point[rows][:, None]  # (B, 1, C, H, W)
        reach = column(self.reach[rows])[:, None]  # (B, 1, 1, 1, 1)
        own, shape = self.draws.child("probe", *purpose).rows(rows), (_BLOCK, *self.point.shape[1:])
        noise = (own.normal(*shape) if self.ball.norm == "l2" else 2 * own.uniform(*shape) - 1).to(here)
        length = noise.flatten(2).square().sum(2).sqrt().clamp(min=1e-12)  # (B, S)
        probes = (here + reach * noise / length[:, :, None, None, None]).clamp_(0, 1)
        points, owners = probes[used], rows[used.nonzero()[:, 0]]
        answers = [
            reached(self.victim.answers(points[at], part), self.victim.labels[part])
            for at, part in _split(len(points), self.victim.micro_batch, owners)
        ]
        phi = torch.zeros_like(used, dtype=torch.float64)
        phi[used] = 2 * torch.cat(answers).double() - 1
        return (probes - here).double() / reach * used[:, :, None, None, None], phi

    def _stride(self, rows: Rows, direction: Tensor, step: int) -> None:
        """Move the points along the direction, as far as they still fool the model."""
        here = self.point[rows]
        size = self.ball.distance(here, self.found.clean[rows]) / math.sqrt(step)
        waiting = torch.arange(len(rows), device=rows.device)
        for _ in range(_HALVINGS):
            waiting = waiting[self.left[rows[waiting]] > 0]
            if len(waiting) == 0:
                break
            tried = (here[waiting] + column(size[waiting]) * direction[waiting]).clamp_(0, 1)
            waiting = waiting[~self._ask(tried, rows[waiting])]
            size[waiting] /= 2


def _halvings_to(precision: float) -> int:
    """Return how many bisections narrow 1 down to this; float32 has no use for more than 24."""
    return min(max(math.ceil(-math.log2(precision)), 1), 24)


def _split(count: int, size: int, rows: Rows) -> list[tuple[slice, Rows]]:
    return [(slice(at, at + size), rows[at : at + size]) for at in range(0, count, size)]


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
