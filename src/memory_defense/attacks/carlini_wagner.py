"""The L2 attack of Carlini & Wagner 2017 (arXiv 1608.04644): the smallest change that fools the model.

For each image and a constant c it minimises ``||x - clean||^2 + c * f(x)``, where the hinge
``f = max(confidence - margin, 0)`` is 0 once another class leads by `confidence`; c is found by bisection
(`carlini_wagner_search`). Nothing is shared in a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, Self

import torch
from torch import Tensor

from memory_defense.attacks.closest import column
from memory_defense.attacks.engine import Victim, attacked, check_settings
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, Logits, PerImage, Rows
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


TRANSFER_CONFIDENCE = 5.0
"""The lead in logits that `CarliniWagner.for_transfer` asks for at least."""


@dataclass(frozen=True, kw_only=True)
class CarliniWagner:
    """Carlini & Wagner's L2 attack; returns the closest image found that fools the model.

    An image for which none is found inside the ball comes back unchanged, as does one already mistaken.

    Parameters
    ----------
    confidence
        The lead in logits the wrong class must have (kappa), non-negative.
    steps
        Optimiser steps of one search step.
    search_steps
        Bisection steps on c; c grows tenfold while nothing is found.
    learning_rate
        Of Adam, which is reset at every search step. In pixels for ``projected``; in the tanh variable for
        ``tanh``, where 0.005 hardly moves a pixel that is exactly 0 or 1 in 1000 steps and 0.1 does.
    initial_const
        The first c, positive. None takes ``3 f / ||grad f||^2`` of each clean image, for one gradient more: were
        f linear, two thirds of it would lead just to the boundary.
    variant
        ``projected``: optimises the pixels themselves, clamped to [0, 1], at a learning rate that falls to
        zero along a cosine, each search step from the closest image so far; it reaches smaller distances in
        fewer passes. ``tanh``: the authors' change of variable, constant rate, each search step from clean.
    abort_early
        Let an image rest, until the next search step, when a tenth of the steps did not lower its loss. It
        saves passes; the decaying rate of ``projected`` still gains after such a pause, so it costs distance.
    best_effort
        Where no image with the full `confidence` is found inside the ball, return the one with the largest
        lead seen there instead of the clean one.
    targeted
        The labels are the classes to reach, not the ones to leave.
    micro_batch
        Images in one pass; None is 256 on a CPU and 512 elsewhere.

    Raises
    ------
    ValueError
        For a value outside these ranges; when called, for a ball that is not L2.
    """

    confidence: float = 0.0
    steps: int = 100
    search_steps: int = 5
    learning_rate: float = 0.05
    initial_const: float | None = 1.0
    variant: Literal["projected", "tanh"] = "projected"
    abort_early: bool = False
    best_effort: bool = False
    targeted: bool = False
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        check_settings("margin", self.micro_batch, steps=self.steps, search_steps=self.search_steps)
        if not 0 <= self.confidence < math.inf:
            raise ValueError(f"confidence is {self.confidence}, expected a lead in logits of at least 0")
        for name in ("learning_rate", "initial_const"):
            value: float | None = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}, expected a positive number")
        if self.variant not in ("projected", "tanh"):
            raise ValueError(f"variant is {self.variant!r}, expected 'projected' or 'tanh'")

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`. Nothing is drawn."""
        del draws
        if ball.norm != "l2":
            raise ValueError(
                f"this attack minimises the L2 distance, the ball is {ball.norm}; use threat.L2(epsilon), "
                "L2(float('inf')) for no limit, or Pgd(loss='margin') for an L-inf ball"
            )
        with attacked(model, images, labels, self.micro_batch) as victim:
            clean = images.clamp(0, 1)
            if ball.epsilon == 0:
                return clean
            plan = Plan(
                confidence=self.confidence,
                targeted=self.targeted,
                best_effort=self.best_effort,
                initial_const=self.initial_const,
                steps=self.steps,
                learning_rate=self.learning_rate,
                tanh=self.variant == "tanh",
                abort_early=self.abort_early,
            )
            search = Search(plan, victim, clean, ball.epsilon)
            for _ in range(self.search_steps):
                search.run()
            return search.result()

    def for_transfer(self) -> Self:
        """Return the same attack asking for a lead of `TRANSFER_CONFIDENCE`, or else the largest there is."""
        return replace(self, confidence=max(self.confidence, TRANSFER_CONFIDENCE), best_effort=True)


PAPER_CW = CarliniWagner(
    steps=1000, search_steps=5, learning_rate=5e-3, initial_const=1e-2, variant="tanh", abort_early=True
)
"""The attack as the paper runs it: cleverhans' defaults, which barely move saturated pixels."""
