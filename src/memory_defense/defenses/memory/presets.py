"""Three readings of the paper, by name, and the builder that turns one into a defense.

``paper`` is the text, ``reference`` the constants of the authors' released code, ``sound`` what we recommend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from memory_defense.checks import nearest
from memory_defense.defenses.memory.autoencoder import Stem, plan_for
from memory_defense.defenses.memory.defense import MemoryDefense
from memory_defense.defenses.memory.slots import SlotMemory
from memory_defense.networks.classifiers import TargetClassifier
from memory_defense.networks.layers import Normalize, check_network


@dataclass(frozen=True, kw_only=True)
class MemoryPreset:
    """The choices in which the readings differ."""

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
    """Mean and deviation that grey images are normalised with; None is the dataset's own."""


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


def build_memory_defense(  # noqa: PLR0913 - all keyword-only, half of them the dataset's
    *,
    channels: int,
    size: int,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    selector: nn.Module,
    preset: str = "sound",
    memory_size: int | None = None,
    shrink_threshold: float | None = None,
) -> MemoryDefense:
    """Return a freshly initialised Memory Defense; draws from the global generator.

    Parameters
    ----------
    channels, size, classes
        C, H = W (16 to 128) and K.
    mean, std
        The dataset's, in pixel units of [0, 1].
    selector
        Classifier-A: images in [0, 1] to logits (B, K); it brings its own normalisation.
    preset
        Name in `PRESETS`.
    memory_size
        M; None is the preset's.
    shrink_threshold
        phi; None is the preset's.

    Raises
    ------
    ValueError
        For an unknown preset, a size out of range, or a memory that does not divide into K slots.
    """
    if preset not in PRESETS:
        raise nearest(preset, PRESETS, "preset")
    chosen = PRESETS[preset]
    check_network(channels, size, classes, mean, smallest=16)
    plan = plan_for(channels, size, chosen.stem)
    items = classes * chosen.items_per_class[channels > 1] if memory_size is None else memory_size
    threshold = chosen.shrink_threshold if shrink_threshold is None else shrink_threshold
    if chosen.grey_constants and channels == 1:
        mean, std = chosen.grey_constants[:1], chosen.grey_constants[1:]
    return MemoryDefense(
        plan=plan,
        selector=selector,
        normalize=Normalize(mean, std),
        memory=SlotMemory(
            items=items,
            code_size=plan.code_size,
            classes=classes,
            shrink_threshold=1 / max(items, 1) if threshold is None else threshold,
            keep_one=chosen.keep_one,
        ),
        classifier_b=TargetClassifier(
            channels=channels, size=size, classes=classes, mean=(0.0,) * channels, std=(1.0,) * channels
        ),
    )
