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
        Whose value is returned.
    weight
        Of classifier-B, at least 0; with 0 its backward pass is not run.

    Raises
    ------
    ValueError
        For a negative weight.
    """

    defense: SlottedClassifier
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


def adaptive_set(
    defense: SlottedClassifier, excess: Callable[[Images], PerImage] | None = None
) -> Mapping[str, Adaptation]:
    """Return every adaptation by name; ``silent`` only where the defense flags.

    Parameters
    ----------
    defense
        Its logits are every adaptation's.
    excess
        (B, C, H, W) to (B,), above 0 for the images that are flagged (`flagging.ThresholdFlag.excess`); None while
        there is no threshold.
    """
    published = {
        "steering": Adaptation(Joint(defense, weight=0.0), towards_each_class=True),
        "joint": Adaptation(Joint(defense)),
    }
    if excess is not None:
        published["silent"] = Adaptation(SilentBinder(EndToEnd(defense), excess), fights_flag=True)
    return published
