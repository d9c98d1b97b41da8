"""The L2 attack of Carlini & Wagner 2017 (arXiv 1608.04644): the smallest change that fools the model.

For each image and a constant c it minimises, with Adam,

    ||x - clean||^2 + c f(x),   f = max(confidence - margin, 0)

where the hinge f is 0 once another class leads by `confidence`. Search steps find c by bisection: it shrinks after
a success and grows otherwise. Nothing is shared in a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
from torch import Tensor

from memory_defense.attacks.calls import checked
from memory_defense.attacks.closest import ROUNDING, SmallestChange, check_search, column
from memory_defense.attacks.engine import Victim, attacked
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, Logits, PerImage, Rows
from memory_defense.losses import margin

_SATURATION = 0.999999
"""Keeps arctanh finite for pixels at 0 and 1, as in the authors' code."""

_BETAS = (0.9, 0.999)
_CONST_GROWTH = 10.0

_CONST_RANGE = (1e-4, 1e4)
"""Range of an automatic first constant."""

_CONST_FALLBACK = 1.0
"""The first constant of an image without a gradient."""


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(SmallestChange):
    """Carlini & Wagner's L2 attack; returns the closest image found that fools the model.

    An image for which none is found inside the ball, which must be L2, comes back unchanged, as does one already
    mistaken.

    Parameters
    ----------
    steps
        Optimiser steps of one search step.
    search_steps
        Bisection steps on c; c grows tenfold while nothing is found.
    learning_rate
        Step size of Adam, which is reset at every search step. In pixels for ``projected``; in the tanh variable
        for ``tanh``, where 0.005 hardly moves a pixel that is exactly 0 or 1 in 1000 steps and 0.1 does.
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
        If no image with the full `confidence` is found inside the ball, return the one with the largest lead seen
        there, if any leads, instead of the clean one.
    confidence, targeted, micro_batch
        See `memory_defense.attacks`; the confidence is the paper's kappa.
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
    norms: ClassVar[tuple[str, ...]] = ("l2",)

    def __post_init__(self) -> None:
        positive = {"learning_rate": self.learning_rate}
        if self.initial_const is not None:
            positive["initial_const"] = self.initial_const
        counts = {"steps": self.steps, "search_steps": self.search_steps}
        check_search(self.confidence, self.micro_batch, {}, positive, **counts)
        if self.variant not in ("projected", "tanh"):
            raise ValueError(f"variant is {self.variant!r}, expected 'projected' or 'tanh'")

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        del draws  # nothing is random
        if ball.norm != "l2":
            raise ValueError(
                f"this attack minimises the L2 distance, the ball is {ball.norm}; use threat.L2(epsilon), "
                "L2(float('inf')) for no limit, or Pgd(loss='margin') for an L-inf ball"
            )
        with attacked(model, images, labels, self.micro_batch, exact=True) as victim:
            clean = images.clamp(0, 1)
            if ball.epsilon == 0:
                return clean
            search = Bisection(self, victim, clean, ball)
            for _ in range(self.search_steps):
                search.step()
            return search.result()


PAPER_CW = CarliniWagner(
    steps=1000, search_steps=5, learning_rate=5e-3, initial_const=1e-2, variant="tanh", abort_early=True
)
"""The attack as the paper runs it: cleverhans' defaults, which barely move saturated pixels."""


@dataclass
class _Descent:
    """One micro-batch in the middle of a search step; every field has the images as its first axis."""

    rows: Rows
    clean: Images
    point: Tensor
    """The variable of the optimiser: pixels, or their arctanh."""
    first: Tensor
    second: Tensor
    const: PerImage
    loss: PerImage
    checked: PerImage
    """The loss at the last check for progress."""


