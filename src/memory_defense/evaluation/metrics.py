"""The only scorer: predictions, accuracies and their intervals."""

from __future__ import annotations

import torch

from memory_defense.contracts import Classifier, Images, Labels, PerImage
from memory_defense.evaluation.record import Accuracy

JUDGE_BATCH = 128
"""Images judged at a time; one fixed size, so that every verdict is taken the same way."""


@torch.no_grad()
def predict(model: Classifier, images: Images) -> Labels:
    """Return (B,) the predicted classes; raise ValueError when the model's answer is not logits (B, K)."""
    answers: list[Labels] = []
    for part in torch.split(images, JUDGE_BATCH):
        logits = model(part)
        if logits.dim() != 2 or logits.shape[0] != part.shape[0]:
            raise ValueError(
                f"the model returned shape {tuple(logits.shape)} for {part.shape[0]} images, expected logits (B, K)"
            )
        if not torch.isfinite(logits).all():
            raise ValueError("the model returned NaN or infinite logits; no accuracy can be claimed for it")
        answers.append(logits.argmax(1))
    return torch.cat(answers)


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
