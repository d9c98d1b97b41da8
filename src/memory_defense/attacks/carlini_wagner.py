"""The L2 attack of Carlini & Wagner 2017 (arXiv 1608.04644): the smallest change that fools the model.

For each image and a constant c it minimises ``||x - clean||^2 + c * f(x)``, where the hinge
``f = max(confidence - margin, 0)`` is 0 once another class leads by `confidence`; c is found by bisection
(`carlini_wagner_search`). Nothing is shared in a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from memory_defense.attacks.carlini_wagner_search import Plan, Search
from memory_defense.attacks.engine import attacked, check_settings
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels

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
    each_once: ClassVar[bool] = True

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
