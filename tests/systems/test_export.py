"""Exports: what is written comes back bit for bit, ONNX Runtime answers as torch does, mistakes are refused."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import memory_defense
from memory_defense.evaluation.flag import Flag, keep_flag
from memory_defense.evaluation.record import Record
from memory_defense.recipes.fashion_mnist import TINY
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.build import build_classifier, build_defense
from memory_defense.systems.export import export
from memory_defense.systems.onnx_export import OPSET, TOLERANCE, Portable, compare
from memory_defense.systems.onnx_run import OnnxDefense, from_bytes, read_onnx
from memory_defense.tensorfiles import read_tensors, write_tensors
from memory_defense.training.checkpoint import save_weights

RECORD = Path(__file__).parents[2] / "docs" / "results" / "demo" / "sound.json"
FLAG = Flag(score="reconstruction", threshold=0.0, false_alarms=0.05, calibration_images=100)
"""Its threshold is set by the run's own errors."""


def images(count: int = 24) -> torch.Tensor:
    """Noise of many strengths, so that answers, slots and errors differ."""
    draws = torch.Generator().manual_seed(5)
    noise = torch.rand(count, 1, 28, 28, generator=draws) * torch.rand(count, 1, 1, 28, generator=draws)
    return noise * torch.rand(count, 1, 1, 1, generator=draws)


def card(facts, record) -> str:
    return f"clean {record.clean.accuracy}, {len(facts.classes)} classes\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run whose weights were drawn, not trained; its answers differ from image to image."""
    place = RunDirectory(tmp_path_factory.mktemp("runs") / "mine")
    manifest = place.begin(TINY, 0, 100, resume=False)
    defense = build_defense(TINY.model, seed=1)
    draws = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in defense.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.num_features, generator=draws) * 0.1)
                module.running_var.copy_(torch.rand(module.num_features, generator=draws) + 0.5)
        for parameter in defense.classifier_b.parameters():
            parameter.mul_(3)
        defense.eval()
        last = [module for module in defense.classifier_b.modules() if isinstance(module, nn.Linear)][-1]
        last.bias -= defense(images()).mean(0)
        threshold = float(defense.trace(images()).reconstruction_error.median())
    save_weights(place.weights, defense)
    save_weights(place.undefended, build_classifier(TINY.undefended_network, TINY.model.dataset, 3, "undefended"))
    place.seal(manifest)
    keep_flag(place, replace(FLAG, threshold=threshold))
    shutil.copy(RECORD, place.record)
    return place.path


@pytest.fixture(scope="module")
def defense(run) -> nn.Module:
    return memory_defense.load(run)


@pytest.fixture(scope="module")
def onnx_file(run, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("onnx") / "mine.onnx"
    done = export(run, place, format="onnx")
    assert "opset 18" in done.checked
    return place


def same(one: nn.Module, other: nn.Module) -> None:
    """Weights bit for bit, logits, surrogates and the flag."""
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    with torch.no_grad():
        answers = one(images())
        assert torch.equal(answers, other(images()))
        assert len(answers.argmax(1).unique()) > 1, "an informative set of images"
        assert list(one.surrogates()) == list(other.surrogates())
        assert torch.equal(one.transfer_source(images()), other.transfer_source(images()))
    assert one.flag_threshold is not None
    assert (one.flag_score, one.flag_threshold) == (other.flag_score, other.flag_threshold)


def test_one_file_comes_back_bit_for_bit(run, defense, tmp_path) -> None:
    export(run, tmp_path / "mine.safetensors")
    again = memory_defense.load(str(tmp_path / "mine.safetensors"))
    assert not again.training
    same(defense, again)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]


def test_a_hub_folder_comes_back_and_tells_the_record(run, defense, tmp_path) -> None:
    export(run, tmp_path / "hub", format="hub-folder", card=card)
    names = {"config.json", "model.safetensors", "README.md", "record.json"}
    assert {path.name for path in (tmp_path / "hub").iterdir()} == names
    same(defense, memory_defense.load(tmp_path / "hub"))
    record = Record.read(RECORD)
    assert Record.read(tmp_path / "hub" / "record.json") == record
    assert (tmp_path / "hub" / "README.md").read_text() == f"clean {record.clean.accuracy}, 10 classes\n"


