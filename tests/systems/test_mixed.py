"""The mixture as a run: trained by its recipe, loaded, judged, stopped and exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import memory_defense
from memory_defense.defenses.mixture import Mixture, Settings
from memory_defense.evaluation.record import Record
from memory_defense.recipes.mixed import MIXED, TINY_MIXTURE
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.export import export
from memory_defense.tensorfiles import read_tensors
from memory_defense.workflows.assess import assess
from memory_defense.workflows.train import train
from paper.made_up import made_up_splits


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDirectory:
    return train(TINY_MIXTURE, tmp_path_factory.mktemp("runs") / "mixed", made_up_splits(), seed=2)


def load(path: Path | str) -> Mixture:
    defense = memory_defense.load(path)
    assert isinstance(defense, Mixture)
    assert not defense.training
    return defense


def test_a_run_comes_back_with_both_classifiers_and_its_numbers(run) -> None:
    defense = load(run.path)
    plain, _ = read_tensors(run.undefended)
    tuned, _ = read_tensors(run.stage("selector-warm-start"))
    assert all(torch.equal(value, plain[name]) for name, value in defense.accurate.state_dict().items())
    assert all(torch.equal(value, tuned[name]) for name, value in defense.robust.state_dict().items())
    assert defense.settings != Settings()


def test_it_is_judged_end_to_end_by_member_and_by_transfer(run) -> None:
    record = assess(TINY_MIXTURE, run, load(run.path), made_up_splits())
    assert Record.read(run.record) == record
    assert record.defense == "mixture/gelu"
    assert {one.knowledge for one in record.attacks} == {"end-to-end", "robust", "accurate"}
    assert {stage.knowledge for stage in record.cascades[0].stages} >= {"end-to-end", "members", "unclamped"}


def test_a_file_answers_as_the_run_does(run, tmp_path) -> None:
    images = made_up_splits().test.floats()
    expected = load(run.path)(images)
    export(run.path, tmp_path / "mixed.safetensors")
    assert torch.equal(load(tmp_path / "mixed.safetensors")(images), expected)


def test_an_onnx_file_answers_as_the_run_does(run, tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    done = export(run.path, tmp_path / "mixed.onnx", format="onnx")
    assert "agrees on" in done.checked
    images = made_up_splits().test.floats()
    with torch.no_grad():
        expected = load(run.path)(images)
    assert torch.allclose(memory_defense.load(tmp_path / "mixed.onnx")(images), expected, atol=1e-4)


def test_the_same_training_gives_the_same_mixture(run, tmp_path) -> None:
    again = train(TINY_MIXTURE, tmp_path / "again", made_up_splits(), seed=2)
    assert again.weights.read_bytes() == run.weights.read_bytes()


def test_both_members_of_a_recipe_are_the_same_network() -> None:
    for recipe in MIXED:
        assert recipe.model.selector == recipe.undefended_network
        assert recipe.undefended is not None
