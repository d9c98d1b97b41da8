"""Every system, one line each: those of the tables, those made to be certified, mixed, or to flag.

Nothing here needs torch: the code of a system is imported when it is built.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memory_defense.model_spec import ImageSpec, ModelSpec
from memory_defense.names import check_name
from memory_defense.plugins import load_plugins

if TYPE_CHECKING:
    from torch import nn

    from memory_defense.contracts import Classifier, Images
    from memory_defense.data.images import ImageSet, Splits
    from memory_defense.defenses.magnet import MagNet
    from memory_defense.defenses.mixture import Mixture
    from memory_defense.defenses.pixeldefend import PixelDefend
    from memory_defense.defenses.rectified import Rectified

FITTED_IMAGES = 2000
"""Largest number of held-out images that thresholds and likelihoods are fitted to."""

_SHAPE = ("channels", "size", "classes", "mean", "std")
_DEFENSES = "memory_defense.defenses"


@dataclass(frozen=True)
class Finishing:
    """What thresholds, likelihoods and numbers are fitted to, once training is over."""

    splits: Splits
    """The data; its held-out images alone are used."""
    attacked: Callable[[Classifier, ImageSet], Images]
    """Attacks a classifier on these images by the recipe's held-out attack, and returns them attacked."""

    def held_out(self) -> ImageSet:
        """Return the held-out images, at most `FITTED_IMAGES`."""
        held_out = self.splits.held_out
        return held_out.first(min(FITTED_IMAGES, len(held_out)))


@dataclass(frozen=True)
class System:
    """One system, whatever its preset.

    Parameters
    ----------
    title
        Name in tables.
    builder
        A function or class as ``package.module:attribute``, imported when the system is built, or the function.
    takes
        Its keyword arguments beside the classifier: ``channels``, ``size``, ``classes`` (the number K), ``mean``
        and ``std`` of the images (`ImageSpec`), ``preset`` and ``memory_size`` of the model (`ModelSpec`).
    classifier
        Argument and attribute for the classifier, which is trained first and alone; None for a system without one.
    plain
        Argument and attribute for a second classifier of the same network, which takes the weights of the run's
        plain net and is not trained further; None for a system without one.
    finish
        Called with the trained system and what is left to fit on, see `Finishing`.
    """

    title: str
    builder: str | Callable[..., nn.Module]
    takes: tuple[str, ...] = ()
    classifier: str | None = None
    plain: str | None = None
    finish: Callable[[Any, Finishing], None] | None = None

    def build(self, images: ImageSpec, model: ModelSpec, classifier: nn.Module | None) -> nn.Module:
        """Return the system, freshly initialised: images (B, C, H, W) in [0, 1] to logits (B, K)."""
        known = {**vars(images), **vars(model), "classes": len(images.classes)}
        given: dict[str, Any] = {name: known[name] for name in self.takes}
        if self.classifier is not None:
            given[self.classifier] = classifier
        if self.plain is not None:
            given[self.plain] = copy.deepcopy(classifier)
        builder = self.builder
        if isinstance(builder, str):
            module, _, attribute = builder.partition(":")
            builder = getattr(importlib.import_module(module), attribute)
        return builder(**given)


def _pixeldefend(*, channels: int, preset: str, **given: Any) -> nn.Module:
    from memory_defense.defenses.pixeldefend import build_pixeldefend

    published = "fashion-mnist" if channels == 1 else "cifar-10"
    chosen = published if preset == "paper" else preset
    return build_pixeldefend(channels=channels, preset=chosen, stand_in=True, **given)


def _fit_likelihoods(defense: PixelDefend, finishing: Finishing) -> None:
    defense.fit_likelihoods(finishing.held_out().floats())


def _fit_mixture(defense: Mixture, finishing: Finishing) -> None:
    from memory_defense.defenses.mixture import fit

    held_out = finishing.held_out()
    fit(defense, held_out.floats(), held_out.labels, lambda victim: finishing.attacked(victim, held_out))


def _fit_thresholds(defense: MagNet, finishing: Finishing) -> None:
    from memory_defense.defenses.magnet import DROP_RATE

    held_out = finishing.held_out()
    rate = max(DROP_RATE, 1.01 / len(held_out))  # fewer images cannot tell a smaller one
    defense.fit_thresholds(held_out.floats(), rate)


def _fit_trust(defense: Rectified, finishing: Finishing) -> None:
    from memory_defense.defenses.rectified import FALSE_ALARMS

    held_out = finishing.held_out()
    rate = max(FALSE_ALARMS, 1.01 / len(held_out))  # fewer images cannot tell a smaller one
    defense.fit_threshold(held_out.floats(), rate)


_AUTOENCODERS = f"{_DEFENSES}.autoencoder"
_PURIFIER = ("channels", "size", "preset")

SYSTEMS: dict[str, System] = {
    "memory-defense": System(
        "Memory Defense",
        f"{_DEFENSES}.memory.presets:build_memory_defense",
        (*_SHAPE, "preset", "memory_size"),
        "selector",
    ),
    "undefended": System("Classifier", f"{_DEFENSES}.undefended:Undefended", (), "network"),
    "target-classifier": System(
        "Target classifier", f"{_AUTOENCODERS}:build_target_classifier", (*_SHAPE, "preset")
    ),
    "autoencoder": System(
        "Autoencoder without memory", f"{_AUTOENCODERS}:build_autoencoder_defense", (*_SHAPE, "preset")
    ),
    "memae": System(
        "MemAE without masking", f"{_AUTOENCODERS}:build_memae_defense", (*_SHAPE, "preset", "memory_size")
    ),
    "magnet": System(
        "MagNet", f"{_DEFENSES}.magnet:build_magnet", ("channels",), "classifier", finish=_fit_thresholds
    ),
    "pixeldefend": System("PixelDefend", _pixeldefend, _PURIFIER, "classifier", finish=_fit_likelihoods),
    "comdefend": System("ComDefend", f"{_DEFENSES}.comdefend:build_comdefend", _PURIFIER, "classifier"),
    "defense-vae": System("Defense-VAE", f"{_DEFENSES}.defense_vae:build_defense_vae", _PURIFIER, "classifier"),
    "proving-memory": System(
        "Proving memory", f"{_DEFENSES}.proving_memory:build_proving_memory", (*_SHAPE, "preset", "memory_size")
    ),
    "mixture": System(
        "Mixture of a robust and an accurate classifier",
        f"{_DEFENSES}.mixture:build_mixture",
        ("preset",),
        "robust",
        "accurate",
        _fit_mixture,
    ),
    "rectified": System(
        "Rectified rejection", f"{_DEFENSES}.rectified:build_rectified", (*_SHAPE, "preset"), finish=_fit_trust
    ),
    "consistent": System("Consistency", f"{_DEFENSES}.consistent:build_consistent", ("preset",), "classifier"),
    "denoised": System("Denoiser", f"{_DEFENSES}.denoised:build_denoised", ("channels", "preset"), "classifier"),
    "denoised-memory": System(
        "Denoiser with memory",
        f"{_DEFENSES}.denoised:build_memory_denoised",
        ("channels", "size", "classes", "preset", "memory_size"),
        "classifier",
    ),
}


def system_of(model: ModelSpec) -> System:
    """Return the system of a model; raise ValueError, with the nearest name, for an unknown one."""
    if model.defense not in SYSTEMS:
        load_plugins()
    check_name(model.defense, SYSTEMS, "defense")
    return SYSTEMS[model.defense]
