"""Checks of the set of attacks: what one kind found that another should have found, and what nobody tried.

A cascade shows an attack only what is still standing, so two kinds of attack are compared on the images that both
of them saw, never by their accuracies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from memory_defense.contracts import (
    Ball,
    PerImage,
    aims_at_a_class,
    least_classes,
    needs_gradient,
    sees_labels_only,
)
from memory_defense.evaluation.attempt import EXACT_KNOWLEDGE
from memory_defense.evaluation.audit.findings import TWO_TENTHS, Check, Findings, above, gradient_free, line, pieces
from memory_defense.evaluation.audit.probes import withstand
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.record import AuditLine
from memory_defense.evaluation.replay import EARLIER

_PILOT_SHARE = 0.05
"""Share, beyond chance, of the few images that two cases both saw and only one of them broke."""

_SCOUT_SHARE = 0.02
"""Share of images that a scout without gradients may find and the scouts with gradients may miss."""

_SHOWN = 8
"""Images of a scout that are shown to the gradient attacks that come after it."""

Chosen = Callable[[Case], bool]
Counted = Callable[[PerImage, Ball], PerImage]


def _found_alone(
    findings: Findings, winners: Chosen, others: Chosen, counted: Counted | None = None
) -> float | None:
    """Return the largest share of images, over the balls, that a winner broke and no other case that saw them did.

    A winner's image counts if every other case of this ball, outward cases left aside, saw it; the share is
    of all images. Of the images that only some of them saw, as in a cascade's pilot, the share among them counts,
    if it is above `_PILOT_SHARE`. `counted` says which images count. None where no image was shown to both.
    """
    shares: list[float] = []
    for broken in findings.evaluation.broken:
        ball = broken.ball
        counting = [
            (case, one)
            for case, one in findings.tried
            if case.ball.norm == ball.norm and case.ball.epsilon <= ball.epsilon and case.purpose != "curve"
        ]
        ours = [one for case, one in counting if case.ball == ball and winners(case)]
        theirs = [(case, one) for case, one in counting if case.ball == ball and others(case)]
        leading = [one for case, one in theirs if case.role != "outward"] or [one for _, one in theirs]
        if not ours or not leading:
            continue
        attacked = torch.stack([one.done for one in ours]).any(0)
        won = torch.stack([one.fooled for one in ours]).any(0)
        lost = torch.stack([one.fooled for case, one in counting if others(case)]).any(0)
        every = attacked & torch.stack([one.done for one in leading]).all(0)
        some = attacked & torch.stack([one.done for one in leading]).any(0)
        alone = won & ~lost
        if every.any():
            shares.append(_count(alone & every, ball, counted) / len(alone))
        few = some & ~every
        if few.any() and (share := _count(alone & few, ball, counted) / int(few.sum())) > _PILOT_SHARE:
            shares.append(share)
    return max(shares, default=None)


def _count(found: PerImage, ball: Ball, counted: Counted | None) -> int:
    return int((counted(found, ball) if counted else found).sum())


def _missed_by_all(findings: Findings, found: PerImage, ball: Ball) -> PerImage:
    """Return (N,) bool: a scout's images, less those that a better gradient attack breaks after all.

    Such attacks come after the scouts and never saw them, so `_SHOWN` of the images are shown to them now. If they
    break all of these, the others do not count either. One image is no share of many: it is not looked at then.
    """
    count = int(found.sum())
    unseen = found if count > 1 else torch.zeros_like(found)
    if count / len(found) <= _SCOUT_SHARE:
        return unseen
    better = [
        case
        for case, one in zip(findings.evaluation.cases, findings.evaluation.state.cases, strict=True)
        if case.ball == ball and case.purpose != "curve" and case.role != "scout" and not gradient_free(case)
        if not bool(one.done[found].all()) and case.knowledge == findings.exact
    ]
    if not better:
        return unseen
    rows, evaluation = found.nonzero().squeeze(1)[:_SHOWN], findings.evaluation
    for case in better:
        draws = findings.draws("scout", len(found)).rows(rows)
        rows = rows[withstand(findings, case, evaluation.images[rows], evaluation.labels[rows], draws)]
        if len(rows) == 0:
            return torch.zeros_like(found)
    missed, shown = found.clone(), found.nonzero().squeeze(1)[:_SHOWN]
    missed[shown] = False
    missed[rows] = True
    return missed


def black_box_stronger(findings: Findings) -> AuditLine:
    """Carlini et al. 2019, section 5.1, and AutoAttack's flag: an adversary who sees more must not find less.

    A scout goes ahead of the better gradient attacks, so a little more is allowed to it (`_SCOUT_SHARE`); what is
    above that counts as far as those attacks, shown it now, do not break it, be it a single image of fewer than 50.
    """

    def alone(*, scouts: bool) -> float | None:
        return _found_alone(
            findings,
            lambda case: gradient_free(case) and not findings.transfers(case) and (case.role == "scout") == scouts,
            lambda case: not gradient_free(case) and not findings.transfers(case),
            partial(_missed_by_all, findings) if scouts else None,
        )

    late, early = alone(scouts=False), alone(scouts=True)
    shares = [share for share in (late, early) if share is not None]
    masked = (late or 0.0) > TWO_TENTHS or (early or 0.0) > _SCOUT_SHARE
    return line(
        "no gradient-free attack finds what gradients miss",
        masked if shares else None,
        max(shares, default=None),
        "largest share of images in one ball that an attack without gradients broke, and no gradient attack that "
        "saw the same image did; above 0.2 points, or 2 for a scout that went ahead of the better ones, the "
        "gradients are masked, or the gradient attacks too weak",
        "differentiate a stand-in (wrappers.Bpda, StraightThrough), use the margin loss, raise steps and restarts; "
        "until then believe the attack without gradients, and give it more queries",
    )


def transfer_stronger(findings: Findings) -> AuditLine:
    """Carlini et al. 2019, section 5.1: images made for another model must not beat those made for this one."""
    return above(
        "no transferred image finds what white-box attacks miss",
        _found_alone(findings, findings.transfers, lambda case: not findings.transfers(case)),
        TWO_TENTHS,
        "largest share of images in one ball that were broken by an image made for another model, or found by an "
        "earlier evaluation, and by no white-box attack that saw the same image; above 0.2 points the white-box "
        "attacks are misled",
        "start the white-box attack from the transferred image, or differentiate the model it was made for",
        "no image made for another model, or found by an earlier evaluation, was tried",
    )


def every_gradient_exists(findings: Findings) -> AuditLine:
    """A gradient attack that met no gradient has tested nothing, whatever accuracy it left."""
    runs = [one for case, one in findings.tried if not gradient_free(case)]
    without = [one for one in runs if "differentiably" in one.note]
    return above(
        "every gradient attack had a gradient",
        len(without) / len(runs) if runs else None,
        0,
        "share of the gradient attacks that could not run because the logits do not depend on the image "
        "differentiably; the accuracy under them is the clean one and proves nothing",
        "publish a surrogate with a stand-in for the step that cuts the gradient (wrappers.Bpda, StraightThrough), "
        "and add attacks without gradients",
    )


def enough_classes(findings: Findings) -> AuditLine:
    """The DLR loss orders the logits: it needs 3 classes, its targeted form 4 (Croce & Hein 2020)."""
    answered = findings.logits(findings.evaluation.images[:1]).shape[1]
    needed = max((least_classes(attack) for case, _ in findings.tried for attack in pieces(case)), default=2)
    return line(
        "classes suit the losses",
        answered != findings.classes or answered < needed,
        float(answered),
        f"classes that the model answers with; the data have {findings.classes}, and the losses that were used "
        f"order {needed}",
        "use the margin loss where there are fewer than 4 classes; build the model for the classes of the data",
    )


def _coverage(
    check: str, meaning: str, remedy: str, count: Callable[[Findings], int], least: int = 1, why: str = ""
) -> Check:
    """Return the check that something was tried at least so often; where it was not, the check did not run."""

    def run(findings: Findings) -> AuditLine:
        found = count(findings)
        return line(check, False if found >= least else None, float(found), meaning, remedy, why)

    return run


def _attacks(findings: Findings, chosen: Callable[[object], bool]) -> int:
    return sum(any(chosen(piece) for piece in pieces(case)) for case, _ in findings.tried)


def _both_ways(findings: Findings) -> int:
    """Return the number of kinds among gradient attacks: towards a class, and away from one."""
    own = [piece for case, _ in findings.tried if not findings.transfers(case) for piece in pieces(case)]
    return len({aims_at_a_class(piece) for piece in own if needs_gradient(piece)})


def every_knowledge_attacked(findings: Findings) -> AuditLine:
    """Carlini et al. 2019, section 3: the adaptive adversary uses whatever is known about the defense."""
    known = findings.white_box
    used = {case.knowledge for case, _ in findings.tried}
    share = sum(name in used for name in known) / len(known) if known else None
    missing = [name for name in known if name not in used]
    exact = f"; never attacked: {', '.join(missing)}" if missing else ""
    return line(
        "every published white-box knowledge was attacked",
        None if share is None else share < 1,
        share,
        "share of the surrogates deciding as the defense does, and of its adaptations, that some attack followed; "
        f"for a plain classifier that is the classifier itself{exact}",
        f"attack with every knowledge that the defense publishes, {EXACT_KNOWLEDGE!r} and its adaptive set first",
    )


ATTACK_CHECKS: dict[str, Check] = {
    "black-box": black_box_stronger,
    "transfer": transfer_stronger,
    "undifferentiable": every_gradient_exists,
    "classes": enough_classes,
    "adaptive": every_knowledge_attacked,
    "both-ways": _coverage(
        "targeted and untargeted gradient attacks were run",
        "kinds of gradient attack that were run: away from the true class, towards another one",
        "add a targeted attack (apgd-t, pgd-t), or an untargeted one",
        _both_ways,
        least=2,
        why="gradient attacks of one kind only were asked for",
    ),
    "gradient-free": _coverage(
        "an attack without gradients was run",
        "cases whose attack never asks for a gradient; without one, masked gradients cannot be told from "
        "robustness",
        "add 'square'",
        lambda findings: _attacks(findings, lambda attack: not needs_gradient(attack)),
        why="gradient attacks alone were asked for",
    ),
    "hard-label": _coverage(
        "an attack that sees labels alone was run",
        "cases whose attack sees the predicted class only, which no masking of the logits can mislead",
        "add 'hop-skip-jump'",
        lambda findings: _attacks(findings, sees_labels_only),
        why="the answers are graded, so that labels alone tell less than square sees; "
        "the suite fast adds such an attack where they look like labels",
    ),
    "transferred": _coverage(
        "a transfer attack was run",
        "cases whose images were made for another model, or found by an earlier evaluation",
        f"give the defense a transfer source, or start from another record's images (knowledge {EARLIER!r})",
        lambda findings: sum(findings.transfers(case) for case, _ in findings.tried),
        why="no other model and no earlier record was given",
    ),
    "norms": _coverage(
        "more than one norm was tried",
        "norms in which the defense was attacked; robustness in one says little about another",
        "add a ball of the other norm, or evaluate once more in it",
        lambda findings: len({case.ball.norm for case, _ in findings.tried}),
        least=2,
        why="one norm was asked for",
    ),
}
"""Checks of the attacks, in the order of the report."""
