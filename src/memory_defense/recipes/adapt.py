"""Memory Defense recipes on a user's own images."""

from __future__ import annotations

import math
from dataclasses import replace

from memory_defense.data.spec import DatasetSpec, dataset_spec, image_spec
from memory_defense.model_spec import ImageSpec
from memory_defense.names import check_adaptable
from memory_defense.recipes.parts import batch_size
from memory_defense.recipes.recipe import Recipe, Stage
from memory_defense.training.adversarial import WarmStart

MOST_TIMES = 10
"""Largest factor of epochs if there are fewer images than the recipe was made for."""

ON = " on "
"""Text between the name of a recipe and that of the images it was adapted to."""


def adapt(recipe: Recipe, spec: DatasetSpec, *, train_images: int | None = None) -> Recipe:
    """Return the recipe for other images, its name followed by `` on NAME``.

    Slots, networks and classes follow the images; radii, attacks and objectives stay. The memory keeps its items
    for each class. Fewer training images are seen in more epochs, up to `MOST_TIMES` as many, so that about as many
    images are seen in all, and in batches of at most an eighth of them. Nothing is mirrored, since a
    mirror image of an unknown kind may show another class.

    Parameters
    ----------
    recipe
        Recipe of a Memory Defense.
    spec
        Description of the images, from `data.own.load_splits`.
    train_images
        Number of training images; all but the held-out ones by default.

    Raises
    ------
    ValueError
        For a recipe of another system, or one that is adapted already.
    """
    count = spec.train_images - spec.held_out_images if train_images is None else train_images
    return adapted(recipe, spec.name, image_spec(spec), count)


def adapted(recipe: Recipe, dataset: str, images: ImageSpec, count: int) -> Recipe:
    """Return the recipe for `count` training images of `dataset`; see `adapt`."""
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
        name=f"{recipe.name}{ON}{dataset}",
        model=replace(recipe.model, dataset=dataset, images=images, memory_size=items),
        undefended=None if recipe.undefended is None else _stage(recipe.undefended, times, count),
        stages=tuple(_stage(stage, times, count) for stage in recipe.stages),
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