class Bisection:
    """The search for c: what is known about every image between search steps.

    Distances are squared, as in the objective; their roots would make ties of distances that differ.
    """

    def __init__(self, attack: CarliniWagner, victim: Victim, clean: Images, ball: Ball) -> None:
        self.attack, self.victim, self.clean = attack, victim, clean
        self.tanh, self.most = attack.variant == "tanh", ball.epsilon**2
        self.found = attack.closest(victim, clean, ball)
        self.start = clean.clone()
        self.low = clean.new_zeros(len(clean))
        self.high = clean.new_full((len(clean),), math.inf)
        self.const = clean.new_full((len(clean),), attack.initial_const or _CONST_FALLBACK)
        self.rows = self._still_right(victim.all_rows())

    def _still_right(self, rows: Rows) -> Rows:
        """Settle the images that fool the model as they are; return the others, with a first constant each."""
        for part in self.victim.parts(rows):
            if self.attack.initial_const is None:
                seen = self.victim.gradient(self.clean[part], part, self._hinge)
                logits, self.const[part] = seen.logits, first_const(seen.losses, seen.gradient)
            else:
                logits = self.victim.answers(self.clean[part], part)
            lead, goal = self._lead_and_goal(logits, self.victim.labels[part])
            self.found.distance[part] = torch.where((lead >= goal) & (lead > 0), 0.0, math.inf)
        return rows[self.found.distance.isinf()]

    def _lead_and_goal(self, logits: Logits, labels: Labels) -> tuple[PerImage, PerImage]:
        """Return the lead of the wrong (or the target) class, and the lead that counts as success."""
        lead = margin(logits, labels)
        goal = self.attack.confidence + ROUNDING * logits.detach().abs().amax(1)
        return (-lead if self.attack.targeted else lead), goal

    def _hinge(self, logits: Logits, labels: Labels) -> PerImage:
        lead, goal = self._lead_and_goal(logits, labels)
        return (goal - lead).clamp(min=0)

    def step(self) -> None:
        """Minimise the objective with the present constants, and choose the next ones."""
        attack = self.attack
        succeeded = torch.zeros_like(self.low, dtype=torch.bool)
        parts = [self._begin(part) for part in self.victim.parts(self.rows)]
        interval = max(1, attack.steps // 10)
        for step in range(attack.steps):
            for part in parts:
                self._descend(part, step, succeeded)
            if attack.abort_early and (step + 1) % interval == 0:
                parts = self._drop_stalled(parts)
        for part in parts:
            self.start[part.rows] = part.point
        self.high = torch.where(succeeded, torch.minimum(self.high, self.const), self.high)
        self.low = torch.where(succeeded, self.low, torch.maximum(self.low, self.const))
        middle = (self.low + self.high) / 2
        self.const = torch.where(middle.isinf(), self.const * _CONST_GROWTH, middle)

    def _begin(self, rows: Rows) -> _Descent:
        clean, const, found = self.clean[rows], self.const[rows], self.found
        if self.tanh:
            point = ((2 * clean - 1) * _SATURATION).atanh()
        else:
            point = torch.where(column(found.distance[rows].isfinite()), found.best[rows], self.start[rows])
        unknown = torch.full_like(const, math.inf)
        zeros = torch.zeros_like(point), torch.zeros_like(point)
        return _Descent(rows, clean, point, *zeros, const, unknown, unknown)

    def _descend(self, part: _Descent, step: int, succeeded: Tensor) -> None:
        """Judge the iterate, remember it if it is the closest, and take one Adam step in place."""
        image = (part.point.tanh() + 1) / 2 if self.tanh else part.point
        seen = self.victim.gradient(image, part.rows, self._hinge)
        offset = image - part.clean
        distance = offset.square().flatten(1).sum(1)
        part.loss = distance + part.const * seen.losses
        lead, goal = self._lead_and_goal(seen.logits, self.victim.labels[part.rows])
        fooled = (lead >= goal) & (lead > 0)
        succeeded[part.rows] |= fooled
        self.found.keep_closest(image, part.rows, fooled, distance)
        self.found.keep_boldest(image, part.rows, (distance <= self.most) & (lead > 0), lead)

        gradient = offset.mul_(2).addcmul_(seen.gradient, column(part.const))
        if self.tanh:
            gradient.mul_(image * (1 - image) * 2)
        self._adam(part, gradient, step)

    def _adam(self, part: _Descent, gradient: Tensor, step: int) -> None:
        """Move the point as Adam does (Kingma & Ba 2015), bias correction included."""
        rate = self.attack.learning_rate
        if not self.tanh:
            rate *= (1 + math.cos(math.pi * step / self.attack.steps)) / 2
        forget_first, forget_second = (1 - beta for beta in _BETAS)
        unbias_first, unbias_second = (1 - beta ** (step + 1) for beta in _BETAS)
        part.first.lerp_(gradient, forget_first)
        part.second.lerp_(gradient.square_(), forget_second)
        scale = (part.second / unbias_second).sqrt_().add_(1e-8)
        part.point.addcdiv_(part.first, scale, value=-rate / unbias_first)
        if not self.tanh:
            part.point.clamp_(0, 1)

    def _drop_stalled(self, parts: list[_Descent]) -> list[_Descent]:
        """Take out the images whose loss no longer falls, and pack the others into full micro-batches."""
        moving = [part.loss <= 0.9999 * part.checked for part in parts]
        for part, keep in zip(parts, moving, strict=True):
            part.checked = part.loss
            self.start[part.rows[~keep]] = part.point[~keep]
        if all(bool(keep.all()) for keep in moving):
            return parts
        packed = [
            torch.cat([getattr(part, one.name)[keep] for part, keep in zip(parts, moving, strict=True)])
            for one in fields(_Descent)
        ]
        size = self.victim.micro_batch
        return [
            _Descent(*(whole[start : start + size] for whole in packed)) for start in range(0, len(packed[0]), size)
        ]

    def result(self) -> Images:
        """Return the closest images found that lie inside the ball, judged once more as they are returned."""
        return self.found.judged(self.found.distance <= self.most, self.rows)


def first_const(losses: PerImage, gradient: Tensor) -> PerImage:
    """Return (B,) the c at which a linear f, minimised together with the distance, is overshot by a half."""
    slope = gradient.square().flatten(1).sum(1)
    const = (3 * losses / slope.clamp(min=1e-30)).clamp(*_CONST_RANGE)
    return torch.where(slope > 0, const, _CONST_FALLBACK)
