"""Which wrong classes a multi-targeted attack aims at, and how far ahead they are."""

from __future__ import annotations

import torch

from memory_defense.contracts import Labels, Logits, PerImage


def likeliest_others(logits: Logits, labels: Labels, count: int) -> Labels:
    """Return (B, T) the `count` highest classes other than the label, or all of them where there are fewer."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices


def lead_of(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Return (B,) ``z_t - z_y``, the lead of each image's target class t, (B,) like the labels, over its label."""
    pair = logits.gather(1, torch.stack([targets, labels], 1))  # (B, 2)
    return pair[:, 0] - pair[:, 1]


def targeted_difference_of_logits_ratio(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Return (B,) the targeted DLR loss, ``(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2)`` (Croce & Hein, Eq. 7).

    z_(i) is the i-th largest logit. It grows as the target class t, (B,) like the labels, overtakes the label y.

    Raises
    ------
    ValueError
        For fewer than 4 classes.
    """
    if logits.shape[1] < 4:
        raise ValueError(f"the targeted DLR loss needs at least 4 classes, the model has {logits.shape[1]}")
    ordered = logits.topk(4, dim=1).values
    scale = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12
    return lead_of(logits, labels, targets) / scale
