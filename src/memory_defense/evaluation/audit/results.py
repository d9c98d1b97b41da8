"""Checks of the finished numbers: sanity that any correct attack must show (Carlini et al. 2019, section 5)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch

from memory_defense.contracts import Attack, Ball, PerImage, Restarting, Targeting, targets_of, transfers_of
from memory_defense.evaluation.audit.findings import HALF_POINT, Check, Findings, above, gradient_free, line, pieces
from memory_defense.evaluation.audit.probes import gain_of_one_step, within
from memory_defense.evaluation.cases import parameters_of
from memory_defense.evaluation.metrics import judge_batches, predict
from memory_defense.evaluation.record import AttackResult, AuditLine
from memory_defense.evaluation.robustness import Outcome
from memory_defense.threat import TOLERANCE, Linf

TENTH = 0.1
"""Share of a few images that chance explains."""


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


def iterative_beats_single_step(findings: Findings) -> AuditLine:
    """Carlini et al. 2019, section 5.2: an iterative attack must be at least as strong as one step."""
    pairs = [pair for pair in _pairs(findings, "fgsm", ("bim", "pgd")) if not findings.transfers(pair[0].case)]
    worse = max((strong.result.accuracy - weak.result.accuracy for weak, strong in pairs), default=None)
    return above(
        "iterative at least as strong as single-step",
        worse if pairs else gain_of_one_step(findings),
        HALF_POINT if pairs else 2 * TENTH,
        "largest accuracy under an iterative attack less that under FGSM with the same knowledge and ball, or "
        "under one step of itself on a few images; above 0 (0.2 for the few) the iterative attack is stuck, "
        "which points to masked gradients",
        "raise steps or restarts, use the margin loss, or differentiate a smoother surrogate",
        "no attack of several steps saw enough correctly classified images",
    )


def stronger_than_noise(findings: Findings) -> AuditLine:
    """An attack that random noise of the same budget matches has found nothing."""
    evaluation = findings.evaluation
    attacked: list[Ball] = [
        one.ball for one in evaluation.broken if one.ball.norm == "linf" and 0 < one.ball.epsilon < float("inf")
    ]
    check = "attack stronger than random noise"
    meaning = (
        "accuracy under random sign noise minus worst-case accuracy in the same ball; near 0 the attacks are "
        "no better than noise"
    )
    remedy = "attack the part that decides; try knowledge 'selector' and 'end-to-end'"
    if not attacked:
        return line(check, None, None, meaning, remedy, "nothing was attacked in an L-inf ball")
    ball = max(attacked, key=lambda one: one.epsilon)
    draws, right = findings.draws("noise", len(evaluation.images)), list[PerImage]()
    for rows in judge_batches(evaluation.images):
        signs = 2 * draws.rows(rows).integers(2, *evaluation.images.shape[1:]) - 1
        noisy = (evaluation.images[rows] + ball.epsilon * signs).clamp(0, 1)
        right.append(predict(findings.defense, noisy) == evaluation.labels[rows])
    under_noise = torch.cat(right).float().mean().item()
    worst = evaluation.state.inside(ball).robust.float().mean().item()
    gap = under_noise - worst
    stuck = gap < HALF_POINT and worst > 1.5 / findings.classes and under_noise < evaluation.clean.accuracy - 0.1
    plain = any(one.case.purpose == "table" for one in evaluation.outcomes)
    failed = gap < HALF_POINT and worst > 1.5 / findings.classes if plain else stuck
    return line(check, failed, gap, meaning, remedy)


def protocol_stronger_than_noise(findings: Findings) -> AuditLine:
    """The same question for each knowledge alone: the weakest surrogate that was called an attack."""
    evaluation = findings.evaluation
    best = {
        one.ball.epsilon: one.robust.float().mean().item() for one in evaluation.broken if one.ball.norm == "linf"
    }
    strongest: dict[tuple[float, str], float] = {}
    for result in findings.results:
        if result.epsilon in best and result.norm == "linf" and "purpose" not in result.parameters:
            key = (result.epsilon, result.knowledge)
            strongest[key] = min(strongest.get(key, 1.0), result.accuracy)
    gaps = [left - best[epsilon] for (epsilon, _), left in strongest.items()]
    return above(
        "every knowledge finds more than the weakest attack does",
        max(gaps, default=None),
        0.1,
        "largest gap between what one knowledge leaves standing and the worst case in the same ball; where it is "
        "large, reporting this knowledge alone would overstate robustness",
        "report the worst case over every knowledge, never one protocol alone",
        "a cascade shows each knowledge only what the ones before it left standing; a table compares them",
    )


def _curves(findings: Findings) -> dict[str, list[AttackResult]]:
    """Return each knowledge's curve, small radii first."""
    curves: dict[str, list[AttackResult]] = {}
    for result in findings.results:
        if result.parameters.get("purpose") == "curve":
            curves.setdefault(result.knowledge, []).append(result)
    return {name: sorted(points, key=lambda one: one.epsilon) for name, points in curves.items()}


