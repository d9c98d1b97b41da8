"""One of the evaluation's own attacks, made once more on a few images: what several checks compare with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch

from memory_defense.contracts import (
    Ball,
    Images,
    Labels,
    PerImage,
    Restarting,
    Rows,
    Stepping,
    needs_gradient,
    works_in,
)
from memory_defense.evaluation.audit.findings import Findings
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.metrics import judged
from memory_defense.evaluation.state import CaseState
from memory_defense.foreign import MemoryShortError
from memory_defense.randomness import ImageDraws

_FEWEST, _MOST, _SHARE = 16, 48, 12
"""Images that are attacked: one in `_SHARE` of the evaluation's, within these limits."""

_STEPS = 5
"""Steps below which an attack does not reach far into a large ball."""

USABLE = 8
"""Images below which nothing is said."""


def few_correct(findings: Findings) -> Rows:
    """Return the rows of a few images that are right when clean."""
    evaluation = findings.evaluation
    many = min(_MOST, max(_FEWEST, len(evaluation.labels) // _SHARE))
    return evaluation.correct.nonzero().squeeze(1)[:many]


def first_attack(findings: Findings) -> tuple[Case, CaseState] | None:
    """Return the first gradient attack on the exact model in the largest ball, which saw most images."""
    wanted = findings.balls
    runs = [
        (case, one)
        for case, one in findings.tried
        if case.ball in wanted and case.ball.epsilon > 0 and case.purpose != "curve"
        if case.knowledge == findings.exact and needs_gradient(case.attack) and not findings.transfers(case)
    ]
    return max(runs, key=lambda run: int(run[1].done.sum()), default=None)


def withstand(findings: Findings, case: Case, images: Images, labels: Labels, draws: ImageDraws) -> PerImage:
    """Return (B,) bool: the case's attack on these images finds nothing."""
    try:
        found = case.attack(findings.surrogate(case.knowledge, images), images, labels, case.ball, draws)
    except MemoryShortError:
        raise
    except ValueError:  # no gradient, so that nothing is found
        return torch.ones_like(labels, dtype=torch.bool)
    wrong, _ = judged(findings.defense, found, labels, findings.evaluation.submissions)
    return ~wrong


def within(findings: Findings, ball: Ball) -> float | None:
    """Return the accuracy of a few right images under the first gradient attack in this ball; None for too few."""
    run, rows = first_attack(findings), few_correct(findings)
    if run is None or len(rows) < USABLE or not works_in(run[0].attack, ball.norm):
        return None
    if not isinstance(run[0].attack, Stepping) or run[0].attack.steps < _STEPS:
        return None
    case = replace(run[0], ball=ball)
    clean, labels = findings.evaluation.images[rows], findings.evaluation.labels[rows]
    return float(withstand(findings, case, clean, labels, findings.draws("large", len(rows))).float().mean())


def gain_of_one_step(findings: Findings) -> float | None:
    """Return how many more of a few images the first gradient attack leaves than a single step of it does.

    None where it has no steps, or saw too few of them.
    """
    run = first_attack(findings)
    if run is None or not isinstance(run[0].attack, Stepping) or run[0].attack.steps < 2:
        return None
    case, one = run
    rows = few_correct(findings)
    rows = rows[one.done[rows]]
    if len(rows) < USABLE:
        return None
    attack = cast("Any", case.attack)
    fewer = {"restarts": 1} if isinstance(case.attack, Restarting) else {}
    attack = replace(attack, steps=1, **fewer)
    single = replace(case, attack=attack)
    clean, labels = findings.evaluation.images[rows], findings.evaluation.labels[rows]
    left = withstand(findings, single, clean, labels, findings.draws("one step", len(rows))).float().mean()
    return float((~one.fooled[rows]).float().mean()) - float(left)
