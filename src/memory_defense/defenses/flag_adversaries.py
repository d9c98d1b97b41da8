"""Adversaries that fight a flag: what they differentiate, and what counts as a success for them.

    SilentBinder     errs without being flagged: while an image is flagged, its score is lowered. Or, ``crossing``,
                     only once the answer is wrong: flags often guard the border between two classes, and whoever
                     heeds them on the near side turns back
    ConfidentBinder  the same success, by the gradient of the confidence in one wrong class after the other
    AlarmBinder      the opposite: gets an image flagged, which costs something where it has hardly been moved

Each freezes the right class at the clean images: the one answered for them (`bind`), or the true one (`bind_to`)
for images that are wrong when clean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from memory_defense.contracts import Classifier, Images, Labels, Logits, PerImage, Rows
from memory_defense.wrappers import replace_value

_LEAD = 1e-3
"""By how much, in logits, a class is put before another where only the order counts."""


class Look(NamedTuple):
    """What one look at a batch tells an adversary."""

    logits: Logits
    """(B, K) the defense's own."""
    excess: PerImage
    """(B,) above 0 exactly for the images that are flagged."""
    confidence: Logits
    """(B, K) with a gradient: what grows as the defense becomes sure of a class and would accept it."""


def _check_weight(weight: float) -> None:
    if not weight > 0:
        raise ValueError(f"weight is {weight}, but the weight of the flag must be above 0")


def _right(classifier: Classifier, clean: Images) -> Labels:
    """Return (B,) the classes answered for the clean images."""
    with torch.no_grad():
        return classifier(clean).argmax(1)


def _lifted(logits: Logits, excess: PerImage, right: Labels, weight: float, *, crossing: bool = False) -> Logits:
    """Return the logits (B, K), whose largest is a wrong class only if the image is not flagged.

    With `crossing` a flagged image whose answer is right keeps the defense's own.
    """
    seen, own = logits.detach(), right[:, None]
    # A flagged image must never count as fooled: the right class is lifted above the largest logit.
    lead = (seen.amax(1) - seen.gather(1, own).squeeze(1)).clamp(min=0)
    heeded = (excess > 0) & (seen.argmax(1) != right) if crossing else excess > 0
    lift = torch.where(heeded, weight * excess + lead + _LEAD, 0.0)
    return logits.scatter_add(1, own, lift[:, None].to(logits.dtype))


