"""The scores by which Memory Defense flags an image as suspicious, one number for each image.

    reconstruction   mean squared error of the chosen slot's reconstruction, in pixel units squared; Meng & Chen
                     (2017) flag by an autoencoder's error in the same way.
    disagreement     how little the slots' evidence supports the selector. Slot k's evidence is its reconstruction
                     error e_k; the selector's probabilities are q_k. The score is
                     ``(sum_k q_k e_k - min_k e_k) / (max_k e_k - min_k e_k)``, in [0, 1]: 0 where the selector is
                     certain of the slot that explains the image best, 1 where it is certain of the one that
                     explains it worst. Where all slots explain it equally well there is no evidence and it is 0.

Both are differentiable, so that an adaptive adversary can lower them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from memory_defense.contracts import Images, PerImage
from memory_defense.defenses.memory.slotted import SlottedClassifier
from memory_defense.names import check_name
from memory_defense.passes import granule

SMALLEST_SPREAD = 1e-12
"""Spread of the slots' errors below which they are no evidence."""

RECONSTRUCTIONS = 4096
"""About so many are held at once, so that many classes do not need memory for all images' slots."""


def reconstruction(defense: SlottedClassifier, images: Images) -> PerImage:
    """Return (B,) the mean squared error of the reconstruction from the slot that the selector chooses."""
    rebuilt = defense.reconstruct(images, defense.choose_slots(images))
    return (images - rebuilt).square().flatten(1).mean(1)


def disagreement(defense: SlottedClassifier, images: Images) -> PerImage:
    """Return (B,) in [0, 1] how little the slots' evidence supports the selector; see `regret`."""
    at_once = max(RECONSTRUCTIONS // defense.classes // granule(), 1) * granule()
    errors = [
        (part[:, None] - defense.reconstruct_all(part)).square().flatten(2).mean(2)  # (b, K)
        for part in torch.split(images, at_once)
    ]
    return regret(torch.cat(errors), defense.selector(images).softmax(1))


def regret(errors: Tensor, probabilities: Tensor) -> PerImage:
    """Return (B,) how far the expected error lies above the least, as a share of the errors' spread.

    Parameters
    ----------
    errors
        (B, K), at least 0: of every slot.
    probabilities
        (B, K), each row sums to 1: of the selector.
    """
    low, high = errors.amin(1), errors.amax(1)
    expected = (probabilities * (errors - low[:, None])).sum(1)
    return (expected / (high - low).clamp_min(SMALLEST_SPREAD)).clamp(0, 1)


SCORES: dict[str, Callable[[SlottedClassifier, Images], PerImage]] = {
    "reconstruction": reconstruction,
    "disagreement": disagreement,
}
"""Every score by name."""


def score(defense: SlottedClassifier, name: str, images: Images) -> PerImage:
    """Return one score (B,); raise ValueError for a name that is not in `SCORES`."""
    check_name(name, SCORES, "score")
    return SCORES[name](defense, images)


def evidence(defense: SlottedClassifier, images: Images) -> Mapping[str, PerImage]:
    """Return every score by name, (B,) each."""
    return {name: one(defense, images) for name, one in SCORES.items()}
