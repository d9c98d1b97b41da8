"""The surrogates of Memory Defense: what an adversary differentiates, by what it knows.

The defense's choice of a slot is an argmax and has no gradient.

    fixed-slots        the paper's protocol: the slot is a constant, and the selector is never attacked
    selector           classifier-A alone, which chooses the slot
    target-classifier  classifier-B on the image itself, without selector or memory
    end-to-end         the white box
    undefended         an independently trained plain classifier, whose adversarial images are transferred

The adaptive set is made for attacking this defense alone. All of it gives the defense's own logits, bit for bit, so
an attack stops exactly when the defense errs; its members differ in the gradient.

    steering           the gradient of classifier-A alone, since the answer follows the slot. Worth trying once for
                       each wrong class.
    joint              the sum of both classifiers' log-probabilities, with a soft choice of the slot: pulls
                       classifier-A and classifier-B towards the same wrong class.
    silent             end-to-end, with a penalty on the flagged score: errs and is not flagged. Only if a threshold
                       is set.
    crossing           the same, with the penalty only where the answer is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from memory_defense.contracts import Adaptation, Binding, Classifier, Images, Labels, Logits, PerImage, Rows
from memory_defense.defenses.flagging import against_flag
from memory_defense.defenses.memory.slots import class_mask
from memory_defense.defenses.memory.slotted import SlottedClassifier
from memory_defense.networks.layers import Normalize
from memory_defense.wrappers import replace_value

TRANSFER_KNOWLEDGE = frozenset({"fixed-slots", "target-classifier", "undefended"})
"""Surrogates whose decisions differ from the defense's: an error of theirs need not be one of the defense.

``end-to-end`` gives the defense's own logits; ``selector`` chooses the slot, which the answer follows.
"""


@dataclass(frozen=True, eq=False)
class FixedSlots:
    """The defense with its slots frozen: row-bound, since each image has its own slot.

    Parameters
    ----------
    defense
        Provides encoder, memory, decoder and classifier-B.
    slots
        (B,) one slot for each row.
    """

    defense: SlottedClassifier
    slots: Labels

    def __call__(self, images: Images) -> Logits:
        """Return logits (B, K); raise ValueError when there are more or fewer images than slots."""
        if len(images) != len(self.slots):
            raise ValueError(
                f"there are {len(images)} images but {len(self.slots)} frozen slots; take the rows of a "
                "sub-batch with rows(index), or bind again"
            )
        return self.defense.answer(images, self.slots)

    def rows(self, index: Rows) -> FixedSlots:
        """Return the classifier for these rows."""
        return FixedSlots(self.defense, self.slots[index])


@dataclass(frozen=True, eq=False)
class SlotFreezer:
    """The knowledge ``fixed-slots``: freezes the slots that the selector chooses for the clean images."""

    defense: SlottedClassifier

    def bind(self, clean: Images) -> FixedSlots:
        """Return the defense with these images' slots."""
        return FixedSlots(self.defense, self.defense.choose_slots(clean))


@dataclass(frozen=True, eq=False)
class EndToEnd:
    """The knowledge ``end-to-end``: the defense's own logits, differentiated through the choice of the slot.

    Forward the mask is the one-hot of the selector's argmax; backward it is the softmax of its logits
    (a straight-through estimate, Bengio et al. 2013), so the gradient also reaches the image by way of
    the selector.

    Parameters
    ----------
    defense
        The value returned is this defense's, bit for bit.
    temperature
        Above 0; divides the selector's logits in the backward pass; above 1, a confident selector keeps a gradient.

    Raises
    ------
    ValueError
        For a temperature that is not positive.
    """

    defense: SlottedClassifier
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}, but it must be above 0")

    def __call__(self, images: Images) -> Logits:
        """Return the defense's logits (B, K)."""
        defense = self.defense
        if not torch.is_grad_enabled():
            return defense(images)
        scores = defense.selector(images)
        slots = scores.argmax(1)
        soft = (scores / self.temperature).softmax(1)  # (B, K)
        mask = replace_value(class_mask(slots, defense.classes, soft.dtype), soft)
        codes = defense.encoder(defense.normalize(images))
        with torch.no_grad():
            value = defense.memory.read_slot(codes, slots)
        carrier = defense.memory.read(defense.memory.address(codes, mask).target)
        return defense.classifier_b(defense.decoder(replace_value(value, carrier)))


class BehindAutoencoder(Protocol):
    """A defense whose classifier-B answers for normalised images."""

    normalize: Normalize
    classifier_b: nn.Module


@dataclass(frozen=True, eq=False)
class TargetClassifierAlone:
    """The knowledge ``target-classifier``: classifier-B on the image itself, without what comes before it."""

    defense: BehindAutoencoder

    def __call__(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        return self.defense.classifier_b(self.defense.normalize(images))


def published_surrogates(
    defense: SlottedClassifier, transfer_source: Classifier | None = None
) -> Mapping[str, Classifier | Binding]:
    """Return every surrogate by its knowledge; ``undefended`` only if a transfer source is given."""
    surrogates: dict[str, Classifier | Binding] = {
        "fixed-slots": SlotFreezer(defense),
        "selector": defense.selector,
        "end-to-end": EndToEnd(defense),
        "target-classifier": TargetClassifierAlone(defense),
    }
    if transfer_source is not None:
        surrogates["undefended"] = transfer_source
    return surrogates


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
    """Return every adaptation by name; ``silent`` and ``crossing`` only if the defense flags images.

    `excess` maps images to (B,), above 0 for those that are flagged (`flagging.ThresholdFlag.excess`); it is None
    while there is no threshold.
    """
    published = {
        "steering": Adaptation(Joint(defense, weight=0.0), towards_each_class=True),
        "joint": Adaptation(Joint(defense)),
    }
    if excess is not None:
        published |= against_flag(EndToEnd(defense), excess)
    return published
