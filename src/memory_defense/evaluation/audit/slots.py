"""Audit of defenses that answer through a slot: does the answer come from the image, or from the slot?

The paper's evaluation hands the slot to the attacker as a constant and never attacks what chooses it. These
checks measure what that choice is worth.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from memory_defense.contracts import Binding, Classifier, Images, Labels, SlotDefense
from memory_defense.evaluation.metrics import JUDGE_BATCH, predict
from memory_defense.evaluation.record import AuditLine, Verdict
from memory_defense.evaluation.robustness import Evaluation
from memory_defense.randomness import ImageDraws

PROBED = 256
"""Number of images that each probe looks at."""


def _line(check: str, failed: bool, value: float, meaning: str, remedy: str) -> AuditLine:
    verdict: Verdict = "fail" if failed else "pass"
    return AuditLine(check=check, verdict=verdict, value=value, meaning=meaning, remedy=remedy)


def _following(defense: SlotDefense, images: Images, slots: Labels) -> float:
    """Return how often the answer equals the dictated slot."""
    with torch.no_grad():
        parts = zip(torch.split(images, JUDGE_BATCH), torch.split(slots, JUDGE_BATCH), strict=True)
        answers = torch.cat([defense.classify_with_slots(*part).argmax(1) for part in parts])
    return float((answers == slots).float().mean())


def _probe(evaluation: Evaluation, seed: int) -> tuple[Images, ImageDraws]:
    images = evaluation.images[:PROBED]
    return images, ImageDraws.of(seed, "audit slots", len(images), images.device)


def slot_following(defense: SlotDefense, evaluation: Evaluation, seed: int) -> AuditLine:
    """Feed random slots with real images: how often does the answer equal the slot?"""
    images, draws = _probe(evaluation, seed)
    rate = _following(defense, images, draws.integers(defense.classes))
    return _line(
        "slot-following",
        rate > 0.5,
        rate,
        "share of real images whose answer equals a slot drawn at random; near 1 the image is ignored and "
        "whoever chooses the slot chooses the answer",
        "attack what chooses the slot; never hand the attacker a slot and call the result robust",
    )


def slot_following_noise(defense: SlotDefense, evaluation: Evaluation, seed: int) -> AuditLine:
    """The same with uniform noise for images."""
    images, draws = _probe(evaluation, seed)
    noise = draws.child("noise").uniform(*images.shape[1:])
    rate = _following(defense, noise, draws.integers(defense.classes))
    return _line(
        "slot-following on noise",
        rate > 0.5,
        rate,
        "share of pure-noise images whose answer equals a random slot",
        "the same: the slot carries the label",
    )


def slot_following_black(defense: SlotDefense, evaluation: Evaluation, seed: int) -> AuditLine:
    """Share of black images whose answer is the dictated slot."""
    images, draws = _probe(evaluation, seed)
    rate = _following(defense, torch.zeros_like(images), draws.integers(defense.classes))
    return _line(
        "slot-following on black images",
        rate > 0.5,
        rate,
        "share of black images whose answer equals a random slot",
        "the same: the slot carries the label",
    )


def agreement_with_selector(defense: SlotDefense, evaluation: Evaluation, seed: int) -> AuditLine:
    """Share of images for which the whole defense answers what its selector answers."""
    del seed
    images = evaluation.images
    if evaluation.broken:
        images = torch.cat([images, evaluation.broken[-1].images])
    with torch.no_grad():
        slots = torch.cat([defense.trace(part).slots for part in torch.split(images, JUDGE_BATCH)])
    rate = float((predict(defense, images) == slots).float().mean())
    return _line(
        "agreement with the selector",
        rate > 0.99,
        rate,
        "share of clean and attacked images whose answer is the selector's; near 1 the defense is exactly as "
        "robust as its selector",
        "judge the selector under direct attack; that is the defense's robustness",
    )


def _bound(surrogate: Classifier | Binding, images: Images) -> Classifier:
    return surrogate.bind(images) if isinstance(surrogate, Binding) else surrogate


def zero_gradient_pixels(defense: SlotDefense, evaluation: Evaluation, seed: int) -> AuditLine:
    """Share of pixels that get no gradient from an attack with frozen slots."""
    del seed
    images = evaluation.images[:PROBED].detach().clone().requires_grad_()
    logits = _bound(defense.surrogates()["fixed-slots"], images.detach())(images)
    scores = logits.gather(1, evaluation.labels[: len(images), None]).sum()
    (gradient,) = torch.autograd.grad(scores, images)
    share = float((gradient == 0).float().mean())
    return _line(
        "zero-gradient pixels with frozen slots",
        share > 0.1,
        share,
        "share of pixels whose gradient through the frozen-slot defense is exactly 0; an attack that follows it "
        "leaves them alone (a 1x1 stem of stride 2 hides three quarters of the image)",
        "use a 3x3 stem, attack end-to-end, and add an attack without gradients",
    )


def _diagnostic(
    name: str, check: str, failed: Callable[[float], bool], meaning: str, remedy: str
) -> Callable[[SlotDefense, Evaluation, int], AuditLine]:
    """Return a check on one of the defense's own measurements."""

    def run(defense: SlotDefense, evaluation: Evaluation, seed: int) -> AuditLine:
        del seed
        values = defense.diagnostics(evaluation.images[:PROBED], evaluation.labels[:PROBED])
        if name not in values:
            return AuditLine(check=check, verdict="not run", value=None, meaning=meaning, remedy=remedy)
        return _line(check, failed(values[name]), values[name], meaning, remedy)

    return run


SlotCheck = Callable[[SlotDefense, Evaluation, int], AuditLine]

SLOT_CHECKS: dict[str, SlotCheck] = {
    "slot-following": slot_following,
    "slot-following-noise": slot_following_noise,
    "slot-following-black": slot_following_black,
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
