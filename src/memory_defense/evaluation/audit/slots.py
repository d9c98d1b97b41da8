"""Audit of defenses that answer through a slot: does the answer come from the image, or from the slot?

The paper's evaluation hands the slot to the attacker as a constant and never attacks what chooses it. These
checks measure what that choice is worth.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from memory_defense.contracts import Binding, Images, SlotDefense
from memory_defense.evaluation.audit.findings import Check, Findings, above, line
from memory_defense.evaluation.metrics import JUDGE_BATCH, judge_batches, predict
from memory_defense.evaluation.record import AuditLine
from memory_defense.randomness import ImageDraws
from memory_defense.wrappers import gradient_at

PROBED = 256
"""Number of images that each probe looks at."""


def _slotted(findings: Findings) -> SlotDefense:
    assert isinstance(findings.defense, SlotDefense), "these checks are for defenses with slots"
    return findings.defense


def _slot_following(check: str, shown: Callable[[Images, ImageDraws], Images], meaning: str, remedy: str) -> Check:
    """Return the check of how often the answer is the dictated slot, for what is shown in the images' place."""

    def run(findings: Findings) -> AuditLine:
        defense, images = _slotted(findings), findings.evaluation.images[:PROBED]
        draws = findings.draws("slots", len(images))
        slots = draws.integers(defense.classes)
        parts = zip(
            torch.split(shown(images, draws).clone(), JUDGE_BATCH), torch.split(slots, JUDGE_BATCH), strict=True
        )
        with torch.no_grad():
            answers = torch.cat([defense.classify_with_slots(*part).argmax(1) for part in parts])
        return above(check, float((answers == slots).float().mean()), 0.5, meaning, remedy)

    return run


def agreement_with_selector(findings: Findings) -> AuditLine:
    """Share of images for which the whole defense answers what its selector answers."""
    defense, evaluation = _slotted(findings), findings.evaluation
    agreeing: list[torch.Tensor] = []
    for shown in (evaluation.images, *(one.images for one in evaluation.broken[-1:])):
        for rows in judge_batches(evaluation.images):
            images = shown[rows]
            with torch.no_grad():
                slots = defense.trace(images.clone()).slots
            agreeing.append(predict(defense, images) == slots)
    return above(
        "agreement with the selector",
        float(torch.cat(agreeing).float().mean()),
        0.99,
        "share of clean and attacked images whose answer is the selector's; near 1 the defense is exactly as "
        "robust as its selector",
        "judge the selector under direct attack; that is the defense's robustness",
    )


def zero_gradient_pixels(findings: Findings) -> AuditLine:
    """Share of pixels that get no gradient from an attack with frozen slots."""
    images = findings.evaluation.images[:PROBED].detach().clone().requires_grad_()
    surrogate = findings.defense.surrogates()["fixed-slots"]
    bound = surrogate.bind(images.detach().clone()) if isinstance(surrogate, Binding) else surrogate
    labels = findings.evaluation.labels[: len(images), None]
    gradient = gradient_at(images, lambda: bound(images).gather(1, labels).sum())
    if gradient is None:
        gradient = torch.zeros_like(images)
    return above(
        "zero-gradient pixels with frozen slots",
        float((gradient == 0).float().mean()),
        0.1,
        "share of pixels whose gradient through the frozen-slot defense is exactly 0; an attack that follows it "
        "leaves them alone (a 1x1 stem of stride 2 hides three quarters of the image)",
        "use a 3x3 stem, attack end-to-end, and add an attack without gradients",
    )


def _diagnostic(name: str, check: str, failed: Callable[[float], bool], meaning: str, remedy: str) -> Check:
    """Return a check on one of the defense's own measurements."""

    def run(findings: Findings) -> AuditLine:
        evaluation = findings.evaluation
        measured = _slotted(findings).diagnostics(evaluation.images[:PROBED].clone(), evaluation.labels[:PROBED])
        value = measured.get(name)
        return line(check, None if value is None else failed(value), value, meaning, remedy)

    return run


SLOT_CHECKS: dict[str, Check] = {
    "slot-following": _slot_following(
        "slot-following",
        lambda images, _: images,
        "share of real images whose answer equals a slot drawn at random; near 1 the image is ignored and "
        "whoever chooses the slot chooses the answer",
        "attack what chooses the slot; never hand the attacker a slot and call the result robust",
    ),
    "slot-following-noise": _slot_following(
        "slot-following on noise",
        lambda images, draws: draws.child("noise").uniform(*images.shape[1:]),
        "share of pure-noise images whose answer equals a random slot",
        "the same: the slot carries the label",
    ),
    "slot-following-black": _slot_following(
        "slot-following on black images",
        lambda images, _: torch.zeros_like(images),
        "share of black images whose answer equals a random slot",
        "the same: the slot carries the label",
    ),
    "selector-agreement": agreement_with_selector,
    "zero-gradient": zero_gradient_pixels,
    "shrink": _diagnostic(
        "shrink sparsity",
        "hard shrink removes something",
        lambda share: share == 0,
        "share of the chosen slot's weights that hard shrink sets to 0; at 0 the threshold is below every "
        "weight (cosine softmax weights cannot fall under exp(-2)/M) and the paper's sparsity is not there",
        "use a threshold near 1/M, as the sound preset does",
    ),
    "non-target": _diagnostic(
        "non-target gradient share",
        "the non-target loss has an effect",
        lambda share: share < 1e-3,
        "gradient of the non-target term of Eq. 13 on the memory, as a share of the whole gradient; near 0 the "
        "term is inert (its sigmoid is saturated)",
        "average it over pixels (nontarget_reduction='mean') or raise beta, or drop the term",
    ),
}
"""Every check of a slot defense, in the order of the report."""