@dataclass(frozen=True, eq=False)
class _Penalised:
    """The defense's logits, with the right class raised for flagged images; row-bound."""

    classifier: Classifier
    excess: Callable[[Images], PerImage]
    right: Labels
    weight: float
    crossing: bool

    def __call__(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        logits, excess = self.classifier(images), self.excess(images)
        return _lifted(logits, excess, self.right, self.weight, crossing=self.crossing)

    def rows(self, index: Rows) -> _Penalised:
        """Return the classifier for these rows."""
        return _Penalised(self.classifier, self.excess, self.right[index], self.weight, self.crossing)


@dataclass(frozen=True, eq=False)
class SilentBinder:
    """The adaptations ``silent`` and ``crossing``: an image counts as fooled only if it is wrong and not flagged.

    An image that is not flagged has the defense's own logits. For a flagged one the right class wins, by a margin
    that grows with the excess, so that an attack lowers the score below the threshold.

    Parameters
    ----------
    classifier
        The defense's own logits, with a gradient.
    excess
        `ThresholdFlag.excess`: (B, C, H, W) to (B,), above 0 exactly for the images that are flagged.
    weight
        Logits for each unit of `excess`, above 0.
    crossing
        Heed the flag only where the answer is wrong, and go straight for a wrong answer before.

    Raises
    ------
    ValueError
        For a weight that is not positive.
    """

    classifier: Classifier
    excess: Callable[[Images], PerImage]
    weight: float = 10.0
    crossing: bool = False

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    def bind(self, clean: Images) -> Classifier:
        """Return the classifier for attacks on these images; the right class is the one answered for them."""
        return self.bind_to(clean, _right(self.classifier, clean))

    def bind_to(self, clean: Images, labels: Labels) -> Classifier:
        """Return the same with these classes (B,) as the right ones."""
        del clean
        return _Penalised(self.classifier, self.excess, labels, self.weight, self.crossing)


@dataclass(frozen=True, eq=False)
class _Confident:
    """The values of `_Penalised`, with the gradient of the confidence in the wrong classes alone; row-bound."""

    look: Callable[[Images], Look]
    right: Labels
    weight: float

    def __call__(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        logits, excess, confidence = self.look(images)
        value = _lifted(logits.detach(), excess.detach(), self.right, self.weight)
        if not (torch.is_grad_enabled() and confidence.requires_grad):
            return value
        own = self.right[:, None]
        quiet: Tensor = confidence.scatter(1, own, confidence.detach().gather(1, own))
        return replace_value(value, quiet.to(value.dtype))

    def rows(self, index: Rows) -> _Confident:
        """Return the classifier for these rows."""
        return _Confident(self.look, self.right[index], self.weight)


@dataclass(frozen=True, eq=False)
class ConfidentBinder:
    """Maximises the confidence of one wrong class after the other, until it is accepted.

    The multi-target high-confidence attack of Chen et al. (2023, arXiv:2305.01139) in this house's form: an image
    counts as fooled where ``silent`` counts it, while the gradient is that of `Look.confidence` in the class that
    the attack leads to; the right class has none, so that nothing is spent on making it unlikely.

    Parameters
    ----------
    look
        Images (B, C, H, W) to what the adversary sees.
    weight
        As in `SilentBinder`.

    Raises
    ------
    ValueError
        For a weight that is not positive.
    """

    look: Callable[[Images], Look]
    weight: float = 10.0

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    def bind(self, clean: Images) -> Classifier:
        """Return the classifier for attacks on these images; the right class is the one answered for them."""
        with torch.no_grad():
            return self.bind_to(clean, self.look(clean).logits.argmax(1))

    def bind_to(self, clean: Images, labels: Labels) -> Classifier:
        """Return the same with these classes (B,) as the right ones."""
        del clean
        return _Confident(self.look, labels, self.weight)


@dataclass(frozen=True, eq=False)
class _Alarming:
    """Logits whose largest is the right class only if the image is right and not flagged; row-bound."""

    classifier: Classifier
    excess: Callable[[Images], PerImage]
    right: Labels

    def __call__(self, images: Images) -> Logits:
        """Return logits (B, K); that of the right class falls with the excess, where the answer is right."""
        excess = self.excess(images)
        logits, own = self.classifier(images).detach(), self.right[:, None]
        best = logits.scatter(1, own, -torch.inf).amax(1)
        lead = torch.where(excess.detach() > 0, -_LEAD, _LEAD) - excess
        wrong = logits.argmax(1) != self.right
        mine = torch.where(wrong, logits.gather(1, own).squeeze(1), best + lead)
        return logits.scatter(1, own, mine[:, None].to(logits.dtype))

    def rows(self, index: Rows) -> _Alarming:
        """Return the classifier for these rows."""
        return _Alarming(self.classifier, self.excess, self.right[index])


@dataclass(frozen=True, eq=False)
class AlarmBinder:
    """Gets an image flagged, or answered wrongly, by raising its score: the inner attack of Chen et al. (2023).

    Of interest in small balls, where a flag costs something (`evaluation.rejection`).

    Parameters
    ----------
    classifier, excess
        As in `SilentBinder`; only `excess` needs a gradient.
    """

    classifier: Classifier
    excess: Callable[[Images], PerImage]

    def bind(self, clean: Images) -> Classifier:
        """Return the classifier for attacks on these images; the right class is the one answered for them."""
        return self.bind_to(clean, _right(self.classifier, clean))

    def bind_to(self, clean: Images, labels: Labels) -> Classifier:
        """Return the same with these classes (B,) as the right ones."""
        del clean
        return _Alarming(self.classifier, self.excess, labels)
