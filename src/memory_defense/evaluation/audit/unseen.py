"""Checks that tell a classifier from a list: does it fare with images never seen as with those it is judged on?

A defense that holds the images of the evaluation answers what is near one of them with its label. No attack inside
the balls gets past that, and it says nothing of any other image. So a few images that nobody has are made of those
at hand, moved by pixels, mirrored or blended, and attacked as these were; the answers half-way between two images
are looked at; and what the model holds is compared with the images themselves.
"""

from __future__ import annotations

import torch

from memory_defense.contracts import Ball, Images, Labels, Logits, PerImage, Rows, needs_gradient
from memory_defense.evaluation.audit.findings import Check, Findings, above, line
from memory_defense.evaluation.audit.held import held_by
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.metrics import asked, judged
from memory_defense.evaluation.record import AuditLine
from memory_defense.evaluation.state import CaseState
from memory_defense.foreign import MemoryShortError
from memory_defense.losses import margin
from memory_defense.passes import granule
from memory_defense.randomness import ImageDraws

_FEWEST, _MOST, _SHARE = 16, 48, 12
"""Images that are attacked: one in `_SHARE` of the evaluation's, within these limits."""

_USABLE = 8
_NEAR, _FAR = 0.25, 0.4
"""Points of robust accuracy, as shares, that images a pixel away, and others, may lose against those judged."""

_WINDOWS = ((0.01, 0.5), (0.05, 0.8))
"""Distance from half-way, and the share of pairs that may switch from one label to the other within it."""

_PAIRS = 64
_HELD = 0.1
"""Share of the images that a model may hold by coincidence."""


def shifted(images: Images, down: int, right: int) -> Images:
    """Return images moved by so many pixels, their edges repeated."""
    height, width = images.shape[2:]
    rows = (torch.arange(height, device=images.device) - down).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) - right).clamp(0, width - 1)
    return images[:, :, rows][:, :, :, columns]


def relatives(images: Images, labels: Labels, *, far: bool) -> list[Images]:
    """Return images (B, C, H, W) each that show the same and that nobody has: a pixel away, or further.

    Parameters
    ----------
    images, labels
        What they are made of.
    far
        Mirrored, moved by a tenth of the side, and blended with another image of the class; else by one pixel.
    """
    step = max(2, round(min(images.shape[2:]) / 10)) if far else 1
    moves = [(step, 0), (-step, 0), (0, step), (0, -step)]
    found = [shifted(images, *one) for one in moves]
    if far:
        found += [images.flip(3), images.lerp(images[_of_the_same_class(labels)], 0.4)]
    return [_at_their_levels(one, images) for one in found]


def _at_their_levels(made: Images, images: Images) -> Images:
    """Return blended images at whole levels where the given ones are."""
    from memory_defense.evaluation.grid import at_levels, on_grid

    return at_levels(made) if on_grid(images) else made


def _of_the_same_class(labels: Labels) -> Rows:
    """Return for each row the next row of its class; itself where there is none."""
    rows = torch.arange(len(labels), device=labels.device)
    for start in range(len(labels)):
        others = (labels == labels[start]).nonzero().squeeze(1)
        rows[start] = others[(int((others == start).nonzero()) + 1) % len(others)]
    return rows


def _attacked(findings: Findings) -> tuple[Case, CaseState] | None:
    """Return the first gradient attack on the exact model in the largest ball, which saw most images."""
    wanted = findings.balls
    runs = [
        (case, one)
        for case, one in findings.tried
        if case.ball in wanted and case.ball.epsilon > 0 and case.purpose != "curve"
        if case.knowledge == findings.exact and needs_gradient(case.attack) and not findings.transfers(case)
    ]
    return max(runs, key=lambda run: int(run[1].done.sum()), default=None)


