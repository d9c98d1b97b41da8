"""The memory that proves as a run: trained by its recipe, loaded, judged, stopped and exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import memory_defense
from memory_defense.defenses.proving_memory import ProvingMemory
from memory_defense.evaluation.record import Record
from memory_defense.recipes.proving import PROVING, TINY_PROVING
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.export import export
from memory_defense.workflows.assess import assess
from memory_defense.workflows.train import train
from paper.made_up import made_up_splits


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDirectory:
    return train(TINY_PROVING, tmp_path_factory.mktemp("runs") / "proving", made_up_splits(), seed=2)


def load(path: Path | str) -> ProvingMemory:
    defense = memory_defense.load(path)
    assert isinstance(defense, ProvingMemory)
    assert not defense.training
    return defense


def test_a_run_comes_back_and_proves(run) -> None:
    defense, images = load(run.path), made_up_splits().test.floats()
    answers = defense.certificates(images)
    assert torch.equal(answers.labels, defense(images).argmax(1))
    assert (answers.radii > 0).float().mean() > 0.5


def test_it_is_judged_and_no_broken_image_lay_inside_its_radius(run) -> None:
    defense, splits = load(run.path), made_up_splits()
    record = assess(TINY_PROVING, run, defense, splits)
    assert Record.read(run.record) == record
    assert record.defense == "proving-memory/tiny"
    assert {one.knowledge for one in record.attacks} == {"end-to-end"}
    test = splits.test.first(record.images)
    labels, radii = defense.certificates(test.floats())
    certified = float(((labels == test.labels) & (radii >= 0.5)).float().mean())
    (worst,) = [one.accuracy for one in record.worst_case if (one.norm, one.epsilon) == ("l2", 0.5)]
    assert worst >= certified


def test_a_file_answers_and_proves_as_the_run_does(run, tmp_path) -> None:
    export(run.path, tmp_path / "proving.safetensors")
    one, other = load(run.path), load(tmp_path / "proving.safetensors")
    images = made_up_splits().test.floats()
    assert torch.equal(one(images), other(images))
    assert torch.equal(one.certificates(images).radii, other.certificates(images).radii)


def test_an_onnx_file_answers_and_holds_its_weights_computed(run, tmp_path) -> None:
    done = export(run.path, tmp_path / "proving.onnx", format="onnx")
    assert "agrees on" in done.checked
    import onnx

    operators = {node.op_type for node in onnx.load(str(tmp_path / "proving.onnx")).graph.node}
    assert not {"Exp", "Abs"} & operators, "no bound is left to compute"
    images = made_up_splits().test.floats()
    with torch.no_grad():
        expected = load(run.path)(images)
    assert torch.allclose(memory_defense.load(tmp_path / "proving.onnx")(images), expected, atol=1e-4)


def test_a_stopped_run_goes_on_to_the_same_weights(run, tmp_path) -> None:
    class Stop:
        left = 3

        def begin(self, what: str, total: int) -> None:
            pass

        def advance(self, steps: int, text: str = "") -> None:
            self.left -= steps
            if self.left <= 0:
                raise KeyboardInterrupt

        def note(self, text: str) -> None:
            pass

    with pytest.raises(KeyboardInterrupt):
        train(TINY_PROVING, tmp_path / "again", made_up_splits(), seed=2, progress=Stop())
    again = train(TINY_PROVING, tmp_path / "again", made_up_splits(), seed=2, resume=True)
    one, other = load(run.path).state_dict(), load(again.path).state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_recipes_attack_where_they_certify() -> None:
    for recipe in PROVING:
        assert recipe.evaluation.l2
        assert recipe.evaluation.minimum_norm
        assert recipe.undefended is None
