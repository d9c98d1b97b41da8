"""Rows of the tables that come with the package (`memory_defense.zoo`): taken from there instead of trained.

An entry is a row's run where recipe, seed and training images are the very same. Its classifiers are also those of
other rows: the selector of the sound system is the classifier of ``resnet-online``.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Sequence
from pathlib import Path

from torch import nn

from memory_defense import zoo
from memory_defense.data.images import Splits
from memory_defense.data.spec import images_of
from memory_defense.recipes.recipe import Recipe
from memory_defense.recipes.registry import RECIPES
from memory_defense.run_directory import SHIPPED, RunDirectory
from memory_defense.systems.build import build_classifier, classifier_of
from memory_defense.systems.load import load_defense
from memory_defense.tensorfiles import read_tensors
from memory_defense.training.checkpoint import load_weights, save_weights
from memory_defense.workflows.train import shared_stages


def entry_of(recipe: Recipe, splits: Splits, seed: int) -> RunDirectory | None:
    """Return the entry that was trained by this recipe with this seed on these images, if there is one."""
    return next((run for run in _entries(splits, seed) if run.read()["recipe"] == recipe.name), None)


def take(recipe: Recipe, run: RunDirectory, splits: Splits, seed: int) -> bool:
    """Copy the weights of a recipe that comes with the package to where its run would be; False for any other."""
    entry = entry_of(recipe, splits, seed)
    if entry is None:
        return False
    manifest = run.begin(recipe, seed, len(splits.train), splits.spec.sha256, resume=False)
    for source, place in ((entry.weights, run.weights), (entry.undefended, run.undefended)):
        if source.is_file():
            shutil.copyfile(source, place)
    manifest |= {"stages": entry.read()["stages"], SHIPPED: entry.path.relative_to(zoo.ROOT).as_posix()}
    run.seal(manifest)
    return True


def was_taken(run: RunDirectory) -> bool:
    """Return whether a run, or one of its stages, came with the package."""
    manifest = run.read()
    return SHIPPED in manifest or any(SHIPPED in stage for stage in manifest["stages"].values())


def lend(shared: Path, splits: Splits, seed: int) -> None:
    """Put the classifiers of all entries where runs that need the very same look for them before they train."""
    for run in _entries(splits, seed):
        recipe = RECIPES[run.read()["recipe"]]
        name = run.path.relative_to(zoo.ROOT).as_posix()
        places = shared_stages(recipe, shared, seed, len(splits.train))
        if all(place.is_file() for place in (places[0], places[-1])):  # they were lent before
            continue
        for place, classifier in _classifiers(recipe, run, places):
            if not place.is_file():
                place.parent.mkdir(parents=True, exist_ok=True)
                save_weights(place, classifier, {SHIPPED: name, "images_sha256": splits.spec.sha256})


def forget(shared: Path) -> None:
    """Remove what `lend` put into a directory, so that it is trained."""
    for path in shared.glob("*.safetensors"):
        if SHIPPED in read_tensors(path)[1]:
            path.unlink()


def _entries(splits: Splits, seed: int) -> Generator[RunDirectory]:
    """Yield the entries that recipes of this version would train to on these images with this seed."""
    for name in zoo.entries():
        run = RunDirectory(zoo.ROOT / name)
        manifest = run.read()
        recipe = RECIPES.get(manifest["recipe"])
        if recipe is None or recipe.model.dataset != splits.spec.name or "training_sha256" not in manifest:
            continue
        try:
            run.check_same_training(recipe, seed, len(splits.train), splits.spec.sha256)
        except ValueError:
            continue
        yield run


def _classifiers(recipe: Recipe, run: RunDirectory, places: Sequence[Path]) -> Generator[tuple[Path, nn.Module]]:
    """Yield where runs share the independent net of an entry and its selector's last stage, and these.

    `places` are those of `workflows.train.shared_stages`: first the independent net's, then one for each stage.
    """
    model = recipe.model
    if recipe.undefended is not None:
        undefended = build_classifier(recipe.undefended_network, images_of(model), 0, "undefended")
        load_weights(run.undefended, undefended)
        yield places[0], undefended
    classifier = classifier_of(model, load_defense(run.path)) if model.selector else None
    if classifier is not None and not any(stage.releases_classifier for stage in recipe.stages):
        yield places[-1], classifier
