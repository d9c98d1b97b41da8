"""The audit: can these numbers be believed, and what is the defense really doing?

Each check looks at finished outcomes or probes the defense once, and says pass, fail or not run with a
remedy. The checks follow Carlini et al. 2019 (On Evaluating Adversarial Robustness) and the ways in which
a label-fed memory defense can mislead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch

from memory_defense.contracts import Defense, SlotDefense
from memory_defense.evaluation.audit_slots import SLOT_CHECKS
from memory_defense.evaluation.metrics import predict
from memory_defense.evaluation.record import AttackResult, AuditLine, Verdict
from memory_defense.evaluation.robustness import Evaluation, Outcome
from memory_defense.randomness import ImageDraws
from memory_defense.wrappers import frozen

HALF_POINT = 0.005
"""Differences below this are not called differences."""


@dataclass(frozen=True)
class Findings:
    """What the checks read."""

    defense: Defense
    evaluation: Evaluation
    classes: int
    seed: int

    @property
    def results(self) -> list[AttackResult]:
        """Every attack's result."""
        return [outcome.result for outcome in self.evaluation.outcomes]


def line(check: str, failed: bool | None, value: float | None, meaning: str, remedy: str) -> AuditLine:
    """Return an audit line; `failed` None means that the check could not run."""
    verdict: Verdict = "not run" if failed is None else "fail" if failed else "pass"
    return AuditLine(check=check, verdict=verdict, value=value, meaning=meaning, remedy=remedy)


def audit(defense: Defense, evaluation: Evaluation, *, classes: int, seed: int) -> tuple[AuditLine, ...]:
    """Run every check; those about slots only where the defense answers through slots."""
    findings = Findings(defense, evaluation, classes, seed)
    with frozen(defense):
        lines = [check(findings) for check in CHECKS.values()]
        if isinstance(defense, SlotDefense):
            lines += [check(defense, evaluation, seed) for check in SLOT_CHECKS.values()]
    return tuple(lines)


def _pairs(findings: Findings, weak: str, strong: Iterable[str]) -> list[tuple[Outcome, Outcome]]:
    """Return (weak, strong) outcomes with the same knowledge and ball."""
    outcomes = [one for one in findings.evaluation.outcomes if one.case.purpose == "table"]
    return [
        (first, second)
        for first in outcomes
        for second in outcomes
        if first.case.name == weak
        and second.case.name in strong
        and (first.case.knowledge, first.case.ball) == (second.case.knowledge, second.case.ball)
    ]


def _transfers(findings: Findings, outcome: Outcome) -> bool:
    return outcome.case.knowledge in getattr(findings.defense, "transfer_knowledge", ())


def iterative_beats_single_step(findings: Findings) -> AuditLine:
    """Carlini et al. 2019, section 5.2: an iterative attack must be at least as strong as one step."""
    pairs = [pair for pair in _pairs(findings, "fgsm", ("bim", "pgd")) if not _transfers(findings, pair[0])]
    gaps = [strong.result.accuracy - weak.result.accuracy for weak, strong in pairs]
    worst = max(gaps, default=None)
    return line(
        "iterative at least as strong as single-step",
        None if worst is None else worst > HALF_POINT,
        worst,
        "largest accuracy under an iterative attack less that under FGSM with the same knowledge and ball; "
        "above 0 the iterative attack is stuck, which points to masked gradients",
        "raise steps or restarts, use the margin loss, or differentiate a smoother surrogate",
    )


def stronger_than_noise(findings: Findings) -> AuditLine:
    """An attack that random noise of the same budget matches has found nothing."""
    evaluation = findings.evaluation
    attacked = [
        outcome
        for outcome in evaluation.outcomes
        if outcome.case.ball.norm == "linf" and outcome.case.purpose == "table"
    ]
    check = "attack stronger than random noise"
    meaning = (
        "accuracy under random sign noise minus worst-case accuracy in the same ball; near 0 the attacks are "
        "no better than noise"
    )
    remedy = "attack the part that decides; try knowledge 'selector' and 'end-to-end'"
    if not attacked:
        return line(check, None, None, meaning, remedy)
    ball = max((outcome.case.ball for outcome in attacked), key=lambda one: one.epsilon)
    draws = ImageDraws.of(findings.seed, "audit noise", len(evaluation.images), evaluation.images.device)
    signs = 2 * draws.integers(2, *evaluation.images.shape[1:]) - 1
    noisy = (evaluation.images + ball.epsilon * signs).clamp(0, 1)
    under_noise = (predict(findings.defense, noisy) == evaluation.labels).float().mean().item()
    worst = next(one.robust for one in evaluation.broken if one.ball == ball).float().mean().item()
    gap = under_noise - worst
    return line(check, gap < HALF_POINT and worst > 1.5 / findings.classes, gap, meaning, remedy)


