"""The adaptive set of Memory Defense: surrogates made for attacking this defense alone.

All of these give the defense's own logits, bit for bit, so an attack stops exactly when the defense errs; they
differ in the gradient.

    steering   the gradient of classifier-A alone, since the answer follows the slot. Worth trying once for each
               wrong class.
    joint      the sum of both classifiers' log-probabilities, with a soft choice of the slot: pulls classifier-A
               and classifier-B towards the same wrong class.
    silent     end-to-end, with a penalty on the flagged score: errs and is not flagged. Only if a threshold is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from memory_defense.contracts import Adaptation, Images, Logits, PerImage
from memory_defense.defenses.flagging import SilentBinder
from memory_defense.defenses.memory.slotted import SlottedClassifier
from memory_defense.defenses.memory.surrogates import EndToEnd
from memory_defense.wrappers import replace_value


@dataclass(frozen=True, eq=False)
class Joint:
    """The defense's logits with the gradient of ``log p_A + weight * log p_B``.

    Tramer et al. 2020: attack every part that the decision passes through.

    Parameters
    ----------
    defense
        The value returned is this defense's.
    weight
        Weight of classifier-B, at least 0; with 0 its backward pass is not run.

    Raises
    ------
    ValueError
        For a negative weight.
    """

    defense: SlottedClassifier
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"weight is {self.weight}, but the weight of classifier-B is at least 0")

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


def adaptive_set(
    defense: SlottedClassifier, excess: Callable[[Images], PerImage] | None = None
) -> Mapping[str, Adaptation]:
    """Return every adaptation by name; ``silent`` only if the defense flags images.

    `excess` maps images to (B,), above 0 for those that are flagged (`flagging.ThresholdFlag.excess`); it is None
    while there is no threshold.
    """
    published = {
        "steering": Adaptation(Joint(defense, weight=0.0), towards_each_class=True),
        "joint": Adaptation(Joint(defense)),
    }
    if excess is not None:
        published["silent"] = Adaptation(SilentBinder(EndToEnd(defense), excess), fights_flag=True)
    return published
