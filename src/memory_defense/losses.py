"""Losses an adversary increases, one number for each image: logits (B, K), labels (B,) -> (B,).

Positive margin and DLR mean that the image is misclassified.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from memory_defense.contracts import Labels, Logits, PerImage

AdversarialLoss = Callable[[Logits, Labels], PerImage]


def cross_entropy(logits: Logits, labels: Labels) -> PerImage:
    """Return the cross-entropy (Madry et al. 2018). It saturates in float32 on very confident models."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Logits, labels: Labels) -> PerImage:
    """Return ``max_{i != y} z_i - z_y`` (Carlini & Wagner 2017, Eq. f6 at confidence 0, untargeted)."""
    at = labels[:, None]
    return logits.scatter(1, at, -torch.inf).amax(1) - logits.gather(1, at).squeeze(1)


def difference_of_logits_ratio(logits: Logits, labels: Labels) -> PerImage:
    """Return the DLR loss of AutoAttack (Croce & Hein 2020, Eq. 6), invariant to shift and scale.

    Raises ValueError for fewer than 3 classes.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"the DLR loss needs at least 3 classes, the model has {logits.shape[1]}")
    ordered = logits.topk(3, dim=1).values
    return margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def targeted(loss: AdversarialLoss) -> AdversarialLoss:
    """Return the loss whose increase moves an image towards its label, here the target class."""

    def towards(logits: Logits, targets: Labels) -> PerImage:
        return -loss(logits, targets)

    return towards


LOSSES: dict[str, AdversarialLoss] = {
    "cross-entropy": cross_entropy,
    "margin": margin,
    "dlr": difference_of_logits_ratio,
}
