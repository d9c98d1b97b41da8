"""The search behind Carlini & Wagner's L2 attack: bisection on c around an Adam of its own for every image.

Every image has its own c, its own optimiser state and its own early stop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from memory_defense.attacks.closest import column
from memory_defense.attacks.engine import Victim
from memory_defense.contracts import Images, Labels, Logits, PerImage, Rows
from memory_defense.losses import margin

_SATURATION = 0.999999
"""Keeps arctanh finite for pixels at 0 and 1, as in the authors' code."""

_ROUNDING = 1e-5
"""Lead over `confidence`, relative to the largest logit, that survives judging in another batch."""

_BETAS = (0.9, 0.999)
_CONST_GROWTH = 10.0

_CONST_RANGE = (1e-4, 1e4)
"""Where an automatic first constant must lie."""

_CONST_FALLBACK = 1.0
"""The first constant of an image without a gradient."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `carlini_wagner.CarliniWagner` asks of a search; the fields are its own."""

    confidence: float
    targeted: bool
    best_effort: bool
    initial_const: float | None
    steps: int
    learning_rate: float
    tanh: bool
    abort_early: bool


@dataclass
class _Chunk:
    """One micro-batch in the middle of a search step; every field has the images as its first axis."""

    rows: Rows
    clean: Images
    point: Tensor
    first: Tensor
    second: Tensor
    const: PerImage
    loss: PerImage
    checked: PerImage
    """The loss at the last check for progress."""


