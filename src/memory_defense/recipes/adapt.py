"""Memory Defense recipes on images of one's own, and the recipe behind a run, whatever its images."""

from __future__ import annotations

import math
from dataclasses import replace

from memory_defense.data.spec import DatasetSpec
from memory_defense.model_spec import ImageSpec, ModelSpec
from memory_defense.names import check_adaptable
from memory_defense.recipes import recipe as recipe_named
from memory_defense.recipes.build import dataset_spec, image_spec
from memory_defense.recipes.harden_recipe import KEY as HARDENED
from memory_defense.recipes.harden_recipe import harden_recipe, kept_hardening
from memory_defense.recipes.images_from import KEY as IMAGES_FROM
from memory_defense.recipes.lengths import batch_size
from memory_defense.recipes.recipe import Recipe, Stage
from memory_defense.recipes.run_directory import RunDirectory
from memory_defense.training.adversarial import WarmStart

MOST_TIMES = 10
"""Epochs grow at most so many times where there are fewer images than the recipe was made for."""

_ON = " on "


def adapt(recipe: Recipe, spec: DatasetSpec, *, train_images: int | None = None) -> Recipe:
    """Return the recipe for other images, its name followed by `` on NAME``.

    Slots, networks and classes follow the images; radii, attacks and objectives stay. The memory keeps its items
    for each class. Fewer training images are seen in more epochs, up to `MOST_TIMES` as many, so that about as many
    images are seen in all, and in batches of at most an eighth of them. Nothing is mirrored: nobody but its
    owner knows whether a mirrored image still shows its class.

    Parameters
    ----------
    recipe
        Of a Memory Defense.
    spec
        Of the images, as `data.own.load_splits` describes them.
    train_images
        Images that are trained on; all but the held-out ones by default.

    Raises
    ------
    ValueError
        For a recipe of another system, or one that is adapted already.
    """
    count = spec.train_images - spec.held_out_images if train_images is None else train_images
    return _adapted(recipe, spec.name, image_spec(spec), count)


def recipe_of(run: RunDirectory) -> Recipe:
    """Return the recipe that a run was trained by.

    Raises
    ------
    ValueError
        For no run, or a recipe that this version does not know.
    """
    manifest = run.read()
    model = ModelSpec(**manifest["model"])
    count = int(manifest["train_images"])
    if HARDENED in manifest:
        assert model.images is not None, "a hardened run describes its images"
        hardening = kept_hardening(manifest, run.manifest_path)
        return harden_recipe(hardening, model.dataset, model.images, count)
    name = str(manifest["recipe"])
    if IMAGES_FROM not in manifest or _ON not in name or model.images is None:
        return recipe_named(name)
    return _adapted(recipe_named(name.partition(_ON)[0]), model.dataset, model.images, count)


def _adapted(recipe: Recipe, dataset: str, images: ImageSpec, count: int) -> Recipe:
    check_adaptable(recipe.name, recipe.model.defense)
    if recipe.model.images is not None:
        raise ValueError(f"{recipe.name} is made for other images already; give the recipe that it was made from")
    made_for = dataset_spec(recipe.model.dataset)
    items = recipe.model.memory_size
    if items is not None:
        items = items // len(made_for.classes) * len(images.classes)
    times = (made_for.train_images - made_for.held_out_images) / count
    return replace(
        recipe,
        name=f"{recipe.name}{_ON}{dataset}",
        model=replace(recipe.model, dataset=dataset, images=images, memory_size=items),
        undefended=None if recipe.undefended is None else _stage(recipe.undefended, times, count),
        stages=tuple(_stage(stage, times, count) for stage in recipe.stages),
        expected={},
    )


def _stage(stage: Stage, times: float, count: int) -> Stage:
    more = min(max(times, 1.0), MOST_TIMES)
    objective, fit = stage.objective, stage.fit
    if isinstance(objective, WarmStart):
        objective = replace(objective, horizontal_flip=False, memory={})
    still = replace(fit.augmentation, horizontal_flip=False, vertical_flip=False)
    return replace(
        stage,
        objective=objective,
        fit=replace(
            fit,
            epochs=math.ceil(fit.epochs * more),
            validate_every=math.ceil(fit.validate_every * more),
            batch_size=batch_size(count, fit.batch_size),
            augmentation=still,
        ),
    )
