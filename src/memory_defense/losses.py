"""Losses an adversary increases, one number for each image: logits (B, K), labels (B,) -> (B,).

Positive margin and DLR mean that the image is misclassified. The DLR loss divides the margin by a difference of the
model's own logits, which takes 3 classes, towards a class 4. With fewer, the margin takes its place (`suited`): it
has the same sign, and a gradient in the same direction where the divisor does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch.nn import functional as F

from memory_defense.contracts import Attack, Fitting, Labels, Logits, LossFollowing, PerImage, least_classes

Some = TypeVar("Some")

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
        raise ValueError(
            f"the DLR loss needs at least 3 classes, the model has {logits.shape[1]}; use the loss 'margin'"
        )
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


def with_margin(attack: Some) -> Some:
    """Return the attack with the margin in place of a DLR loss; itself if it follows none."""
    if isinstance(attack, LossFollowing) and attack.loss == "dlr" and is_dataclass(attack):
        return cast("Some", replace(cast("Any", attack), loss="margin"))
    return attack


def suited(name: str, attack: Attack, classes: int) -> tuple[Attack, str]:
    """Return the attack for a model with so many classes, and in words what was changed; nothing if it fits.

    Parameters
    ----------
    name
        The attack's name, for errors.
    attack
        It may be `contracts.Fitting`; one that follows a DLR loss is a dataclass.
    classes
        K, at least 2.

    Raises
    ------
    ValueError
        For an attack that needs more classes and cannot be changed.
    """
    if isinstance(attack, Fitting):
        fitting = attack.for_classes(classes)
        return fitting, "" if fitting == attack else f"the margin in place of DLR, as there are {classes} classes"
    needed = least_classes(attack)
    if needed <= classes:
        return attack, ""
    fitting = with_margin(attack)
    if least_classes(fitting) > classes:
        raise ValueError(
            f"{name} needs {needed} classes, and the model has {classes}; leave it out, or give another attack"
        )
    return fitting, f"the margin in place of DLR, which needs {needed} classes and there are {classes}"