def test_onnx_runtime_gives_the_defenses_answers(defense, onnx_file) -> None:
    """Asked without any of our code: the file alone, by its names."""
    session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        trace = defense.trace(images(33))
        expected = defense(images(33))
    for size in (1, 5, 33):
        logits, slots, errors = session.run(
            ["logits", "slots", "reconstruction_error"], {"images": images(33)[:size].numpy()}
        )
        assert torch.allclose(torch.from_numpy(logits), expected[:size], rtol=0, atol=TOLERANCE)
        assert torch.equal(torch.from_numpy(slots), trace.slots[:size])
        assert torch.allclose(torch.from_numpy(errors), trace.reconstruction_error[:size], rtol=0, atol=TOLERANCE)
    assert len(trace.slots.unique()) > 1


def test_the_onnx_model_describes_itself(onnx_file, run) -> None:
    model = onnx.load(str(onnx_file))
    described = {one.key: one.value for one in model.metadata_props}
    assert model.opset_import[0].version == OPSET
    assert json.loads(described["class_names"])[9] == "ankle boot"
    assert described["input_range"] == "[0, 1]"
    assert described["input_layout"] == "batch, 1, 28, 28"
    facts = json.loads(described["memory_defense"])
    manifest = json.loads((run / "manifest.json").read_text())
    assert facts["recipe_sha256"] == manifest["recipe_sha256"]
    assert facts["flag"] == manifest["flag"]
    assert facts["flag"]["threshold"] > 0
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_onnx_classifier_flags_and_has_no_gradient(defense, onnx_file) -> None:
    model = memory_defense.load(onnx_file)
    with torch.no_grad():
        expected = defense.suspicious(images())
    assert 0 < int(expected.sum()) < len(expected)
    assert torch.equal(model.suspicious(images()), expected)
    points = images().requires_grad_()
    assert not model(points).requires_grad
    assert list(model.surrogates()) == ["queries"]
    assert model.class_names[0] == "t-shirt"
    with pytest.raises(ValueError, match="the model takes"):
        model(torch.rand(2, 3, 28, 28))


def test_an_onnx_classifier_is_evaluated_without_gradients(onnx_file) -> None:
    model = memory_defense.load(onnx_file)
    labels = model(images()).argmax(1)
    record = memory_defense.evaluate(model, images(), labels, epsilon=0.3, attacks="brief")
    stages = {stage.attack: stage for stage in record.cascades[0].stages}
    assert "no gradient" in stages["pgd-margin"].note
    assert stages["pgd-margin"].fooled == 0
    assert stages["square-100"].first > 0
    assert record.worst_case[0].accuracy < 1
    assert {stage.knowledge for stage in stages.values()} == {"queries"}
    assert "every gradient attack had a gradient" in {one.check for one in record.audit if one.verdict == "fail"}


def test_a_model_that_disagrees_is_not_written(run, tmp_path, monkeypatch) -> None:
    honest = Portable.forward

    def off(self, points):
        logits, slots, errors = honest(self, points)
        return logits + 0.01 * logits.abs().amax().clamp_min(1), slots, errors

    monkeypatch.setattr(Portable, "forward", off)
    with pytest.raises(ValueError, match=r"logits differ .* not written"):
        export(run, tmp_path / "mine.onnx", format="onnx")
    assert not list(tmp_path.iterdir())


def test_comparing_notices_another_model(onnx_file, defense) -> None:
    other = build_defense(TINY.model, seed=9).eval()
    model = read_onnx(onnx_file)
    assert compare(model, defense, (images(), 0)).difference < TOLERANCE
    with pytest.raises(ValueError, match="differ"):
        compare(model, other, (images(), 0))


def test_what_is_there_is_kept_unless_forced(run, tmp_path) -> None:
    place = tmp_path / "mine.safetensors"
    place.write_text("precious")
    with pytest.raises(ValueError, match="already exists; give --force"):
        export(run, place)
    assert place.read_text() == "precious"
    export(run, place, force=True)
    assert memory_defense.load(place)
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "README.md").write_text("precious")
    (folder / "other").write_text("stays")
    with pytest.raises(ValueError, match=r"already holds README\.md"):
        export(run, folder, format="hub-folder", card=card)
    export(run, folder, format="hub-folder", card=card, force=True)
    assert (folder / "other").read_text() == "stays"
    with pytest.raises(ValueError, match="stays one"):
        export(run, run, format="hub-folder", card=card, force=True)