def monotone_in_epsilon(findings: Findings) -> AuditLine:
    """Carlini et al. 2019, section 5.3: a larger ball contains the smaller one."""
    curves = [points for name, points in _curves(findings).items() if name not in transfers_of(findings.defense)]
    rises = [later.accuracy - earlier.accuracy for points in curves for earlier, later in pairwise(points)]
    return above(
        "accuracy falls with epsilon",
        max(rises, default=None),
        2 * HALF_POINT,
        "largest rise of accuracy between two neighbouring radii of one curve; a rise means a failing optimiser",
        "use step sizes that follow epsilon, more steps, or start from the smaller radius' images",
        "no curve of one attack at several radii was asked for",
    )


def chance_at_large_epsilon(findings: Findings) -> AuditLine:
    """Carlini et al. 2019, section 5.3: with half the pixel range any image can be turned grey."""
    curves = [points for points in _curves(findings).values() if points[-1].epsilon >= 0.5]
    ends = min((points[-1].accuracy for points in curves), default=None)
    return above(
        "accuracy reaches chance at a large epsilon",
        within(findings, Linf(0.5)) if ends is None else ends,
        1.5 / findings.classes if curves else max(1.5 / findings.classes, TENTH),
        "lowest accuracy at an L-inf radius of at least 0.5, where every image can become plain grey, of a curve "
        "or, without one, of a few images under the first gradient attack; above chance the attack fails for "
        "reasons of its own",
        "attack with another knowledge, more steps, or without gradients",
        "no attack of five or more steps on the exact model saw enough correctly classified images",
    )


def curve_reaches_zero(findings: Findings) -> AuditLine:
    """Carlini et al. 2019, section 5.3: the success rate against the budget must reach 100 %."""
    ends = [points[-1].accuracy for points in _curves(findings).values() if len(points) > 1]
    return above(
        "the curve against epsilon reaches 0 %",
        min(ends, default=None),
        0.01,
        "lowest accuracy at the end of any curve of accuracy against epsilon; an unbounded attack succeeds on "
        "every image, so a curve that ends above 0 ends too early or belongs to a failing attack",
        "extend the curve to an L-inf radius of 0.5; if it still does not reach 0, fix the attack",
        "no curve of one attack at several radii was asked for; the check at a large epsilon stands for its end",
    )


def step_within_epsilon(findings: Findings) -> AuditLine:
    """A step larger than the radius jumps between the ball's corners (the paper's BIM does)."""
    steps = [
        (parameters_of(case.attack)["step_size"], case.ball.epsilon)
        for case, _ in findings.tried
        if "step_size" in parameters_of(case.attack) and case.ball.epsilon > 0
    ]
    ratios = [size / epsilon for size, epsilon in steps if isinstance(size, float)]
    return line(
        "step no larger than epsilon",
        any(ratio > 1 for ratio in ratios) if steps else None,
        max(ratios, default=None),
        "largest step size that was set by hand, in units of epsilon; above 1 an iterative attack flips between "
        "corners of its ball",
        "leave step_size out, and it follows epsilon; a published setting may stay if it is labelled as such",
        "no attack that was run has a step size",
    )


