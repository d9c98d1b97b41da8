"""Checks of the defense's behaviour: does it answer an image by that image, and always the same?

A classifier answers an image by what the image shows. One that is told the label, draws at random, looks at the
other images of its batch or optimises while it answers can leave every attack without success and yet be weak.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from memory_defense.contracts import Averaging
from memory_defense.evaluation.audit.findings import (
    ASKED_AGAIN,
    HALF_POINT,
    Check,
    Findings,
    above,
    line,
    pieces,
    relative,
)
from memory_defense.evaluation.metrics import predict
from memory_defense.evaluation.record import AuditLine
from memory_defense.passes import granule, granules_of, pass_limit, regular
from memory_defense.wrappers import Eot, restored, tensors_of

_ALONE = 16
"""Number of images that are classified one at a time."""

_SAME = 1e-3
"""Relative difference of logits up to which an answer is the same; rounding stays below 1e-5."""


def clean_is_deterministic(findings: Findings) -> AuditLine:
    """A randomised defense judged once per image is judged by luck."""
    evaluation = findings.evaluation
    again = predict(findings.defense, evaluation.images) == evaluation.labels
    return above(
        "same answer when asked twice",
        float((again != evaluation.correct).float().mean()),
        0,
        "share of clean images whose verdict changes when they are judged again",
        "turn the randomness off, or attack and judge its expectation (wrappers.Eot)",
    )


def logits_not_probabilities(findings: Findings) -> AuditLine:
    """Softmax outputs make cross-entropy gradients vanish, and so does the logarithm of clamped ones."""
    answers = findings.logits(findings.probe[0])
    inside = bool((answers >= 0).all() and (answers <= 1).all())
    probabilities = inside and bool(((answers.sum(1) - 1).abs() < 1e-4).all())
    logarithms = not probabilities and bool((answers.logsumexp(1).abs() < 1e-4).all())
    floored = logarithms and int((answers == answers.min()).sum()) > 1
    kind = 1.0 if probabilities else 2.0 if logarithms else 0.0
    return line(
        "answers are logits, not probabilities",
        probabilities or floored,
        kind,
        "1 when every answer is non-negative and sums to one; 2 when every answer is the logarithm of such a one, "
        "which does no harm unless several share the floor at which it was clamped",
        "return the values before the softmax",
    )


def randomness_is_dealt_with(findings: Findings) -> AuditLine:
    """Athalye et al. 2018: randomness that is not averaged over hides gradients; AutoAttack's first flag."""
    surrogates = [findings.published.get(case.knowledge) for case, _ in findings.tried]
    averaged = any(isinstance(one, Eot) for one in surrogates) or any(
        isinstance(piece, Averaging) and piece.samples > 1 for case, _ in findings.tried for piece in pieces(case)
    )
    often = findings.evaluation.submissions.count > 1
    return line(
        "no randomness, or attacked in expectation and judged often",
        findings.randomised and not (averaged and often),
        findings.spread[0],
        f"largest relative difference between the logits of {ASKED_AGAIN} passes over the same images; above "
        "0.0001 the defense draws at random, and then its gradients must be averaged and every image handed in "
        "more than once",
        "attack the expectation (an attack with samples above 1, or wrappers.Eot) and set submissions above 1",
    )


def required_arguments(model: object) -> list[str] | None:
    """Return the names of the positional arguments that a call must give; None where the model does not say."""
    function = model.forward if isinstance(model, nn.Module) else model
    try:
        parameters = inspect.signature(cast("Callable[..., object]", function)).parameters.values()
    except (TypeError, ValueError):  # some built-in callables do not say
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [one.name for one in parameters if one.default is inspect.Parameter.empty and one.kind in kinds]


def takes_images_alone(findings: Findings) -> AuditLine:
    """A defense that is given a label, or a slot made from it, is given the answer."""
    needed = required_arguments(findings.defense)
    return above(
        "the defense is given images and nothing else",
        None if needed is None else float(len(needed) - 1),
        0,
        "arguments beside the images that a call of the defense must give",
        "let the defense find what it needs from the image; a dictated slot belongs to the knowledge 'fixed-slots' "
        "alone",
    )


def answers_move_with_the_images(findings: Findings) -> AuditLine:
    """A classifier is equivariant: shuffle the batch, and the answers are shuffled along."""
    images, _ = findings.probe
    order = findings.draws("order", len(images)).uniform().argsort()
    stayed = (predict(findings.defense, images[order]) != predict(findings.defense, images)[order]).float().mean()
    by_chance = findings.spread[1].float().mean()
    return above(
        "shuffled images take their answers along",
        float(stayed),
        0.05 + 2 * float(by_chance) if findings.randomised else HALF_POINT,
        "share of images whose answer is another at another place of the batch; above 0 the answer belongs to the "
        "place, as it does where a list of labels is consulted",
        "remove whatever the defense knows about the order of the images; a list of labels has no robustness",
    )


