"""A run, its record and every system's state-dict keys, written by an earlier 0.1.0, under today's code.

`run` holds ``fashion-mnist/tiny/resnet-offline`` trained on the made-up images with seed 3 and evaluated at once;
`answers.safetensors` the logits that it then gave to the first test images.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import memory_defense
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import Record
from memory_defense.recipes.registry import RECIPES, recipe
from memory_defense.reporting import Section, markdown, write_report
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.build import build_defense
from memory_defense.systems.export import export
from memory_defense.tensorfiles import read_tensors
from memory_defense.workflows.assess import assess
from memory_defense.workflows.train import train
from paper.made_up import made_up_splits

OLD = Path(__file__).parent


def vendor() -> str:
    """Return the maker of the processor, empty if the system does not say: libraries choose kernels by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def made_on() -> dict[str, str]:
    """Return where the old answers and record were made."""
    with safe_open(OLD / "answers.safetensors", "pt") as file:
        return {**file.metadata(), "vendor": "AuthenticAMD"}


NAME = "fashion-mnist/tiny/resnet-offline"
KEYS: dict[str, dict[str, list[Any]]] = json.loads((OLD / "state_dicts.json").read_text(encoding="utf-8"))

RENAMED = {"same answer alone and in company": "same answer alone and in a batch"}
"""Checks of the audit that had another name."""

UNTRIED = "no image was left standing"
"""A note that attacks without any image did not have."""

DRAWING = {"pgd", "cw", "cw-confident"}
"""Attacks that start somewhere at random; draws were numbered otherwise then (`randomness.DRAWS` was 1)."""

HERE = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability(), "vendor": vendor()}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A copy of the old run, without its record."""
    shutil.copytree(OLD / "run", tmp_path / "run")
    (tmp_path / "run" / "record.json").unlink()
    return RunDirectory(tmp_path / "run")


def numbers(record: Record) -> dict[str, Any]:
    """What two evaluations have in common: everything but times, random draws, and which code made it."""
    without_time = json.loads(
        record.model_dump_json(by_alias=True),
        object_hook=lambda one: {k: "" if v == UNTRIED else v for k, v in one.items() if k != "seconds"},
    )
    for one in without_time["attacks"]:
        del one["tried"]  # was not counted then
        one["parameters"].pop("momentum", None)  # PGD had none then
        if one["attack"] in DRAWING:
            for number in ("forward_passes", "backward_passes", "median_distance"):
                del one[number]
    for line in without_time["audit"]:
        del line["meaning"], line["remedy"]  # words
        line["check"] = RENAMED.get(line["check"], line["check"])
    since = ("worst_case", "cascades", "provenance", "per_image", "per_image_sha256", "batch_invariance", "notes")
    return {name: value for name, value in without_time.items() if name not in since}


def test_it_is_loaded_and_answers_as_it_did(run: RunDirectory) -> None:
    kept, _ = read_tensors(OLD / "answers.safetensors")
    images = kept["images"].float() / 255
    with torch.no_grad():
        logits = memory_defense.load(run.path)(images)
    if made_on() == HERE:
        assert torch.equal(logits, kept["logits"])
    torch.testing.assert_close(logits, kept["logits"])


def test_it_is_evaluated_to_the_same_record(run: RunDirectory) -> None:
    old = Record.read(OLD / "run" / "record.json")
    splits = made_up_splits()
    new = assess(recipe(NAME), run, memory_defense.load(run.path), splits, options=Options(seed=3))
    if made_on() == HERE:
        found, before = numbers(new), numbers(old)
        known = {line["check"] for line in before["audit"]}
        since = [line for line in found["audit"] if line["check"] not in known]
        assert found | {"audit": [line for line in found["audit"] if line["check"] in known]} == before
        assert not [line for line in since if line["verdict"] == "fail"], "checks of the audit that are new since"
    assert [(one.attack, one.knowledge, one.norm, one.epsilon) for one in new.attacks] == [
        (one.attack, one.knowledge, one.norm, one.epsilon) for one in old.attacks
    ]
    for one, other in zip((new.clean, *new.attacks), (old.clean, *old.attacks), strict=True):
        assert abs(one.accuracy - other.accuracy) <= 2 / old.images, "two images may round otherwise"


def test_it_is_reported(tmp_path: Path) -> None:
    section = Section("old", Record.read(OLD / "run" / "record.json"), record_path=OLD / "run" / "record.json")
    write_report(tmp_path / "report.html", [section], title="Old")
    assert "100.0" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "PGD-40" in markdown([section])


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_it_is_exported(run: RunDirectory, tmp_path: Path, kind: str) -> None:
    place = export(run.path, tmp_path / f"old.{kind}", format=kind).path
    kept, _ = read_tensors(OLD / "answers.safetensors")
    with torch.no_grad():
        logits = memory_defense.load(place)(kept["images"].float() / 255)
    torch.testing.assert_close(logits, kept["logits"])


def test_an_unfinished_one_is_not_continued_and_says_what_to_do(run: RunDirectory) -> None:
    """The manifest has the hash that the recipe had then, when it still had a field of expected accuracies."""
    run.write({**run.read(), "complete": False})
    with pytest.raises(ValueError, match=r"version of memory-defense differ .* train again into a new directory"):
        train(recipe(NAME), run.path, made_up_splits(), seed=3, resume=True)
    with pytest.raises(ValueError, match="is not finished"):
        memory_defense.load(run.path)


@pytest.mark.parametrize("name", KEYS)
def test_state_dicts_have_the_same_keys(name: str) -> None:
    state = build_defense(RECIPES[name].model).state_dict()
    shapes = {key: [str(one.dtype).removeprefix("torch."), *one.shape] for key, one in state.items()}
    assert shapes == KEYS[name]
