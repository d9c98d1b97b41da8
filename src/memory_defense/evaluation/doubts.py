"""Whether a model is another one for whoever evaluates it, found out before it is attacked and after.

Two ways lead past every attack. A defense that learns from what it is asked has seen the clean images before the
first attack begins; one that notices float images between two grey levels shows an attack something else than what
it shows a file. Both are found by asking, and both are then attacked as they are: the first as it was before its
first answer, the second at whole levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memory_defense.contracts import Classifier, Images, Labels, Logits, needs_gradient
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.grid import on_grid, tells_levels
from memory_defense.evaluation.invariance import undisturbed
from memory_defense.passes import regular
from memory_defense.randomness import ImageDraws, seeded
from memory_defense.wrappers import frozen
from memory_defense.wrappers.untouched import Forgetful, Untouched

LOOKED_AT = 64
"""The most images that are asked about."""

_SAME = 1e-3

LEARNED = 0.01
"""Share of moved images answered otherwise than before the first question, above which it is attacked untouched."""

ROUNDED = 0.02
"""Share of images that only their whole levels break, above which the model is attacked at these."""

TOLD = 0.1
"""Share of images answered otherwise between two levels above which the model tells them apart."""


_EQUAL = 0.02
"""Spread of the clean images' leads, as a share of their mean, below which the answers are labels in disguise."""

_SATURATED = 1e-6


@dataclass(frozen=True, kw_only=True)
class Doubts:
    """What was found out about a model beside its verdicts."""

    kept: int | None = None
    """Things outside its parameters that its answers changed; None where nobody looked."""
    learned: float = 0.0
    """Share of moved images that it answers otherwise than before its first question."""
    levels: float | None = None
    """Share of images that it answers otherwise between two grey levels; None where images are so themselves."""
    outside: tuple[str, ...] = ()
    """Files written, connections and programs while it was asked about the clean images."""
    labels_only: bool = False
    """Whether its answers look one-hot or saturated, so that they tell little more than a label."""
    rounded: float = 0.0
    """Share of images that were broken at whole grey levels, and not as the attack had them."""


def first_gradient(cases: Sequence[Case]) -> Case | None:
    """Return the first case that follows a gradient in a ball that is not a point; None without any."""
    return next((one for one in cases if needs_gradient(one.attack) and one.ball.epsilon > 0), None)


def learned(
    model: Classifier, untouched: Untouched, images: Images, labels: Labels, case: Case, *, seed: int
) -> float:
    """Return the share of moved images that the model, as it is now, answers otherwise than untouched.

    They are what a short attack finds against the untouched model, and random points of the ball. The model is
    as it was afterwards.

    Parameters
    ----------
    model
        In eval mode.
    untouched
        What it was before its first answer.
    images, labels
        (N, C, H, W) and (N,); the first `LOOKED_AT` are asked about.
    case
        Its attack and its ball.
    seed
        Seed of the draws.
    """
    now, images, labels = Untouched(model), images[:LOOKED_AT], labels[:LOOKED_AT]
    draws = ImageDraws.of(seed, "learned", len(images), images.device)
    fresh = regular(Forgetful(model, untouched))
    try:
        with frozen(model), undisturbed(seed):
            found = case.attack(fresh, images, labels, case.ball, draws)
            points = torch.cat([found, case.ball.random_point(images, draws.child("noise"))])
            before, again = _asked(fresh, points, seed), _asked(fresh, points, seed)
            now.put_back()
            after = _asked(regular(model), points, seed)
    finally:
        now.put_back()
    differ, by_chance = _differ(before, after), _differ(before, again)
    return max(0.0, float(differ.float().mean()) - float(by_chance.float().mean()))


@torch.no_grad()
def after_clean(model: Classifier, untouched: Untouched, images: Images, *, seed: int) -> int:
    """Ask the model about the clean images, the untouched one if it keeps anything; return how much changed."""
    with frozen(model), undisturbed(seed):
        _asked(regular(model), images, seed)
        if untouched.changed():
            untouched.put_back()
            _asked(regular(model), images, seed)
        return untouched.changed()


def between_levels(model: Classifier, images: Images, case: Case, *, seed: int) -> float | None:
    """Return the share of images that the model tells apart by half a level; None where images are so."""
    images = images[:LOOKED_AT]
    if not on_grid(images):
        return None
    draws = ImageDraws.of(seed, "levels", len(images), images.device)
    with frozen(model), undisturbed(seed):
        told = tells_levels(model, images, case.ball, draws)
    return float(told.float().mean())


def tells_labels_only(model: Classifier, images: Images, *, seed: int) -> bool:
    """Whether the clean images' logits look one-hot, or so far apart that their softmax is."""
    with frozen(model), undisturbed(seed):
        logits = _asked(regular(model), images[:LOOKED_AT], seed).float()
    if logits.dim() != 2 or logits.shape[1] < 2 or len(logits) < 2 or not bool(logits.isfinite().all()):
        return False
    best = logits.topk(2).values
    lead = best[:, 0] - best[:, 1]
    others = 1 - logits.softmax(1).amax(1)
    equal = bool(lead.std() < _EQUAL * lead.mean().abs())
    return equal or bool((others < _SATURATED).float().mean() > 0.5)


@torch.no_grad()
def _asked(model: Classifier, points: Images, seed: int) -> Logits:
    with seeded(seed, "doubts"):
        return torch.cat([model(part) for part in torch.split(points, LOOKED_AT)])


def _differ(one: Logits, other: Logits) -> Tensor:
    """Return (B,) bool: another answer, or logits that differ by more than rounding."""
    apart = (one - other).square().sum(1).sqrt() > _SAME * one.square().sum(1).sqrt()
    return apart | (one.argmax(1) != other.argmax(1)) | ~other.isfinite().all(1)