class Search:
    """The bisection: what is known about every image between search steps."""

    def __init__(self, plan: Plan, victim: Victim, clean: Images, epsilon: float) -> None:
        self.plan, self.victim, self.clean, self.epsilon = plan, victim, clean, epsilon
        self.best = clean.clone()
        self.best_distance = clean.new_full((len(clean),), math.inf)  # squared
        self.boldest = clean.clone() if plan.best_effort else None
        self.boldest_lead = clean.new_zeros(len(clean))
        self.start = clean.clone()
        self.low = clean.new_zeros(len(clean))
        self.high = clean.new_full((len(clean),), math.inf)
        self.const = clean.new_full((len(clean),), plan.initial_const or _CONST_FALLBACK)
        self.rows = self._still_right(victim.all_rows())

    def _still_right(self, rows: Rows) -> Rows:
        """Settle the images that fool the model as they are; return the others, with a first constant each."""
        for part in self.victim.parts(rows):
            if self.plan.initial_const is None:
                seen = self.victim.gradient(self.clean[part], part, self._hinge)
                logits, self.const[part] = seen.logits, first_const(seen.losses, seen.gradient)
            else:
                logits = self.victim.answers(self.clean[part], part)
            fooled = _leads(*self._lead_and_goal(logits, self.victim.labels[part]))
            self.best_distance[part] = torch.where(fooled, 0.0, math.inf)
        return rows[self.best_distance.isinf()]

    def _lead_and_goal(self, logits: Logits, labels: Labels) -> tuple[PerImage, PerImage]:
        """Return the lead of the wrong (or the target) class, and the lead that counts as success."""
        lead = margin(logits, labels)
        goal = self.plan.confidence + _ROUNDING * logits.detach().abs().amax(1)
        return (-lead if self.plan.targeted else lead), goal

    def _hinge(self, logits: Logits, labels: Labels) -> PerImage:
        lead, goal = self._lead_and_goal(logits, labels)
        return (goal - lead).clamp(min=0)

    def run(self) -> None:
        """Do one search step and choose the next constants."""
        plan = self.plan
        succeeded = torch.zeros_like(self.low, dtype=torch.bool)
        chunks = [self._chunk(part) for part in self.victim.parts(self.rows)]
        interval = max(1, plan.steps // 10)
        for step in range(plan.steps):
            for chunk in chunks:
                self._step(chunk, step, succeeded)
            if plan.abort_early and (step + 1) % interval == 0:
                chunks = self._drop_stalled(chunks)
        for chunk in chunks:
            self.start[chunk.rows] = chunk.point
        self.high = torch.where(succeeded, torch.minimum(self.high, self.const), self.high)
        self.low = torch.where(succeeded, self.low, torch.maximum(self.low, self.const))
        middle = (self.low + self.high) / 2
        self.const = torch.where(middle.isinf(), self.const * _CONST_GROWTH, middle)

    def _chunk(self, rows: Rows) -> _Chunk:
        clean, const = self.clean[rows], self.const[rows]
        if self.plan.tanh:
            point = ((2 * clean - 1) * _SATURATION).atanh()
        else:
            point = torch.where(column(self.best_distance[rows].isfinite()), self.best[rows], self.start[rows])
        unknown = torch.full_like(const, math.inf)
        return _Chunk(rows, clean, point, torch.zeros_like(point), torch.zeros_like(point), const, unknown, unknown)

    def _step(self, chunk: _Chunk, step: int, succeeded: Tensor) -> None:
        """Judge the iterate, remember it if it is the closest, and take one Adam step in place."""
        tanh = self.plan.tanh
        image = (chunk.point.tanh() + 1) / 2 if tanh else chunk.point
        seen = self.victim.gradient(image, chunk.rows, self._hinge)
        offset = image - chunk.clean
        distance = offset.square().flatten(1).sum(1)
        chunk.loss = distance + chunk.const * seen.losses
        lead, goal = self._lead_and_goal(seen.logits, self.victim.labels[chunk.rows])
        fooled = _leads(lead, goal)
        closer = fooled & (distance < self.best_distance[chunk.rows])
        succeeded[chunk.rows] |= fooled
        self.best[chunk.rows[closer]] = image[closer]
        self.best_distance[chunk.rows[closer]] = distance[closer]
        if self.boldest is not None:
            bolder = (distance <= self.epsilon**2) & (lead > self.boldest_lead[chunk.rows])
            self.boldest[chunk.rows[bolder]] = image[bolder]
            self.boldest_lead[chunk.rows[bolder]] = lead[bolder].to(distance)

        gradient = offset.mul_(2).addcmul_(seen.gradient, column(chunk.const))
        if tanh:
            gradient.mul_(image * (1 - image) * 2)
        self._adam(chunk, gradient, step)

    def _adam(self, chunk: _Chunk, gradient: Tensor, step: int) -> None:
        """Move the point as Adam does (Kingma & Ba 2015), bias correction included."""
        rate = self.plan.learning_rate
        if not self.plan.tanh:
            rate *= (1 + math.cos(math.pi * step / self.plan.steps)) / 2
        forget_first, forget_second = (1 - beta for beta in _BETAS)
        unbias_first, unbias_second = (1 - beta ** (step + 1) for beta in _BETAS)
        chunk.first.lerp_(gradient, forget_first)
        chunk.second.lerp_(gradient.square_(), forget_second)
        scale = (chunk.second / unbias_second).sqrt_().add_(1e-8)
        chunk.point.addcdiv_(chunk.first, scale, value=-rate / unbias_first)
        if not self.plan.tanh:
            chunk.point.clamp_(0, 1)

    def _drop_stalled(self, chunks: list[_Chunk]) -> list[_Chunk]:
        """Take out the images whose loss no longer falls, and pack the others into full micro-batches."""
        moving = [chunk.loss <= 0.9999 * chunk.checked for chunk in chunks]
        for chunk, keep in zip(chunks, moving, strict=True):
            chunk.checked = chunk.loss
            self.start[chunk.rows[~keep]] = chunk.point[~keep]
        if all(bool(keep.all()) for keep in moving):
            return chunks
        packed = [
            torch.cat([getattr(chunk, part.name)[keep] for chunk, keep in zip(chunks, moving, strict=True)])
            for part in fields(_Chunk)
        ]
        size = self.victim.micro_batch
        return [
            _Chunk(*(whole[start : start + size] for whole in packed)) for start in range(0, len(packed[0]), size)
        ]

    def result(self) -> Images:
        """Return the closest images found that lie inside the ball, judged once more as they are returned."""
        inside = self.best_distance <= self.epsilon**2
        for part in self.victim.parts(self.rows):
            logits = self.victim.answers(self.best[part], part)
            lead, _ = self._lead_and_goal(logits, self.victim.labels[part])
            inside[part] &= lead > self.plan.confidence
        otherwise = self.clean if self.boldest is None else self.boldest
        return torch.where(column(inside), self.best, otherwise)


def _leads(lead: PerImage, goal: PerImage) -> PerImage:
    return (lead >= goal) & (lead > 0)


def first_const(losses: PerImage, gradient: Tensor) -> PerImage:
    """Return (B,) the c at which a linear f, minimised together with the distance, is overshot by a half."""
    slope = gradient.square().flatten(1).sum(1)
    const = (3 * losses / slope.clamp(min=1e-30)).clamp(*_CONST_RANGE)
    return torch.where(slope > 0, const, _CONST_FALLBACK)