def answers_come_from_the_images(findings: Findings) -> AuditLine:
    """Replace the images by noise and by black ones: no classifier can still tell the labels."""
    images, labels = findings.probe
    noise = findings.draws("meaningless images", len(images)).uniform(*images.shape[1:])
    models = [findings.defense, *(findings.surrogate(name, images) for name in findings.white_box)]
    shares = [
        float((predict(model, meaningless) == labels).float().mean())
        for model in models
        for meaningless in (noise, torch.zeros_like(images))
    ]
    most = float(labels.bincount().max()) / len(labels)
    allowed = most + 3 * (most * (1 - most) / len(labels)) ** 0.5
    return line(
        "meaningless images do not get the right answers",
        None if allowed >= 1 else max(shares) > allowed,
        max(shares),
        "largest share of noise or black images that are answered with the label of the image in whose place they "
        "stand, by the defense or a white-box surrogate; beyond chance the answer comes from elsewhere",
        "take the label, or the slot made of it, away from the model; only the knowledge 'fixed-slots' may have "
        "one",
        "one class is so common among so few images that chance explains any share",
    )


def same_answer_in_any_batch(findings: Findings) -> AuditLine:
    """Statistics taken over a batch make every image's answer depend on its neighbours."""
    check = "same answer alone and in a batch"
    meaning = (
        "share of images whose logits differ by more than 0.1 %, or whose answer differs, between a batch of that "
        "image alone, the batch of the data, and a batch of half the data and half noise"
    )
    remedy = "use running statistics (eval mode) and nothing that is computed over a batch"
    if findings.randomised:
        return line(
            check, None, None, meaning, "make the defense deterministic for this check", "it draws at random"
        )
    images, _ = findings.probe
    count = min(_ALONE, max(1, len(images) // 2))
    noise = findings.draws("company", len(images) - count).uniform(*images.shape[1:])
    together = findings.logits(images)[:count]
    others = findings.logits(torch.cat([images[:count], noise]))[:count]
    alone = torch.cat([findings.logits(one) for one in torch.split(images[:count], 1)])
    changed = torch.zeros(count, dtype=torch.bool, device=images.device)
    for answer in (others, alone):
        changed |= (relative(together, answer) > _SAME) | (together.argmax(1) != answer.argmax(1))
    return above(check, float(changed.float().mean()), 0, meaning, remedy)


def verdicts_agree(findings: Findings) -> AuditLine:
    """The evaluation compared the attack's verdict on each exact image with the judge's, in another batch."""
    exact = [one for case, one in findings.tried if case.knowledge == findings.exact]
    judged = sum(int(one.done.sum()) for one in exact)
    return above(
        "the attack's verdict is the judge's",
        sum(one.disagreements for one in exact) / judged if judged else None,
        0,
        "share of attacked images on which the classifier that was attacked and the judge, asked in another order, "
        "disagree; above 0 the answers depend on chance or on the batch, or the surrogate is not exact",
        "make the defense deterministic and free of batch statistics, or give it an exact surrogate",
    )


@contextmanager
def watched_backward() -> Generator[list[str]]:
    """Run a block and list every backward pass in it by the entry it took; PyTorch is as before afterwards."""
    calls: list[str] = []
    module = torch.autograd
    # The first two are the public ways in; both end in the last one, also for who imported them before.
    entries = [name for name in ("grad", "backward", "_engine_run_backward") if hasattr(module, name)]
    original = {name: getattr(module, name) for name in entries}

    def noted(name: str) -> object:
        def call(*arguments: object, **options: object) -> object:
            calls.append(name)
            return original[name](*arguments, **options)

        return call

    try:
        for name in entries:
            setattr(module, name, noted(name))
        yield calls
    finally:
        for name in entries:
            setattr(module, name, original[name])


def no_optimisation_at_inference(findings: Findings) -> AuditLine:
    """Croce et al. 2022: a defense that optimises while it answers needs attacks made for that."""
    images, _ = findings.probe
    filled = granule() if pass_limit() is not None else 1
    with watched_backward() as calls, torch.no_grad(), granules_of(filled):
        regular(findings.defense)(images[:8].clone())  # a copy, as it may write to what it is given
    return above(
        "no optimisation while answering",
        float(len(calls)),
        0,
        "backward passes that the defense itself makes while it answers; a gradient taken through them is rarely "
        "the right one, and each pass of an attack costs many",
        "attack with stand-ins for the inner optimisation (wrappers.Bpda), by transfer from the model without it, "
        "and without gradients",
    )


def asking_changes_nothing(findings: Findings) -> AuditLine:
    """A defense that learns from what it is asked is another one for every image."""
    images, _ = findings.probe
    before = [one.detach().clone() for one in tensors_of(findings.defense)]
    with restored(findings.defense):
        findings.logits(images)
        after = tensors_of(findings.defense)
        changed = sum(not torch.equal(one, old) for one, old in zip(after, before, strict=True))
    return above(
        "asking leaves the defense as it was",
        float(changed),
        0,
        "parameters and buffers that one pass in eval mode changes; above 0 each verdict depends on all earlier "
        "ones",
        "update nothing in eval mode",
    )


DEFENSE_CHECKS: dict[str, Check] = {
    "deterministic": clean_is_deterministic,
    "logits": logits_not_probabilities,
    "randomised": randomness_is_dealt_with,
    "images-alone": takes_images_alone,
    "equivariant": answers_move_with_the_images,
    "meaningless": answers_come_from_the_images,
    "company": same_answer_in_any_batch,
    "verdicts": verdicts_agree,
    "inference": no_optimisation_at_inference,
    "unchanged": asking_changes_nothing,
}
"""Checks of the defense's behaviour, in the order of the report."""
