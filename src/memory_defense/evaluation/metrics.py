"""The only scorer: predictions, accuracies and their intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch

from memory_defense.checks import whole_number
from memory_defense.contracts import Classifier, Labels, Logits, PerImage, Rows
from memory_defense.evaluation.pixels import Pictures, parts
from memory_defense.evaluation.record import Accuracy
from memory_defense.losses import margin
from memory_defense.noticed import answered, answers_seen, finite_rows
from memory_defense.passes import regular
from memory_defense.wrappers import exact_float32

JUDGE_BATCH = 128
"""Images judged at a time; one fixed size, so that every verdict is taken the same way."""

ACCELERATOR_JUDGE_BATCH = 1024
"""The same on an accelerator, which fewer do not fill."""


def judge_batch(device: torch.device) -> int:
    """Return how many images are judged at a time on this device."""
    return JUDGE_BATCH if device.type == "cpu" else ACCELERATOR_JUDGE_BATCH


def judge_batches(images: Pictures) -> tuple[Rows, ...]:
    """Return the positions of the images, as many at a time as are judged."""
    return torch.split(torch.arange(len(images), device=images.device), judge_batch(images.device))


NO_ANSWER = -1
"""Stands for the predicted class of an image for which the model returned NaN or infinite logits."""


@torch.no_grad()
def asked(model: Classifier, images: Pictures) -> Logits:
    """Return logits (B, K), no image's depending on its batch; rows without an answer are NaN or infinite.

    Raises
    ------
    ValueError
        When the model returns anything else, and what `passes.Regular` raises.
    """
    found: list[Logits] = []
    judge = regular(model)
    for part in parts(images, judge_batch(images.device)):
        with exact_float32():
            logits = judge(part)
        if logits.dim() != 2 or logits.shape[0] != part.shape[0]:
            raise ValueError(
                f"the model returned shape {tuple(logits.shape)} for {part.shape[0]} images, expected logits (B, K)"
            )
        found.append(logits)
    return torch.cat(found)


def answers(model: Classifier, images: Pictures) -> Logits:
    """Return logits (B, K) as `asked` does; raise ValueError where one is NaN or infinite."""
    logits = asked(model, images)
    missing = (~finite_rows(logits)).nonzero().squeeze(1)
    if len(missing):
        raise ValueError(no_answer_text(len(missing), len(images)))
    return logits


def no_answer_text(missing: int, images: int) -> str:
    """Return what to say of a model that has no answer for so many of the images."""
    some = "all" if missing == images else f"{missing} of"
    return (
        f"the model returned NaN or infinite logits for {some} {images} images; no accuracy can be claimed for it; "
        "look for sqrt(0), log(0), 0/0 or overflow in its forward pass, and where -inf masks a class, return -1e4"
    )


def predict(model: Classifier, images: Pictures) -> Labels:
    """Return (B,) the predicted classes, `NO_ANSWER` where logits are not finite; raise what `asked` raises."""
    return predicted(asked(model, images))


def predicted(logits: Logits) -> Labels:
    """Return (B,) the classes that these logits predict, `NO_ANSWER` where they are not finite."""
    return logits.argmax(1).masked_fill_(~finite_rows(logits), NO_ANSWER)


@dataclass(frozen=True, kw_only=True)
class Submissions:
    """Number of times that a defense is asked about an image before it is judged; matters for a randomised one.

    Parameters
    ----------
    count
        At least 1.
    rule
        ``any``: one wrong answer breaks the image, as it does for an adversary who may hand it in again.
        ``majority``: more than half of the answers must be wrong.

    Raises
    ------
    ValueError
        For a count below 1 or an unknown rule.
    """

    count: int = 1
    rule: Literal["any", "majority"] = "any"

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", whole_number(self.count, "submissions"))
        if self.count < 1:
            raise ValueError(
                f"submissions is {self.count}, but an image must be submitted at least once; give 1, say"
            )
        if not isinstance(cast("object", self.rule), str) or self.rule not in ("any", "majority"):
            raise ValueError(f"the rule is {self.rule!r}, expected 'any' or 'majority'")


def judged(
    model: Classifier, images: Pictures, labels: Labels, submissions: Submissions
) -> tuple[PerImage, PerImage]:
    """Return (B,) bool, whether the model errs on the image by these submissions, and (B,) the largest lead.

    The lead is that of the best wrong class over the right one, in logits: above 0 the answer was wrong. An image
    without a finite answer is wrong by a lead of 1, and is noticed (`noticed`). Raises what `asked` raises.
    """
    if len(images) == 0:
        return labels.bool(), labels.float()
    given = [asked(model, images) for _ in range(submissions.count)]
    if int(labels.max()) >= given[0].shape[1]:
        raise ValueError(
            f"labels go up to {int(labels.max())}, but the model has {given[0].shape[1]} classes, counted from 0; "
            "does it belong to these images? Labels that count from 1 become labels - 1"
        )
    answers_seen(torch.stack([finite_rows(logits) for logits in given]).all(0))
    given = [answered(logits, labels) for logits in given]
    errors = torch.stack([logits.argmax(1) != labels for logits in given])  # (S, B)
    leads = torch.stack([margin(logits, labels).float() for logits in given])  # (S, B)
    wrong = errors.any(0) if submissions.rule == "any" else 2 * errors.sum(0) > submissions.count
    return wrong, leads.amax(0)


def accuracy(correct: PerImage | int, total: int | None = None) -> Accuracy:
    """Return a fraction with its 95 % Wilson interval.

    Parameters
    ----------
    correct
        (B,) bool, one verdict for each image, or a count.
    total
        Number of images, where `correct` is a count.
    """
    from scipy.stats import binomtest  # a second to import, so only where an interval is wanted

    if isinstance(correct, int):
        assert total is not None
        hits = correct
    else:
        hits, total = int(correct.sum()), correct.numel()
    interval = binomtest(hits, total).proportion_ci(confidence_level=0.95, method="wilson")
    return Accuracy(accuracy=hits / total, ci95=(max(0.0, float(interval.low)), min(1.0, float(interval.high))))