def test_wrong_calls_are_refused(run, tmp_path) -> None:
    with pytest.raises(ValueError, match="did you mean 'onnx'"):
        export(run, tmp_path / "x", format="onxx")
    with pytest.raises(ValueError, match="hub-folder and with no other"):
        export(run, tmp_path / "x", format="hub-folder")
    with pytest.raises(ValueError, match="is a folder"):
        export(run, tmp_path)
    bare = tmp_path / "bare"
    shutil.copytree(run, bare)
    (bare / "record.json").unlink()
    with pytest.raises(ValueError, match="memdef evaluate"):
        export(bare, tmp_path / "hub", format="hub-folder", card=card)
    assert not (tmp_path / "hub").exists()


def test_files_that_are_no_exports_are_refused(run, onnx_file, tmp_path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    write_tensors(foreign, {"weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="does not say of which model"):
        memory_defense.load(foreign)
    with pytest.raises(ValueError, match="does not exist"):
        memory_defense.load(tmp_path / "nowhere.onnx")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(onnx_file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is not a complete ONNX model"):
        memory_defense.load(cut)
    model = onnx.load(str(onnx_file))
    del model.metadata_props[:]
    with pytest.raises(ValueError, match="something else"):
        from_bytes(model.SerializeToString(), Path("theirs.onnx"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "schema 99"),
        ({"model": {"dataset": "fashion-mnist"}}, "damaged"),
        ({"surprise": 1}, "damaged"),
        ({"model": {"dataset": "fashion-mnist", "preset": "sound", "selector": "this:s"}}, "never imports code"),
        ({"undefended_network": "this:s"}, "never imports code"),
        ({"flag": {"score": 1}}, "flag"),
    ],
)
def test_damaged_facts_are_refused(run, tmp_path, change, message) -> None:
    export(run, tmp_path / "mine.safetensors")
    tensors, header = read_tensors(tmp_path / "mine.safetensors")
    facts = json.loads(header["memory_defense"]) | change
    write_tensors(tmp_path / "mine.safetensors", tensors, {"memory_defense": json.dumps(facts)})
    with pytest.raises(ValueError, match=message):
        memory_defense.load(tmp_path / "mine.safetensors")
    assert "this" not in sys.modules


def test_a_folder_of_two_halves_is_refused(run, tmp_path) -> None:
    export(run, tmp_path / "hub", format="hub-folder", card=card)
    weights = tmp_path / "hub" / "model.safetensors"
    tensors, _ = read_tensors(weights)
    write_tensors(weights, tensors | {"memory.items": tensors["memory.items"] + 1})
    with pytest.raises(ValueError, match="sha256 is another"):
        memory_defense.load(tmp_path / "hub")


def test_missing_tensors_are_named(run, tmp_path) -> None:
    export(run, tmp_path / "mine.safetensors")
    tensors, header = read_tensors(tmp_path / "mine.safetensors")
    del tensors["memory.items"]
    write_tensors(tmp_path / "mine.safetensors", tensors, header)
    with pytest.raises(ValueError, match=r"memory\.items"):
        memory_defense.load(tmp_path / "mine.safetensors")


def test_an_evaluation_knows_which_onnx_model_it_belongs_to(onnx_file) -> None:
    model = OnnxDefense(onnx_file.read_bytes(), onnx_file)
    changed = onnx.load(str(onnx_file))
    changed.doc_string = "another file"
    assert not torch.equal(model.identity, from_bytes(changed.SerializeToString(), onnx_file).identity)


def test_a_flag_by_another_score_is_left_out_of_onnx(run, tmp_path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    keep_flag(RunDirectory(other), replace(FLAG, score="disagreement"))
    export(other, tmp_path / "other.onnx", format="onnx")
    with pytest.raises(ValueError, match="without a threshold"):
        memory_defense.load(tmp_path / "other.onnx").suspicious(images())