def ball_respected(findings: Findings) -> AuditLine:
    """Every returned image was measured before it was judged; a violation ends the evaluation."""
    excess = [
        float((one.distance[one.done] - case.ball.epsilon).max())
        for case, one in findings.tried
        if case.ball.epsilon != float("inf")
    ]
    return above(
        "every image inside its ball and inside [0, 1]",
        max(excess, default=None),
        TOLERANCE * 10,
        "largest distance of any returned image beyond its radius, rounding included",
        "fix the attack's projection; its result is refused",
        "nothing was attacked in a bounded ball",
    )


def better_than_chance(findings: Findings) -> AuditLine:
    """Carlini et al. 2019, section 4: clean accuracy is reported along with robust accuracy."""
    clean = findings.evaluation.clean
    return line(
        "clean accuracy, with its interval, is above chance",
        clean.ci95[0] <= 1 / findings.classes,
        clean.accuracy,
        f"clean accuracy; its 95 % interval is {100 * clean.ci95[0]:.1f} to {100 * clean.ci95[1]:.1f} %. A "
        "classifier that does no better than guessing has no robustness to measure",
        "train the classifier, check that labels and images belong together, or evaluate more images",
    )


def _twice_the_budget(few: Attack, many: Attack) -> bool:
    """Return whether the attacks differ in steps or queries alone, `many` having at least twice as many."""
    short, long = parameters_of(few), parameters_of(many)
    changed = [name for name in short if short[name] != long.get(name)]
    if type(few) is not type(many) or changed not in (["steps"], ["queries"]):
        return False
    before, after = short[changed[0]], long.get(changed[0])
    return isinstance(before, int) and isinstance(after, int) and after >= 2 * before


def more_iterations_change_nothing(findings: Findings) -> AuditLine:
    """Carlini et al. 2019, section 5.2: an attack has converged when twice the iterations find nothing more."""
    gains: list[float] = []
    runs = [(case, one) for case, one in findings.tried if case.purpose != "curve" and not findings.transfers(case)]
    for few, less in runs:
        for many, more in runs:
            same_task = (few.knowledge, few.ball) == (many.knowledge, many.ball)
            if same_task and _twice_the_budget(few.attack, many.attack):
                both = less.done & more.done
                won = int((more.fooled & both).sum()) - int((less.fooled & both).sum())
                gains.append(won / len(findings.evaluation.labels))
    return above(
        "twice the iterations find nothing more",
        max(gains, default=None),
        HALF_POINT,
        "largest share of all images that an attack breaks with at least twice the steps or queries, and not "
        "without, all else equal; above 0 the shorter run has not converged, and perhaps the longer one has not "
        "either",
        "raise the steps until nothing changes; add a case that differs in its steps alone where this was not run",
        "no two attacks differ in their steps or queries alone; a cascade's later attacks took on its survivors",
    )


def several_starts(findings: Findings) -> AuditLine:
    """Carlini et al. 2019, section 5.4: one start finds one local maximum."""
    attacks = [
        piece
        for case, _ in findings.tried
        if not gradient_free(case) and not findings.transfers(case)
        for piece in pieces(case)
        if isinstance(piece, Restarting | Targeting)
    ]
    starts = max(
        (max(one.restarts if isinstance(one, Restarting) else 1, targets_of(one) or 1) for one in attacks),
        default=0,
    )
    return line(
        "gradient attacks start more than once",
        False if starts > 1 else None,
        float(starts),
        "most runs that one gradient attack makes on an image: restarts, or target classes tried in turn",
        "set restarts above 1, or add a targeted attack that tries several classes",
        "no gradient attack that was run starts more than once",
    )


RESULT_CHECKS: dict[str, Check] = {
    "iterative": iterative_beats_single_step,
    "noise": stronger_than_noise,
    "knowledge": protocol_stronger_than_noise,
    "monotone": monotone_in_epsilon,
    "chance": chance_at_large_epsilon,
    "curve-end": curve_reaches_zero,
    "step": step_within_epsilon,
    "ball": ball_respected,
    "clean": better_than_chance,
    "iterations": more_iterations_change_nothing,
    "starts": several_starts,
}
"""Checks of the numbers, in the order of the report."""
