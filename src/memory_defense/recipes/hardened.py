"""The recipe that hardens a user's own classifier, from the user's options and the images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from memory_defense.attacks import Pgd
from memory_defense.attacks.suites import check_attacks
from memory_defense.checks import check_at_least
from memory_defense.defenses.memory.autoencoder import plan_for
from memory_defense.defenses.memory.objective import MemoryObjective
from memory_defense.defenses.memory.presets import PRESETS
from memory_defense.defenses.mixture import FEWEST_CLASSES
from memory_defense.model_spec import ImageSpec, ModelSpec, OwnClassifier
from memory_defense.recipes.parts import CLASSIFIER_B_WEIGHT, batch_size, epochs_for
from memory_defense.recipes.recipe import EvaluationPlan, HeldOutAttack, Recipe, Stage
from memory_defense.run_directory import HARDENED
from memory_defense.threat import Linf
from memory_defense.training.adversarial import SingleStep, WarmStart
from memory_defense.training.fit import FitConfig
from memory_defense.training.optimizer import OptimizerConfig

_Asked = TypeVar("_Asked")

KEY = HARDENED
"""Entry of the manifest with the fields of `HardenOptions`."""

SMALLEST, LARGEST = 16, 1024
"""Range of image sizes, in pixels a side, that the memory autoencoder takes."""

REMEMBERED_BYTES = 1 << 28
"""Bytes that the perturbations of all training images may take, which are remembered from epoch to epoch and saved
with every checkpoint; images that take more are fine-tuned by steps from noise, which remember nothing."""
MEMORY_NUMBERS = 1 << 26
"""Numbers in the memory, at most: with many classes of large images each class has fewer items."""

COLOUR_EPSILON, GREY_EPSILON = 8 / 255, 0.1
"""Default radii: customary for colour images, and for grey ones on a plain ground."""

FINE_TUNING_SEES = 300_000
"""Training images that fine-tuning sees in all, within `FINE_TUNING_EPOCHS`."""
FINE_TUNING_EPOCHS = (15, 150)
AUTOENCODER_SEES = 50_000
"""Training images that the memory autoencoder sees in all, within `AUTOENCODER_EPOCHS`."""
AUTOENCODER_EPOCHS = (2, 50)

_TUNING = OptimizerConfig(name="adamw", learning_rate=1e-3, weight_decay=5e-4, schedule="one-cycle")
_AUTOENCODER = OptimizerConfig(name="adamw", learning_rate=4e-3, weight_decay=5e-4, schedule="one-cycle")
_SCORES = 10
"""Least number of times that a stage is scored on held-out images."""


@dataclass(frozen=True, kw_only=True)
class HardenOptions:
    """Options of one hardening; with the images they decide everything.

    Raises
    ------
    ValueError
        For a value out of its range, or an unknown attack.
    """

    classifier: str
    """``package.module:attribute`` of the user's classifier."""
    weights_sha256: str
    """SHA-256 of the file of its weights."""
    epsilon: float
    """Radius of the L-inf ball to defend and to attack in, in pixel units of [0, 1]."""
    fine_tune: bool = True
    """Whether the classifier is trained on adversarial images before it chooses slots."""
    epochs: int | None = None
    """Epochs of the fine-tuning and of the autoencoder; None follows the number of training images."""
    attacks: str = "fast"
    """Suites and attacks joined by commas; see `attacks.suites.parts_of`."""
    images: int = 1000
    """Test images to attack, at most."""
    keep_clean_accuracy: bool = False
    """Mix the fine-tuned classifier with the one that was brought (`defenses.mixture`), in place of the memory."""
    without_memory: bool = False
    """Fine-tune the classifier and do nothing else."""
    arguments: tuple[tuple[str, bool | int | float | str | None], ...] = ()
    """What the function that makes the classifier is given."""
    preprocess: str = ""
    """What its network wants its pixels to be (`systems.preprocessing.Preprocessing.parse`); empty takes them as
    they are."""
    accumulate: int = 1
    """Parts of a batch that pass one after the other; see `training.config.FitConfig`."""
    train_last: int | None = None
    """Layers that are fine-tuned, from the end; None is all of them."""
    train_only: tuple[str, ...] = ()
    """Patterns of the names of parameters that are fine-tuned; see `training.partial.chosen`."""

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"epsilon is {self.epsilon}, but it must be above 0 and at most 1; write it as 8/255")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(
                f"epochs is {self.epochs}, but it must be at least 1; leave it out to follow the images"
            )
        if self.images < 1:
            raise ValueError(f"images is {self.images}, but at least 1 test image must be attacked")
        if self.keep_clean_accuracy and not self.fine_tune:
            raise ValueError(
                "keep_clean_accuracy mixes the classifier with a fine-tuned copy of it, but fine_tune is off; turn "
                "one of both around"
            )
        if self.without_memory and (self.keep_clean_accuracy or not self.fine_tune):
            raise ValueError(
                "without_memory fine-tunes the classifier and does nothing else; turn keep_clean_accuracy off and "
                "fine_tune on"
            )
        if (self.train_last is not None or self.train_only) and not self.fine_tune:
            raise ValueError("train_last and train_only say what is fine-tuned, but fine_tune is off; turn it on")
        check_at_least(1, accumulate=self.accumulate, train_last=self.train_last)
        check_attacks(self.attacks, norms=("linf",))

    @property
    def result(self) -> str:
        """What comes of it, in words."""
        if self.without_memory:
            return "fine-tuned classifier"
        return "mixture" if self.keep_clean_accuracy else "Memory Defense"

    @property
    def own(self) -> OwnClassifier | None:
        """How the classifier is built; None where its name says it all."""
        made = OwnClassifier(arguments=self.arguments, preprocess=self.preprocess)
        return None if made == OwnClassifier() else made


