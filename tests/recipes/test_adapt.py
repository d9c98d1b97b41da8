"""Recipes that follow images of one's own: lengths, slots, names, and runs that remember."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from memory_defense.data.images import Splits
from memory_defense.data.own import load_splits
from memory_defense.data.spec import image_spec
from memory_defense.recipes.adapt import adapt
from memory_defense.recipes.fashion_mnist import DEMO, TINY
from memory_defense.recipes.hardened import HardenOptions, default_epsilon, harden_recipe
from memory_defense.recipes.registry import RECIPES
from memory_defense.run_directory import RunDirectory
from memory_defense.training.adversarial import WarmStart
from memory_defense.workflows.run_images import ImagesFrom, images_from, keep_images_from
from memory_defense.workflows.run_recipe import recipe_of
from workflows.own_folder import write_folder

HARDENING = HardenOptions(classifier="a:b", weights_sha256="", epsilon=8 / 255)


@dataclass
class Users:
    splits: Splits
    source: ImagesFrom


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("adapt")


@pytest.fixture(scope="module")
def users(root) -> Users:
    data = write_folder(root / "shapes")
    splits = load_splits(data)
    return Users(splits, images_from(data, None, splits.spec))


def test_lengths_and_radius_follow_the_images(users) -> None:
    spec = users.splits.spec
    few, many = (harden_recipe(HARDENING, "shapes", image_spec(spec), count) for count in (40, 50_000))
    assert [stage.fit.epochs for stage in few.stages] == [150, 50]
    assert [stage.fit.epochs for stage in many.stages] == [15, 2]
    assert (few.stages[0].fit.batch_size, many.stages[0].fit.batch_size) == (5, 128)
    assert (default_epsilon(1), default_epsilon(spec.channels)) == (0.1, 8 / 255)


def test_a_recipe_is_adapted_and_its_run_remembers(users, root) -> None:
    adapted = adapt(TINY, users.splits.spec)
    assert adapted.name == "fashion-mnist/tiny on shapes"
    assert adapted.model.memory_size == 6
    objective = adapted.stages[0].objective
    assert isinstance(objective, WarmStart)
    assert not objective.horizontal_flip
    assert adapted.stages[0].fit.batch_size == len(users.splits.train) // 8
    assert adapted.stages[0].fit.epochs == 10
    run = RunDirectory(root / "adapted")
    run.begin(adapted, 0, len(users.splits.train), resume=False)
    keep_images_from(run, users.source)
    assert recipe_of(run) == adapted


def test_only_memory_defense_is_adapted_and_only_once(users) -> None:
    rival = next(one for one in RECIPES.values() if one.model.defense == "magnet")
    with pytest.raises(ValueError, match="only recipes of memory-defense"):
        adapt(rival, users.splits.spec)
    with pytest.raises(ValueError, match="made for other images already"):
        adapt(adapt(DEMO, users.splits.spec), users.splits.spec)
