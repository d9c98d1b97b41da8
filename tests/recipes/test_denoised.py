"""The recipes of denoised smoothing: rows that differ by one thing, and a tiny one from training to certificate."""

import pytest
import torch

import memory_defense
from memory_defense import Smoothing
from memory_defense.recipes.denoised import DENOISED
from memory_defense.recipes.registry import RECIPES, recipe
from memory_defense.systems.load import load
from memory_defense.tensorfiles import read_tensors
from memory_defense.workflows.train import train
from paper.made_up import made_up_splits

ROWS = [("fashion-mnist", ""), ("cifar10", ""), ("fashion-mnist", "-tiny")]


def names(dataset: str, scale: str) -> list[str]:
    return [f"{dataset}/denoised{scale}{kind}" for kind in ("", "-black-box", "-memory", "-memory-black-box")]


def test_these_are_all() -> None:
    assert [one.name for one in DENOISED] == [name for row in ROWS for name in names(*row)]


@pytest.mark.parametrize("row", ROWS, ids="".join)
def test_rows_beside_each_other_differ_by_what_they_are_named_after(row) -> None:
    through, black_box, memory, memory_black_box = (recipe(name) for name in names(*row))
    assert [stage.name for stage in through.stages] == ["benign", "denoise", "through"]
    assert black_box.stages == through.stages[:2]
    assert memory_black_box.stages == memory.stages[:2]
    assert (black_box.model, memory_black_box.model) == (through.model, memory.model)
    assert (through.model.defense, memory.model.defense) == ("denoised", "denoised-memory")
    assert through.model.preset == memory.model.preset
    assert memory.stages[0] == through.stages[0]
    assert memory.stages[2] == through.stages[2]
    first, second = memory.stages[1].objective, through.stages[1].objective
    assert (first.slots > 0, second.slots, first.stability) == (True, 0, 0)
    assert (first.sigma, first.error) == (second.sigma, second.error) == (0.25, 1)
    assert through.stages[2].objective.sigma == 0.25


@pytest.mark.parametrize(
    ("name", "benign"),
    [("fashion-mnist/denoised", "fashion-mnist/demo-paper"), ("cifar10/denoised", "cifar10/desk/resnet-benign")],
)
def test_the_classifier_is_that_of_another_recipe_trained_alike(name, benign) -> None:
    one, other = RECIPES[name], RECIPES[benign]
    assert one.stages[0] == other.stages[0]
    assert (one.model.selector, one.held_out) == (other.model.selector, other.held_out)


@pytest.mark.parametrize("name", names("fashion-mnist", "-tiny"))
def test_a_tiny_one_is_trained_loaded_and_certified(name, tmp_path) -> None:
    splits = made_up_splits()
    run = train(RECIPES[name], tmp_path / "run", splits, seed=3)
    benign, _ = read_tensors(run.stage("selector-benign"))
    whole, _ = read_tensors(run.weights)
    for key, value in benign.items():
        assert torch.equal(whole[f"classifier.{key}"], value)
    model, test = load(run.path), splits.test.first(4)
    smoothing = Smoothing(sigma=0.25, samples=100, selection=20)
    record = memory_defense.certify(model, test.floats(), test.labels, radii=[0.1], smoothing=smoothing)
    assert record.certified[0].images == 4
    assert record.certified[0].sigma == 0.25