def default_epsilon(channels: int) -> float:
    """Return the default radius for images of so many channels, in pixel units."""
    return GREY_EPSILON if channels == 1 else COLOUR_EPSILON


def kept_hardening(manifest: Mapping[str, Any], where: Path) -> HardenOptions:
    """Return the options in a manifest; raise ValueError, naming `where`, if they are damaged."""
    return kept_options(HardenOptions, KEY, manifest, where)


def kept_options(kind: type[_Asked], key: str, manifest: Mapping[str, Any], where: Path) -> _Asked:
    """Return an entry of a manifest as the options it was made of; raise ValueError if it is damaged."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(manifest[key]), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(
            f"{where}: {key!r} is damaged ({first['msg']}); harden again into a new directory"
        ) from error


def harden_recipe(hardening: HardenOptions, dataset: str, images: ImageSpec, train_images: int) -> Recipe:
    """Return the recipe: fine-tuning by warm-started single steps, the memory autoencoder, one suite of attacks.

    With `HardenOptions.keep_clean_accuracy` the mixture of both classifiers takes the autoencoder's place, with
    `HardenOptions.without_memory` nothing does.

    Nothing is mirrored or cropped, since that may change the class of an unknown kind of image.

    Parameters
    ----------
    hardening
        Options of the user.
    dataset, images
        Name and description of the images.
    train_images
        Number of training images.

    Raises
    ------
    ValueError
        For a size that the memory autoencoder does not take, fewer than 2 training images, or fewer than 3 classes
        to mix for.
    """
    mixes, remembers = (
        hardening.keep_clean_accuracy,
        not (hardening.keep_clean_accuracy or hardening.without_memory),
    )
    if mixes and len(images.classes) < FEWEST_CLASSES:
        raise ValueError(
            f"{dataset} has {len(images.classes)} classes, but a mixture needs at least {FEWEST_CLASSES}: layer "
            "normalisation leaves nothing of two logits' distance; leave out --keep-clean-accuracy"
        )
    if remembers and images.width is not None:
        raise ValueError(
            f"images of {dataset} are {images.width} x {images.size} pixels, but the memory autoencoder takes "
            "squares; harden without it (--without-memory), or resize them to squares with --size"
        )
    if remembers and not SMALLEST <= images.size <= LARGEST:
        raise ValueError(
            f"images of {dataset} are {images.size} pixels a side, but the memory autoencoder takes {SMALLEST} to "
            f"{LARGEST}; resize them with --size {min(max(images.size, SMALLEST), LARGEST)}, which your classifier "
            "then sees, too: it must have been trained at that size"
        )
    if train_images < 2:
        raise ValueError(f"{dataset} has {train_images} images to train on, but at least 2 are needed; add some")
    ball = Linf(hardening.epsilon)
    tuning = _tuning(hardening, images, train_images)
    autoencoder = Stage(
        name="joint",
        part="autoencoder",
        objective=MemoryObjective(cross_entropy=CLASSIFIER_B_WEIGHT),
        score="objective",
        fit=replace(
            fit_for(hardening.epochs, train_images, _AUTOENCODER, AUTOENCODER_SEES, AUTOENCODER_EPOCHS),
            accumulate=_parts(hardening, train_images),
        ),
    )
    whole = Recipe(
        name=f"harden {hardening.classifier} on {dataset}",
        summary=f"Memory Defense around {hardening.classifier}"
        + (", fine-tuned adversarially" if hardening.fine_tune else ", as it was"),
        model=ModelSpec(
            dataset=dataset,
            preset="sound",
            selector=hardening.classifier,
            memory_size=_items(images) if remembers else None,
            images=images,
            own=hardening.own,
        ),
        undefended_network=hardening.classifier,
        stages=(tuning, autoencoder) if hardening.fine_tune else (autoencoder,),
        held_out=HeldOutAttack(attack=Pgd(steps=10, loss="margin"), ball=ball),
        evaluation=EvaluationPlan(
            images=hardening.images,
            linf=(ball,),
            attacks={"pgd-margin": Pgd(steps=20, loss="margin")},
            suite=hardening.attacks,
        ),
    )
    if remembers:
        return whole
    if not mixes:
        return replace(
            whole,
            summary=f"{hardening.classifier}, fine-tuned adversarially",
            model=replace(whole.model, defense="undefended", preset=""),
            undefended_network="",
            stages=(tuning,),
        )
    return replace(
        whole,
        summary=f"{hardening.classifier} mixed with itself, fine-tuned adversarially",
        model=replace(whole.model, defense="mixture", preset="gelu"),
        stages=(tuning,),
    )


def _tuning(hardening: HardenOptions, images: ImageSpec, train_images: int) -> Stage:
    """Return the fine-tuning: warm-started steps, or steps from noise where perturbations are too many to keep."""
    height, width = images.sides
    remembered = train_images * images.channels * height * width <= REMEMBERED_BYTES
    epsilon = hardening.epsilon
    return Stage(
        name="warm-start" if remembered else "single-step",
        objective=WarmStart(epsilon=epsilon, step=0.75, horizontal_flip=False)
        if remembered
        else SingleStep(epsilon=epsilon),
        score="robust",
        fit=replace(
            fit_for(hardening.epochs, train_images, _TUNING, FINE_TUNING_SEES, FINE_TUNING_EPOCHS),
            accumulate=_parts(hardening, train_images),
            train_last=hardening.train_last,
            train_only=hardening.train_only,
        ),
    )


def _parts(hardening: HardenOptions, train_images: int) -> int:
    """Return the parts of a batch; raise ValueError for more than it has images."""
    batch = batch_size(train_images)
    if hardening.accumulate > batch:
        raise ValueError(
            f"accumulate is {hardening.accumulate}, but a batch of {train_images} images' training has {batch}; "
            f"give at most {batch}"
        )
    return hardening.accumulate


def _items(images: ImageSpec) -> int | None:
    """Return the memory's items where the preset's would be too many; else None, for just those."""
    classes = len(images.classes)
    each = PRESETS["sound"].items_per_class[images.channels > 1]
    most = MEMORY_NUMBERS // (classes * plan_for(images.channels, images.size).code_size)
    return None if each <= most else classes * max(1, most)


def fit_for(
    epochs: int | None, images: int, optimizer: OptimizerConfig, seen: int, limits: tuple[int, int]
) -> FitConfig:
    """Return how a stage is trained on so many images: for so many epochs, or until it has seen `seen` in all."""
    epochs = epochs or epochs_for(images, seen, least=limits[0], most=limits[1])
    return FitConfig(
        epochs=epochs,
        batch_size=batch_size(images),
        optimizer=optimizer,
        averaging=0.99,
        validate_every=max(1, epochs // _SCORES),
    )
