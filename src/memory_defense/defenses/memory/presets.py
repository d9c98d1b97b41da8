"""Three readings of the paper, by name, and the builder that turns one into a defense.

``paper`` is the text, ``reference`` the constants of the authors' released code, ``sound`` what we recommend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

from torch import nn

from memory_defense.defenses.memory.autoencoder import LARGEST_SIZE, Stem, plan_for
from memory_defense.defenses.memory.defense import MemoryDefense
from memory_defense.defenses.memory.slots import SlotMemory
from memory_defense.names import check_name
from memory_defense.networks.classifiers import TargetClassifier
from memory_defense.networks.layers import ImageShape, Normalize, check_network


@dataclass(frozen=True, kw_only=True)
class MemoryPreset:
    """The choices that the paper leaves open, as one reading makes them."""

    summary: str
    items_per_class: tuple[int, int]
    """Memory items for each class, for grey and for colour images; with ten classes M is ten times that."""
    shrink_threshold: float | None
    """phi of hard shrink; None is 1/M."""
    keep_one: bool
    """Keep at least the largest item of a slot."""
    stem: Stem
    """Kernel of the encoder's first layer on 28-pixel grey images."""
    grey_constants: tuple[float, float] | None = None
    """Mean and standard deviation that grey images are normalised with; None is the dataset's own."""

    def items(self, shape: ImageShape) -> int:
        """Return M, the number of memory items."""
        return shape["classes"] * self.items_per_class[shape["channels"] > 1]


PRESETS: dict[str, MemoryPreset] = {
    "paper": MemoryPreset(
        summary="the text: 100 items (grey) or 500 (colour), a shrink threshold of 1e-4 that removes nothing",
        items_per_class=(10, 50),
        shrink_threshold=1e-4,
        keep_one=False,
        stem=1,
    ),
    "reference": MemoryPreset(
        summary="the released code: 500 items, a shrink threshold of 1e-12, MNIST's constants on grey images",
        items_per_class=(50, 50),
        shrink_threshold=1e-12,
        keep_one=False,
        stem=1,
        grey_constants=(0.1307, 0.3081),
    ),
    "sound": MemoryPreset(
        summary="a shrink threshold that removes items (1/M), a stem that sees every pixel, right constants",
        items_per_class=(10, 50),
        shrink_threshold=None,
        keep_one=True,
        stem=3,
    ),
}
"""Readings A3, A5, A17 and A20. For colour the released code gives no constants, so the dataset's are used."""


def reading(preset: str, shape: ImageShape) -> MemoryPreset:
    """Return a preset by name; raise ValueError for an unknown one, or a shape that classifier-B cannot take."""
    check_name(preset, PRESETS, "preset")
    check_network(shape["channels"], shape["size"], shape["classes"], shape["mean"], 16, LARGEST_SIZE)
    return PRESETS[preset]


def constants_of(preset: MemoryPreset, shape: ImageShape) -> tuple[Sequence[float], Sequence[float]]:
    """Return the mean and standard deviation that this reading normalises with, one number per channel."""
    if preset.grey_constants and shape["channels"] == 1:
        return preset.grey_constants[:1], preset.grey_constants[1:]
    return shape["mean"], shape["std"]


def new_classifier_b(shape: ImageShape) -> TargetClassifier:
    """Return classifier-B for reconstructions, which are normalised already."""
    channels = shape["channels"]
    return TargetClassifier(**{**shape, "mean": (0.0,) * channels, "std": (1.0,) * channels})


def build_memory_defense(
    *,
    selector: nn.Module,
    preset: str = "sound",
    memory_size: int | None = None,
    shrink_threshold: float | None = None,
    **shape: Unpack[ImageShape],
) -> MemoryDefense:
    """Return a freshly initialised Memory Defense; draws from the global generator.

    Parameters
    ----------
    selector
        Classifier-A: images in [0, 1] to logits (B, K), its own normalisation included.
    preset
        Name in `PRESETS`.
    memory_size
        M; None is the preset's.
    shrink_threshold
        phi; None is the preset's.
    shape
        See `ImageShape`; at least 16 pixels.

    Raises
    ------
    ValueError
        For an unknown preset, a size out of range, or a memory that does not divide into K slots.
    """
    chosen = reading(preset, shape)
    plan = plan_for(shape["channels"], shape["size"], chosen.stem)
    items = chosen.items(shape) if memory_size is None else memory_size
    threshold = chosen.shrink_threshold if shrink_threshold is None else shrink_threshold
    return MemoryDefense(
        plan=plan,
        selector=selector,
        normalize=Normalize(*constants_of(chosen, shape)),
        memory=SlotMemory(
            items=items,
            code_size=plan.code_size,
            classes=shape["classes"],
            shrink_threshold=1 / max(items, 1) if threshold is None else threshold,
            keep_one=chosen.keep_one,
        ),
        classifier_b=new_classifier_b(shape),
    )
