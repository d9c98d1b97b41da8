"""The recipe that puts a denoiser before a user's own classifier, from the user's options and the images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memory_defense.attacks import Pgd
from memory_defense.certificates.smoothing import Smoothing
from memory_defense.model_spec import ImageSpec, ModelSpec
from memory_defense.networks.layers import check_side
from memory_defense.recipes.denoised import OPTIMIZER, denoising
from memory_defense.recipes.hardened import default_epsilon, fit_for, kept_options
from memory_defense.recipes.recipe import EvaluationPlan, HeldOutAttack, Recipe
from memory_defense.run_directory import HARDENED_CERTIFIED
from memory_defense.threat import Linf

KEY = HARDENED_CERTIFIED
"""Entry of the manifest with the fields of `CertifiedOptions`."""

FIRST_SEES, FIRST_EPOCHS = 250_000, (5, 100)
"""Training images that the denoiser sees as a black box in all, within a number of epochs."""
THEN_SEES, THEN_EPOCHS = 200_000, (4, 80)
"""The same through the classifier, each image in two copies."""
SPARE = 1.01
"""Factor by which so many copies must be able to certify more than is asked for: what the noise's lattice costs."""


@dataclass(frozen=True, kw_only=True)
class CertifiedOptions:
    """Options of one hardening to be certified; with the images they decide everything.

    Raises
    ------
    ValueError
        For a value out of its range, or a radius that so few copies cannot certify.
    """

    classifier: str
    """``package.module:attribute`` of the user's classifier."""
    weights_sha256: str
    """SHA-256 of the file of its weights."""
    sigma: float
    """Standard deviation of the noise, in pixel units of [0, 1]."""
    black_box: bool = False
    """Whether the denoiser is trained without ever asking the classifier."""
    memory: bool = False
    """Whether the denoiser has a memory."""
    epochs: int | None = None
    """Epochs of each stage; None follows the number of training images."""
    radii: tuple[float, ...] = ()
    """L2 radii to certify; empty is sigma and twice sigma."""
    images: int = 200
    """Test images to certify, at most."""
    samples: int = 1000
    """Noisy copies that bound a probability (n)."""
    selection: int = 100
    """Noisy copies that choose the class (n0)."""

    def __post_init__(self) -> None:
        smoothing = self.smoothing  # which checks its own numbers
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(
                f"epochs is {self.epochs}, but it must be at least 1; leave it out to follow the images"
            )
        if self.images < 1:
            raise ValueError(f"images is {self.images}, but at least 1 test image must be certified; give 200, say")
        furthest = max(self.asked_radii)
        if min(self.asked_radii) < 0 or not math.isfinite(furthest):
            raise ValueError(f"radii is {self.radii}, but an L2 radius is at least 0; give {self.sigma:g}, say")
        if furthest * SPARE > smoothing.largest_radius:
            raise ValueError(
                f"{self.samples:,} noisy copies can certify no more than {smoothing.largest_radius:.3f} with sigma "
                f"{self.sigma:g}, and {furthest:g} was asked for; give --samples "
                f"{smoothing.least_samples(furthest * SPARE)} or more, or a smaller --radius"
            )

    @property
    def smoothing(self) -> Smoothing:
        """How both are smoothed."""
        return Smoothing(sigma=self.sigma, samples=self.samples, selection=self.selection)

    @property
    def asked_radii(self) -> tuple[float, ...]:
        """The radii, smallest first."""
        return tuple(sorted(set(self.radii))) or (self.sigma, 2 * self.sigma)


def kept_certified(manifest: Mapping[str, Any], where: Path) -> CertifiedOptions:
    """Return the options in a manifest; raise ValueError, naming `where`, if they are damaged."""
    return kept_options(CertifiedOptions, KEY, manifest, where)


def certified_recipe(asked: CertifiedOptions, dataset: str, images: ImageSpec, train_images: int) -> Recipe:
    """Return the recipe: a denoiser as a black box, and then through the classifier, which stays as it is.

    Nothing is mirrored or cropped, since that may change the class of an unknown kind of image.

    Parameters
    ----------
    asked
        Options of the user.
    dataset, images
        Name and description of the images.
    train_images
        Number of training images.

    Raises
    ------
    ValueError
        For a size out of range, or fewer than 2 training images.
    """
    check_side(images.size, "the denoiser")
    if train_images < 2:
        raise ValueError(f"{dataset} has {train_images} images to train on, but at least 2 are needed; add some")
    then = None if asked.black_box else fit_for(asked.epochs, train_images, OPTIMIZER, THEN_SEES, THEN_EPOCHS)
    first = fit_for(asked.epochs, train_images, OPTIMIZER, FIRST_SEES, FIRST_EPOCHS)
    ball = Linf(default_epsilon(images.channels))
    return Recipe(
        name=f"harden {asked.classifier} on {dataset}, certified",
        summary=f"A denoiser before {asked.classifier}, as it was, to be smoothed with noise of {asked.sigma:g}",
        model=ModelSpec(
            dataset=dataset,
            defense="denoised-memory" if asked.memory else "denoised",
            preset="small" if images.channels == 1 else "wide",
            selector=asked.classifier,
            images=images,
        ),
        stages=denoising(asked.sigma, first, then, memory=asked.memory),
        held_out=HeldOutAttack(attack=Pgd(steps=10, loss="margin"), ball=ball),
        evaluation=EvaluationPlan(
            images=1000, linf=(ball,), attacks={"pgd-margin": Pgd(steps=20, loss="margin")}, suite="fast"
        ),
    )
