"""Probes of the attacked model: is there a gradient to follow, and does noise find what the attacks do not?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch

from memory_defense.contracts import (
    Ball,
    Classifier,
    Images,
    Labels,
    PerImage,
    Restarting,
    Rows,
    Stepping,
    needs_gradient,
    works_in,
)
from memory_defense.evaluation.audit.findings import Check, Findings, above, line
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.metrics import judged
from memory_defense.evaluation.odd import NAMED
from memory_defense.evaluation.record import AuditLine
from memory_defense.evaluation.state import CaseState
from memory_defense.foreign import MemoryShortError, ModelError, out_of_memory
from memory_defense.losses import AdversarialLoss, cross_entropy, margin
from memory_defense.noticed import finite_rows
from memory_defense.randomness import ImageDraws
from memory_defense.wrappers import gradient_at, rows_of

NOISE_DRAWS = 50
"""Random points of each image's ball that are judged."""

_NOISED = 64
"""Number of images that noise is tried on."""

_TOLERATED = 0.01
"""Share of images without a gradient above which an attack is not to be believed."""


def surface_point(ball: Ball, clean: Images, draws: ImageDraws) -> Images:
    """Return a random point of each ball's surface, inside [0, 1]: a corner of the cube, or a random direction."""
    step = ball.ascent(draws.normal(*clean.shape[1:]).to(clean))
    return ball.project(clean + ball.epsilon * step, clean)


def without_gradient(model: Classifier, images: Images, labels: Labels, loss: AdversarialLoss) -> PerImage:
    """Return (B,) bool: the gradient of the loss with respect to the image is exactly 0, NaN, or does not exist."""
    try:
        return _without_gradient(model, images, labels, loss)
    except Exception as error:  # asked anew below, where nothing holds on to what filled the memory
        if not out_of_memory(error) or len(images) == 1:
            raise
    halves = torch.arange(len(images), device=images.device).tensor_split(2)
    parts = [without_gradient(rows_of(model, half), images[half], labels[half], loss) for half in halves]
    return torch.cat(parts)


def _without_gradient(model: Classifier, images: Images, labels: Labels, loss: AdversarialLoss) -> PerImage:
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        try:
            gradient = gradient_at(leaf, lambda: loss(model(leaf), labels).sum())
        except ModelError:  # it answers, but not where a gradient is asked for
            gradient = None
    if gradient is None:
        return torch.ones_like(labels, dtype=torch.bool)
    return (gradient == 0).flatten(1).all(1) | ~finite_rows(gradient)


def _gradient_exists(name: str, loss: AdversarialLoss, remedy: str) -> Check:
    """Return AutoAttack's third flag, for one loss."""

    def run(findings: Findings) -> AuditLine:
        images, labels = findings.probe
        model = findings.surrogate(findings.exact, images)
        points = [images]
        points += [
            ball.random_point(images, findings.draws(f"gradient {ball.norm}", len(images)))
            for ball in findings.balls
            if ball.epsilon > 0
        ]
        missing = torch.stack([without_gradient(model, one, labels, loss) for one in points])  # (points, B)
        return above(
            f"the {name} has a gradient",
            float(missing.float().mean(1).max()),
            _TOLERATED,
            f"largest share of images where the gradient of the {name} is exactly 0, NaN or infinite, at the clean "
            "image or at a random point of the ball; a gradient attack cannot move such an image"
            + _few(findings.probe_ids[missing.any(0)]),
            remedy,
        )

    return run


def _few(ids: Rows) -> str:
    """Return the ids (M,) for the end of a sentence, where they are so few that somebody may look at each."""
    if not 0 < len(ids) <= NAMED:
        return ""
    return f" (id {', '.join(str(int(one)) for one in ids)})"


def stronger_than_many_draws(findings: Findings) -> AuditLine:
    """Carlini et al. 2019, section 5.1: random noise with many draws, image by image, must find nothing new."""
    evaluation = findings.evaluation
    rows = evaluation.correct.nonzero().squeeze(1)[:_NOISED]
    check = f"attacks find all that {NOISE_DRAWS} draws of noise do"
    meaning = (
        f"largest share of {len(rows)} images that one of {NOISE_DRAWS} random points on the surface of the ball "
        "breaks and no attack did"
    )
    remedy = "give the attacks more steps, restarts or queries; for a randomised defense raise submissions"
    balls = [ball for ball in findings.balls if ball.epsilon > 0]
    if len(rows) == 0 or not balls:
        return line(check, None, None, meaning, remedy)
    clean, labels = evaluation.images[rows], evaluation.labels[rows]
    worst = 0.0
    for ball in balls:
        draws = findings.draws(f"many draws {ball.norm}", len(evaluation.images)).rows(rows)
        standing = evaluation.state.inside(ball).robust[rows].nonzero().squeeze(1)
        missed = 0
        for number in range(NOISE_DRAWS):
            if len(standing) == 0:
                break
            noisy = surface_point(ball, clean[standing], draws.rows(standing).child(number))
            wrong, _ = judged(findings.defense, noisy, labels[standing], evaluation.submissions)
            missed += int(wrong.sum())
            standing = standing[~wrong]
        worst = max(worst, missed / len(rows))
    return above(check, worst, 0, meaning, remedy)


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


PROBES: dict[str, Check] = {
    "zero-cross-entropy": _gradient_exists(
        "cross-entropy", cross_entropy, "attack with the margin or the DLR loss, which do not saturate"
    ),
    "zero-margin": _gradient_exists(
        "margin loss",
        margin,
        "differentiate a stand-in (wrappers.Bpda, StraightThrough), and attack without gradients",
    ),
    "many-draws": stronger_than_many_draws,
}
"""Probes, in the order of the report."""
