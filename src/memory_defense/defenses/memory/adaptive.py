"""The adaptive set of Memory Defense: what an adversary who read its code would attack, published as data.

All of these give the defense's own logits, bit for bit, so an attack stops exactly when the defense errs; they
differ in the gradient.

    steering   the gradient of classifier-A alone: whoever moves the slot moves the answer. Worth trying
               once for each wrong class.
    joint      the sum of both classifiers' log-probabilities, the slot's choice made soft: pulls classifier-A and
               classifier-B towards the same wrong class.
    silent     end-to-end, less what the image would score above the flag's threshold: errs and is not flagged.
               Only where a threshold was set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from memory_defense.contracts import Adaptation, Classifier, Images, Labels, Logits, Rows
from memory_defense.defenses.memory.evidence import score
from memory_defense.defenses.memory.surrogates import EndToEnd
from memory_defense.wrappers import replace_value

if TYPE_CHECKING:
    from memory_defense.defenses.memory.defense import MemoryDefense

SMALLEST_UNIT = 1e-6
"""What an excess is measured in where the threshold is nearly 0."""


@dataclass(frozen=True, eq=False)
class Joint:
    """The defense's logits with the gradient of ``log p_A + weight * log p_B``.

    Tramer et al. 2020: attack every part that the decision passes through.

    Parameters
    ----------
    defense
        Whose value is returned.
    weight
        Of classifier-B, at least 0; with 0 its backward pass is not run.

    Raises
    ------
    ValueError
        For a negative weight.
    """

    defense: MemoryDefense
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"weight is {self.weight}, but classifier-B can only count with at least 0")

    def __call__(self, images: Images) -> Logits:
        """Return the defense's logits (B, K)."""
        defense = self.defense
        if not torch.is_grad_enabled():
            return defense(images)
        carrier = defense.selector(images).log_softmax(1)
        if self.weight == 0:
            with torch.no_grad():
                value = defense.answer(images, carrier.argmax(1))
            return replace_value(value, carrier)
        value = EndToEnd(defense)(images)
        return replace_value(value.detach(), carrier + self.weight * value.log_softmax(1))


@dataclass(frozen=True, eq=False)
class _Silent:
    """End-to-end logits in which the right class gains by what the flag would say; row-bound.

    Parameters
    ----------
    defense
        With a threshold.
    right
        (B,) the classes answered for the clean images.
    weight
        Logits for each unit of the score above the threshold, in units of the threshold.
    """

    defense: MemoryDefense
    right: Labels
    weight: float

    def __call__(self, images: Images) -> Logits:
        """Return logits (B, K) whose largest is a wrong class only if the image would not be flagged."""
        logits = EndToEnd(self.defense)(images)
        excess = self.excess(images)
        flagged = excess > 0
        # A flagged image must not count as fooled, whatever the lead: the right class is lifted above all others.
        lead = (logits.detach().amax(1) - logits.detach().gather(1, self.right[:, None]).squeeze(1)).clamp(min=0)
        lift = torch.where(flagged, self.weight * excess + lead + 1e-3, 0.0)
        return logits.scatter_add(1, self.right[:, None], lift[:, None].to(logits.dtype))

    def excess(self, images: Images) -> Tensor:
        """Return (B,) how far the score lies above the threshold, as a share of it; negative below."""
        defense = self.defense
        threshold = defense.flag_threshold
        assert threshold is not None
        unit = max(abs(threshold), SMALLEST_UNIT)
        return (score(defense, defense.flag_score, images) - threshold) / unit

    def rows(self, index: Rows) -> _Silent:
        """Return the classifier for these rows."""
        return _Silent(self.defense, self.right[index], self.weight)


@dataclass(frozen=True, eq=False)
class SilentBinder:
    """The adaptation ``silent``: remembers what the defense answers for the clean images."""

    defense: MemoryDefense
    weight: float = 10.0

    def bind(self, clean: Images) -> Classifier:
        """Return the classifier for attacks on these images."""
        with torch.no_grad():
            return _Silent(self.defense, self.defense(clean).argmax(1), self.weight)


def adaptive_set(defense: MemoryDefense) -> Mapping[str, Adaptation]:
    """Return every adaptation by name; ``silent`` only where the defense flags."""
    published = {
        "steering": Adaptation(Joint(defense, weight=0.0), towards_each_class=True),
        "joint": Adaptation(Joint(defense)),
    }
    if defense.flag_threshold is not None:
        published["silent"] = Adaptation(SilentBinder(defense), fights_flag=True)
    return published