def protocol_stronger_than_noise(findings: Findings) -> AuditLine:
    """The same question for each knowledge alone: the weakest surrogate that was called an attack."""
    evaluation = findings.evaluation
    check = "every knowledge finds more than the weakest attack does"
    best = {
        one.ball.epsilon: one.robust.float().mean().item() for one in evaluation.broken if one.ball.norm == "linf"
    }
    meaning = (
        "largest gap between what one knowledge leaves standing and the worst case in the same ball; where it is "
        "large, reporting this knowledge alone would overstate robustness"
    )
    remedy = "report the worst case over every knowledge, never one protocol alone"
    strongest: dict[tuple[float, str], float] = {}
    for result in findings.results:
        if result.epsilon in best and result.norm == "linf" and "purpose" not in result.parameters:
            key = (result.epsilon, result.knowledge)
            strongest[key] = min(strongest.get(key, 1.0), result.accuracy)
    gaps = [accuracy - best[key[0]] for key, accuracy in strongest.items()]
    worst = max(gaps, default=None)
    return line(check, None if worst is None else worst > 0.1, worst, meaning, remedy)


def _curves(findings: Findings) -> dict[str, list[AttackResult]]:
    curves: dict[str, list[AttackResult]] = {}
    for result in findings.results:
        if result.parameters.get("purpose") == "curve":
            curves.setdefault(result.knowledge, []).append(result)
    return {name: sorted(points, key=lambda one: one.epsilon) for name, points in curves.items()}


def monotone_in_epsilon(findings: Findings) -> AuditLine:
    """Carlini et al. 2019, section 5.3: a larger ball contains the smaller one."""
    curves = [
        points
        for name, points in _curves(findings).items()
        if name not in getattr(findings.defense, "transfer_knowledge", ())
    ]
    rises = [later.accuracy - earlier.accuracy for points in curves for earlier, later in _neighbours(points)]
    worst = max(rises, default=None)
    return line(
        "accuracy falls with epsilon",
        None if worst is None else worst > 2 * HALF_POINT,
        worst,
        "largest rise of accuracy between two neighbouring radii of one curve; a rise means a failing optimiser",
        "use step sizes that follow epsilon, more steps, or start from the smaller radius' images",
    )


def _neighbours(points: list[AttackResult]) -> list[tuple[AttackResult, AttackResult]]:
    return list(pairwise(points))


def chance_at_large_epsilon(findings: Findings) -> AuditLine:
    """Carlini et al. 2019, section 5.3: with half the pixel range any image can be turned grey."""
    curves = [points for points in _curves(findings).values() if points[-1].epsilon >= 0.5]
    lowest = min((points[-1].accuracy for points in curves), default=None)
    return line(
        "accuracy reaches chance at a large epsilon",
        None if lowest is None else lowest > 1.5 / findings.classes,
        lowest,
        "lowest accuracy at an L-inf radius of at least 0.5, where every image can become plain grey; above "
        "chance the attack fails for reasons of its own",
        "attack with another knowledge, more steps, or without gradients",
    )


def step_within_epsilon(findings: Findings) -> AuditLine:
    """A step larger than the radius jumps between the ball's corners (the paper's BIM does)."""
    steps = [
        (result.parameters["step_size"], result.epsilon)
        for result in findings.results
        if "step_size" in result.parameters and result.epsilon > 0
    ]
    ratios = [float(size) / epsilon for size, epsilon in steps if isinstance(size, float)]
    return line(
        "step no larger than epsilon",
        any(ratio > 1 for ratio in ratios) if steps else None,
        max(ratios, default=None),
        "largest step size that was set by hand, in units of epsilon; above 1 an iterative attack flips between "
        "corners of its ball",
        "leave step_size out, and it follows epsilon; a published setting may stay if it is labelled as such",
    )


def ball_respected(findings: Findings) -> AuditLine:
    """Every returned image was measured before it was judged; a violation ends the evaluation."""
    excess = [
        float((outcome.distance - outcome.case.ball.epsilon).max())
        for outcome in findings.evaluation.outcomes
        if outcome.case.ball.epsilon != float("inf")
    ]
    worst = max(excess, default=None)
    return line(
        "every image inside its ball and inside [0, 1]",
        None if worst is None else worst > 1e-5 * 10,
        worst,
        "largest distance of any returned image beyond its radius, rounding included",
        "mend the attack's projection; its result is refused",
    )


def clean_is_deterministic(findings: Findings) -> AuditLine:
    """A randomised defense judged once per image is judged by luck."""
    evaluation = findings.evaluation
    again = predict(findings.defense, evaluation.images) == evaluation.labels
    share = float((again != evaluation.correct).float().mean())
    return line(
        "same answer when asked twice",
        share > 0,
        share,
        "share of clean images whose verdict changes when they are judged again",
        "turn the randomness off, or attack and judge its expectation (wrappers.Eot)",
    )


def logits_not_probabilities(findings: Findings) -> AuditLine:
    """Softmax outputs make cross-entropy gradients vanish."""
    with torch.no_grad():
        answers = findings.defense(findings.evaluation.images[:128])
    inside = bool((answers >= 0).all() and (answers <= 1).all())
    probabilities = inside and bool(((answers.sum(1) - 1).abs() < 1e-4).all())
    return line(
        "answers are logits, not probabilities",
        probabilities,
        float(probabilities),
        "1 when every answer is non-negative and sums to one",
        "return the values before the softmax",
    )


CHECKS: dict[str, Callable[[Findings], AuditLine]] = {
    "iterative": iterative_beats_single_step,
    "noise": stronger_than_noise,
    "knowledge": protocol_stronger_than_noise,
    "monotone": monotone_in_epsilon,
    "chance": chance_at_large_epsilon,
    "step": step_within_epsilon,
    "ball": ball_respected,
    "deterministic": clean_is_deterministic,
    "logits": logits_not_probabilities,
}
