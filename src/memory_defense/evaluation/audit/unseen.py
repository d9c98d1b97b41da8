"""Checks that tell a classifier from a list: does it fare with images never seen as with those it is judged on?

A defense that holds the images of the evaluation answers what is near one of them with its label. No attack inside
the balls gets past that, and it says nothing of any other image. So a few images that nobody has are made of those
at hand, moved by pixels, mirrored or blended, and attacked as these were; the answers half-way between two images
are looked at; and what the model holds is compared with the images themselves.
"""

from __future__ import annotations

import torch

from memory_defense.contracts import Images, Labels, Logits, PerImage, Rows
from memory_defense.evaluation.audit.few import USABLE, few_correct, first_attack, withstand
from memory_defense.evaluation.audit.findings import Check, Findings, above, line
from memory_defense.evaluation.audit.held import held_by
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.metrics import asked
from memory_defense.evaluation.record import AuditLine
from memory_defense.losses import margin
from memory_defense.passes import granule

_LOST = {"near": 0.2, "far": 0.3, "turned": 0.45}
"""Robust accuracy, as a share, that images a pixel away, further off, or turned may lose against those judged."""

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


def relatives(images: Images, labels: Labels, how: str) -> list[Images]:
    """Return images (B, C, H, W) each that nobody has: a pixel away, further, or turned.

    Parameters
    ----------
    images, labels
        What they are made of.
    how
        ``near``: by one pixel. ``far``: mirrored, moved by a tenth of the side, and blended with another image of
        the class. ``turned``: upside down, and by half and quarter turns where images are square.
    """
    if how == "turned":
        quarters = [images.rot90(1, (2, 3)), images.rot90(3, (2, 3)), images.transpose(2, 3)]
        square = images.shape[2] == images.shape[3]
        return [images.flip(2), images.flip(2, 3), *(one.contiguous() for one in quarters if square)]
    step = max(2, round(min(images.shape[2:]) / 10)) if how == "far" else 1
    moves = [(step, 0), (-step, 0), (0, step), (0, -step)]
    found = [shifted(images, *one) for one in moves]
    if how == "far":
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


def unseen_images_fare_alike(findings: Findings) -> AuditLine:
    """Images that nobody has, attacked as those judged were, must not break far more often."""
    check = "images never seen withstand as those judged do"
    meaning = (
        "largest difference between the robust accuracy of the images judged and of the same images moved by "
        "pixels, mirrored, blended or turned, attacked with the first gradient attack alone; above 0.2 a pixel away, 0.3 "
        "further off, or 0.45 turned, the model knows the images that it is judged on"
    )
    remedy = (
        "take away what the model holds of these images (stored images, features, hashes or labels), or evaluate "
        "images that its author has not seen"
    )
    run = first_attack(findings)
    if run is None:
        return line(check, None, None, meaning, remedy, "no gradient attack on the exact model in a bounded ball")
    evaluation, (case, _) = findings.evaluation, run
    rows = few_correct(findings)
    if len(rows) < USABLE:
        return line(check, None, None, meaning, remedy, f"fewer than {USABLE} images are classified correctly")
    robust = evaluation.state.inside(case.ball).robust[rows]
    gaps = [(_gap(findings, case, rows, robust, how), limit) for how, limit in _LOST.items()]
    known = [(gap, limit) for gap, limit in gaps if gap is not None]
    if not known:
        why = f"fewer than {USABLE} images keep their answer when they are moved"
        return line(check, None, None, meaning, remedy, why)
    gap, limit = max(known, key=lambda one: one[0] - one[1])
    return above(check, gap, limit, meaning, remedy)


def _gap(findings: Findings, case: Case, rows: Rows, robust: PerImage, how: str) -> float | None:
    """Return how much more robust these images are than their relatives; None for too few answered alike."""
    clean, labels = findings.evaluation.images[rows], findings.evaluation.labels[rows]
    made = torch.stack(relatives(clean, labels, how))  # (R, B, C, H, W)
    logits = torch.stack([asked(findings.defense, one) for one in made])  # (R, B, K)
    own = logits.argmax(2) if how == "turned" else labels.expand(len(made), -1)  # what it shows then, nobody knows
    leads = torch.stack(
        [_lead(one, truth) for one, truth in zip(logits, own, strict=True)]
    )  # (R, B), below 0: right
    best = leads.argmin(0)
    usable = (leads.amin(0) < 0).nonzero().squeeze(1)
    usable = usable[: len(usable) - (len(usable) % granule() if len(usable) > granule() else 0)]
    if len(usable) < USABLE:
        return None
    relative, truth = made[best[usable], usable], own[best[usable], usable]
    draws = findings.draws("unseen", len(rows)).child(how).rows(usable)
    stood = withstand(findings, case, relative, truth, draws)
    return float(robust[usable].float().mean()) - float(stood.float().mean())


def _lead(logits: Logits, labels: Labels) -> PerImage:
    return torch.where(logits.isfinite().all(1), margin(logits, labels).float(), torch.inf)


def answers_do_not_switch_half_way(findings: Findings) -> AuditLine:
    """Who answers by the nearest stored image switches exactly half-way between two of them."""
    check = "answers do not switch half-way between images"
    meaning = (
        "share of pairs of images with different labels whose blend is answered with the first label just before "
        "half-way and with the second just after, of those answered with one of the two; above one half within "
        "1 %, or 0.8 within 5 %, the answer is the label of the nearest image that the model holds"
    )
    remedy = "take the stored images away; nearness to the images of the evaluation is no robustness"
    evaluation = findings.evaluation
    rows = evaluation.correct.nonzero().squeeze(1)[:_PAIRS]
    others = _of_another_class(evaluation.labels[rows])
    rows, others = rows[others >= 0], rows[others[others >= 0]]
    if len(rows) < USABLE:
        return line(check, None, None, meaning, remedy, f"fewer than {USABLE} pairs of different classes")
    first, second = evaluation.labels[rows], evaluation.labels[others]
    found: list[tuple[float, float]] = []
    for by, limit in _WINDOWS:
        before, after = (_blended(findings, rows, others, 0.5 + side) for side in (-by, by))
        told = ((before == first) | (before == second)) & ((after == first) | (after == second))
        if int(told.sum()) >= max(USABLE, len(rows) // 5):
            switched = (before == first) & (after == second) & told
            found.append((int(switched.sum()) / int(told.sum()), limit))
    if not found:
        return line(check, None, None, meaning, remedy, "blends are answered with neither label")
    share, limit = max(found, key=lambda one: one[0] - one[1])
    return above(check, share, limit, meaning, remedy)


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
        "share of the images that lie among the tensors, arrays and lists that calling the model can reach: as "
        "they are, smaller, in grey, or as the model's own layers and matrices see them",
        "take them away; a model that is judged on images that it holds is not judged",
    )


UNSEEN_CHECKS: dict[str, Check] = {
    "unseen": unseen_images_fare_alike,
    "half-way": answers_do_not_switch_half_way,
    "held": holds_no_judged_image,
}
"""Checks of what the model knows of the images it is judged on, in the order of the report."""