def unseen_images_fare_alike(findings: Findings) -> AuditLine:
    """Images that nobody has, attacked as those judged were, must not break far more often."""
    check = "images never seen withstand as those judged do"
    meaning = (
        "largest difference between the robust accuracy of the images judged and of the same images moved by pixels, "
        "mirrored or blended, answered alike and attacked with the first gradient attack alone; above 0.25 a pixel "
        "away, or 0.4 further off, the model knows the images that it is judged on"
    )
    remedy = (
        "take away what the model holds of these images (stored images, features, hashes or labels), or evaluate "
        "images that its author has not seen"
    )
    run = _attacked(findings)
    if run is None:
        return line(check, None, None, meaning, remedy, "no gradient attack on the exact model in a bounded ball")
    evaluation, (case, _) = findings.evaluation, run
    many = min(_MOST, max(_FEWEST, len(evaluation.labels) // _SHARE))
    rows = evaluation.correct.nonzero().squeeze(1)[:many]
    if len(rows) < _USABLE:
        return line(check, None, None, meaning, remedy, f"fewer than {_USABLE} images are classified correctly")
    robust = evaluation.state.inside(case.ball).robust[rows]
    gaps = [_gap(findings, case, rows, robust, far=far) for far in (False, True)]
    known = [(gap, limit) for gap, limit in zip(gaps, (_NEAR, _FAR), strict=True) if gap is not None]
    if not known:
        why = f"fewer than {_USABLE} images keep their answer when they are moved"
        return line(check, None, None, meaning, remedy, why)
    failed = any(gap > limit for gap, limit in known)
    return line(check, failed, max(gap for gap, _ in known), meaning, remedy)


def _gap(findings: Findings, case: Case, rows: Rows, robust: PerImage, *, far: bool) -> float | None:
    """Return how much more robust these images are than their relatives; None for too few that are answered alike."""
    clean, labels = findings.evaluation.images[rows], findings.evaluation.labels[rows]
    made = torch.stack(relatives(clean, labels, far=far))  # (R, B, C, H, W)
    leads = torch.stack([_lead(asked(findings.defense, one), labels) for one in made])  # (R, B), below 0: right
    best = leads.argmin(0)
    usable = (leads.amin(0) < 0).nonzero().squeeze(1)
    usable = usable[: len(usable) - (len(usable) % granule() if len(usable) > granule() else 0)]
    if len(usable) < _USABLE:
        return None
    relative, truth = made[best[usable], usable], labels[usable]
    draws = findings.draws("unseen", len(rows)).child(int(far)).rows(usable)
    withstand = _withstand(findings, case, relative, truth, draws)
    return float(robust[usable].float().mean()) - float(withstand.float().mean())


def _lead(logits: Logits, labels: Labels) -> PerImage:
    return torch.where(logits.isfinite().all(1), margin(logits, labels).float(), torch.inf)


def _withstand(findings: Findings, case: Case, images: Images, labels: Labels, draws: ImageDraws) -> PerImage:
    """Return (B,) bool: the case's attack on these images finds nothing."""
    try:
        found = case.attack(findings.surrogate(case.knowledge, images), images, labels, case.ball, draws)
    except MemoryShortError:
        raise
    except ValueError:  # no gradient, so that nothing is found
        return torch.ones_like(labels, dtype=torch.bool)
    wrong, _ = judged(findings.defense, found, labels, findings.evaluation.submissions)
    return ~wrong


def answers_do_not_switch_half_way(findings: Findings) -> AuditLine:
    """Who answers by the nearest stored image switches exactly half-way between two of them."""
    check = "answers do not switch half-way between images"
    meaning = (
        "share of pairs of images with different labels whose blend is answered with the first label just before "
        "half-way and with the second just after; above one half within 1 %, or 0.8 within 5 %, the answer is the "
        "label of the nearest image that the model holds"
    )
    remedy = "take the stored images away; nearness to the images of the evaluation is no robustness"
    evaluation = findings.evaluation
    rows = evaluation.correct.nonzero().squeeze(1)[:_PAIRS]
    others = _of_another_class(evaluation.labels[rows])
    rows, others = rows[others >= 0], rows[others[others >= 0]]
    if len(rows) < _USABLE:
        return line(check, None, None, meaning, remedy, f"fewer than {_USABLE} pairs of different classes")
    first, second = evaluation.labels[rows], evaluation.labels[others]
    found = [
        float(((_blended(findings, rows, others, 0.5 - by) == first)
               & (_blended(findings, rows, others, 0.5 + by) == second)).float().mean())
        for by, _ in _WINDOWS
    ]  # fmt: skip
    failed = any(share > limit for share, (_, limit) in zip(found, _WINDOWS, strict=True))
    return line(check, failed, found[0] if found[0] > _WINDOWS[0][1] or not failed else found[1], meaning, remedy)


def _of_another_class(labels: Labels) -> Rows:
    """Return for each row one with another label, no two rows the same pair; -1 where there is none."""
    found = torch.full_like(labels, -1)
    for start in range(len(labels)):
        order = torch.arange(start + 1, start + len(labels), device=labels.device) % len(labels)
        other = order[labels[order] != labels[start]]
        if len(other):
            found[start] = other[start % len(other)]
    return found


def _blended(findings: Findings, rows: Rows, others: Rows, share: float) -> Labels:
    images = findings.evaluation.images
    return asked(findings.defense, images[rows].lerp(images[others], share)).argmax(1)


def holds_no_judged_image(findings: Findings) -> AuditLine:
    """Whatever a model needs for an answer, it is not the images that it is asked about."""
    images, _ = findings.probe
    return above(
        "the model holds none of the images judged",
        held_by(findings.defense, images),
        _HELD,
        "share of the images that lie among the tensors, arrays and lists that calling the model can reach: as they "
        "are, smaller, in grey, or as the model's own layers and matrices see them",
        "take them away; a model that is judged on images that it holds is not judged",
    )


def chance_within_half(findings: Findings, ball: Ball, case: Case) -> float | None:
    """Return the accuracy under this case's attack in a ball so large that every image can become grey.

    None where too few images are right.
    """
    evaluation = findings.evaluation
    rows = evaluation.correct.nonzero().squeeze(1)[: min(_MOST, max(_FEWEST, len(evaluation.labels) // _SHARE))]
    if len(rows) < _USABLE:
        return None
    clean, labels = evaluation.images[rows], evaluation.labels[rows]
    large = Case(name=case.name, attack=case.attack, knowledge=case.knowledge, ball=ball)
    draws = findings.draws("large", len(rows))
    return float(_withstand(findings, large, clean, labels, draws).float().mean())


UNSEEN_CHECKS: dict[str, Check] = {
    "unseen": unseen_images_fare_alike,
    "half-way": answers_do_not_switch_half_way,
    "held": holds_no_judged_image,
}
"""Checks of what the model knows of the images it is judged on, in the order of the report."""
