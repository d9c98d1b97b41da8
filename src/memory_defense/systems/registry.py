"""Every system of the paper's tables by name: how it is built, and what is fitted once it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from memory_defense.data.images import Splits
from memory_defense.defenses.autoencoder import (
    build_autoencoder_defense,
    build_memae_defense,
    build_target_classifier,
)
from memory_defense.defenses.comdefend import build_comdefend
from memory_defense.defenses.defense_vae import build_defense_vae
from memory_defense.defenses.magnet import DROP_RATE, MagNet, build_magnet
from memory_defense.defenses.memory.presets import build_memory_defense
from memory_defense.defenses.pixeldefend import PixelDefend, build_pixeldefend
from memory_defense.defenses.undefended import Undefended
from memory_defense.model_spec import ImageSpec, ModelSpec

Builder = Callable[[ImageSpec, ModelSpec, nn.Module | None], nn.Module]
"""From the images, the whole specification and the classifier (None where there is none) to the system."""

FITTED_IMAGES = 2000
"""Held-out images that thresholds and likelihoods are fitted to, at most."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One row of a table, whatever its preset."""

    title: str
    """As tables call it."""
    build: Builder
    classifier: str | None
    """The attribute that holds its classifier, which is trained first and alone."""
    finish: Callable[[Any, Splits], None] | None = None
    """Fits thresholds on held-out images, after training."""


def _shape(images: ImageSpec) -> dict[str, Any]:
    return {
        "channels": images.channels,
        "size": images.size,
        "classes": len(images.classes),
        "mean": images.mean,
        "std": images.std,
    }


def _memory(images: ImageSpec, model: ModelSpec, classifier: nn.Module | None) -> nn.Module:
    assert classifier is not None
    return build_memory_defense(
        preset=model.preset, selector=classifier, memory_size=model.memory_size, **_shape(images)
    )


def _undefended(images: ImageSpec, model: ModelSpec, classifier: nn.Module | None) -> nn.Module:
    del images, model
    assert classifier is not None
    return Undefended(classifier)


def _target_classifier(images: ImageSpec, model: ModelSpec, classifier: nn.Module | None) -> nn.Module:
    del classifier
    return build_target_classifier(preset=model.preset, **_shape(images))


def _autoencoder(images: ImageSpec, model: ModelSpec, classifier: nn.Module | None) -> nn.Module:
    del classifier
    return build_autoencoder_defense(preset=model.preset, **_shape(images))


def _memae(images: ImageSpec, model: ModelSpec, classifier: nn.Module | None) -> nn.Module:
    del classifier
    return build_memae_defense(preset=model.preset, memory_size=model.memory_size, **_shape(images))


def _magnet(images: ImageSpec, model: ModelSpec, classifier: nn.Module | None) -> nn.Module:
    del model
    assert classifier is not None
    return build_magnet(classifier=classifier, channels=images.channels)


def _pixeldefend(images: ImageSpec, model: ModelSpec, classifier: nn.Module | None) -> nn.Module:
    assert classifier is not None
    published = "fashion-mnist" if images.channels == 1 else "cifar-10"
    return build_pixeldefend(
        channels=images.channels,
        size=images.size,
        classifier=classifier,
        preset=published if model.preset == "paper" else model.preset,
        stand_in=True,
    )


def _comdefend(images: ImageSpec, model: ModelSpec, classifier: nn.Module | None) -> nn.Module:
    assert classifier is not None
    return build_comdefend(channels=images.channels, size=images.size, classifier=classifier, preset=model.preset)


def _defense_vae(images: ImageSpec, model: ModelSpec, classifier: nn.Module | None) -> nn.Module:
    assert classifier is not None
    return build_defense_vae(channels=images.channels, size=images.size, classifier=classifier, preset=model.preset)


def _fit_magnet(defense: MagNet, splits: Splits) -> None:
    held_out = splits.held_out.first(min(FITTED_IMAGES, len(splits.held_out)))
    rate = max(DROP_RATE, 1.01 / len(held_out))  # fewer images cannot tell a smaller one
    defense.fit_thresholds(held_out.floats(), rate)


def _fit_likelihoods(defense: PixelDefend, splits: Splits) -> None:
    held_out = splits.held_out.first(min(FITTED_IMAGES, len(splits.held_out)))
    defense.fit_likelihoods(held_out.floats())


SYSTEMS: dict[str, System] = {
    "memory-defense": System(title="Memory Defense", build=_memory, classifier="selector"),
    "undefended": System(title="Classifier", build=_undefended, classifier="network"),
    "target-classifier": System(title="Target classifier", build=_target_classifier, classifier=None),
    "autoencoder": System(title="Autoencoder without memory", build=_autoencoder, classifier=None),
    "memae": System(title="MemAE without masking", build=_memae, classifier=None),
    "magnet": System(title="MagNet", build=_magnet, classifier="classifier", finish=_fit_magnet),
    "pixeldefend": System(
        title="PixelDefend", build=_pixeldefend, classifier="classifier", finish=_fit_likelihoods
    ),
    "comdefend": System(title="ComDefend", build=_comdefend, classifier="classifier"),
    "defense-vae": System(title="Defense-VAE", build=_defense_vae, classifier="classifier"),
}
