"""Builders of the systems without slots, by Memory Defense's presets; all draw from the global generator."""

from __future__ import annotations

from collections.abc import Sequence

from memory_defense.checks import nearest
from memory_defense.defenses.autoencoder import AutoencoderDefense, MemAeDefense
from memory_defense.defenses.memory.autoencoder import plan_for
from memory_defense.defenses.memory.presets import PRESETS, MemoryPreset
from memory_defense.defenses.undefended import Undefended
from memory_defense.networks.classifiers import TargetClassifier
from memory_defense.networks.layers import Normalize, check_network


def build_target_classifier(
    *, channels: int, size: int, classes: int, mean: Sequence[float], std: Sequence[float], preset: str = "sound"
) -> Undefended:
    """Return classifier-B alone, on normalised images.

    Parameters
    ----------
    channels, size, classes
        C, H = W (16 to 128) and K.
    mean, std
        The dataset's, in pixel units of [0, 1].
    preset
        Name in `PRESETS`; here it only decides what grey images are normalised with.

    Raises
    ------
    ValueError
        For an unknown preset or a size out of range.
    """
    mean, std = _constants(_chosen(preset), channels, mean, std)
    network = TargetClassifier(channels=channels, size=size, classes=classes, mean=mean, std=std)
    return Undefended(network)


def build_autoencoder_defense(
    *, channels: int, size: int, classes: int, mean: Sequence[float], std: Sequence[float], preset: str = "sound"
) -> AutoencoderDefense:
    """Return Memory Defense without selector and memory: encoder, decoder, classifier-B.

    Parameters
    ----------
    channels, size, classes
        C, H = W (16 to 128) and K.
    mean, std
        The dataset's, in pixel units of [0, 1].
    preset
        Name in `PRESETS`; here it decides the encoder's stem and what grey images are normalised with.

    Raises
    ------
    ValueError
        For an unknown preset or a size out of range.
    """
    chosen = _chosen(preset)
    check_network(channels, size, classes, mean, smallest=16)
    return AutoencoderDefense(
        plan=plan_for(channels, size, chosen.stem),
        normalize=Normalize(*_constants(chosen, channels, mean, std)),
        classifier_b=_classifier_b(channels, size, classes),
    )


def build_memae_defense(
    *,
    channels: int,
    size: int,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    preset: str = "sound",
    memory_size: int | None = None,
    shrink_threshold: float | None = None,
) -> MemAeDefense:
    """Return Memory Defense without selector and mask: encoder, memory, decoder, classifier-B.

    Parameters
    ----------
    channels, size, classes, mean, std
        See `build_autoencoder_defense`.
    preset
        Name in `PRESETS`; it decides the memory's size too. Its shrink threshold belongs to a masked memory and
        is not used.
    memory_size
        N; None is the preset's. It need not be a multiple of the number of classes.
    shrink_threshold
        lambda, see `MemAeDefense`; None is 1/N.

    Raises
    ------
    ValueError
        For an unknown preset, a size out of range, or a memory that cannot be.
    """
    chosen = _chosen(preset)
    check_network(channels, size, classes, mean, smallest=16)
    items = classes * chosen.items_per_class[channels > 1] if memory_size is None else memory_size
    return MemAeDefense(
        plan=plan_for(channels, size, chosen.stem),
        normalize=Normalize(*_constants(chosen, channels, mean, std)),
        classifier_b=_classifier_b(channels, size, classes),
        items=items,
        shrink_threshold=1 / max(items, 1) if shrink_threshold is None else shrink_threshold,
    )


def _chosen(preset: str) -> MemoryPreset:
    if preset not in PRESETS:
        raise nearest(preset, PRESETS, "preset")
    return PRESETS[preset]


def _constants(
    chosen: MemoryPreset, channels: int, mean: Sequence[float], std: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """Return the mean and deviation that this reading normalises with."""
    if chosen.grey_constants and channels == 1:
        return chosen.grey_constants[:1], chosen.grey_constants[1:]
    return mean, std


def _classifier_b(channels: int, size: int, classes: int) -> TargetClassifier:
    """Return classifier-B for reconstructions, which are in normalised space already."""
    return TargetClassifier(
        channels=channels, size=size, classes=classes, mean=(0.0,) * channels, std=(1.0,) * channels
    )
