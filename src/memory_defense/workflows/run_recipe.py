"""The recipe behind a run, whatever its images."""

from __future__ import annotations

from memory_defense.model_spec import ModelSpec
from memory_defense.recipes.adapt import ON, adapted
from memory_defense.recipes.hardened import KEY as HARDENED
from memory_defense.recipes.hardened import harden_recipe, kept_hardening
from memory_defense.recipes.hardened_certified import KEY as HARDENED_CERTIFIED
from memory_defense.recipes.hardened_certified import certified_recipe, kept_certified
from memory_defense.recipes.recipe import Recipe
from memory_defense.recipes.registry import recipe as recipe_named
from memory_defense.run_directory import IMAGES_FROM, RunDirectory


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
    if HARDENED_CERTIFIED in manifest:
        assert model.images is not None, "a hardened run describes its images"
        asked = kept_certified(manifest, run.manifest_path)
        return certified_recipe(asked, model.dataset, model.images, count)
    name = str(manifest["recipe"])
    if IMAGES_FROM not in manifest or ON not in name or model.images is None:
        return recipe_named(name)
    return adapted(recipe_named(name.partition(ON)[0]), model.dataset, model.images, count)
