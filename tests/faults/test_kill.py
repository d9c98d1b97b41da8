"""``kill -9`` at any moment: the same command given again ends with the same weights and the same record."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faults.helpers_faults import made_up, some_images, some_labels, write_files
from memory_defense.tensorfiles import read_tensors, write_tensors

TESTS = Path(__file__).parents[1]
SCRIPT = Path(__file__).with_name("kills.py")
KILLS = 20
ATTACKS = ("--attacks", "fgsm,pgd,apgd-t", "--epsilon", "0.01", "--epsilon", "0.02")


def kill_often(seed: int, place: Path, *command: object) -> list[dict[str, Any]]:
    place.mkdir()
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, SCRIPT, str(seed), place, *map(str, command)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) == KILLS
    for kill in kills:
        assert kill["killed"] == -9, kill
        assert kill["resumed"] == 0, kill
    return kills


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("data"), made_up()[1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Path, list[dict[str, Any]]]:
    place = tmp_path_factory.mktemp("kills") / "train"
    command = ("train", "fashion-mnist/tiny", "--out", "OUT", "--data-dir", data, "--seed", 3)
    command = (*command, "--train-images", 150, "--again", "--resume")
    return place, kill_often(5, place, *command)


TIMED = re.compile(rb'"(seconds|checksum)": "?[0-9a-f.]+"?')
"""What a manifest says of time, and its checksum, which is over that too."""


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file by name, without the time that it took."""
    return {
        str(path.relative_to(folder)): TIMED.sub(b"", path.read_bytes())
        if path.name == "manifest.json"
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_killed_trainings_end_with_the_same_files(trained) -> None:
    place, kills = trained
    whole = files(place / "whole")
    assert {"manifest.json", "weights.safetensors", "undefended.safetensors"} <= whole.keys()
    for kill in kills:
        found = files(place / kill["place"])
        assert found.keys() == whole.keys(), f"{kill}: nothing missing, no temporary file, no lock"
        for name, content in whole.items():
            assert found[name] == content, (kill, name)


def test_killed_evaluations_end_with_the_same_record(tmp_path) -> None:
    """Of a classifier half of whose images break; a run's evaluation goes on in `test_cases_runs` (case 16)."""
    images = tmp_path / "images.safetensors"
    write_tensors(
        images, {"images": some_images(24), "labels": some_labels(24)}, {"classes": '["a","b","c","d","e"]'}
    )
    place = tmp_path / "evaluate"
    command = ("evaluate", "faults.helpers_faults:Front", "--data", images, *ATTACKS, "--out", "OUT/record.json")
    kills = kill_often(6, place, *command)
    whole = timeless(place / "whole" / "record.json")
    robust = [one["accuracy"] for one in whole["worst_case"]]
    assert 0 < min(robust) < max(robust) < whole["clean"]["accuracy"], "all or nothing proves little"
    expected = {path.name for path in (place / "whole").iterdir()}
    for kill in kills:
        found = place / kill["place"]
        assert {path.name for path in found.iterdir()} == expected, kill
        assert timeless(found / "record.json") == whole, kill
        for name in expected - {"record.json"}:
            same_tensors(found / name, place / "whole" / name)


def timeless(path: Path) -> Any:
    """Return a record without the times it took, and the revision, which somebody may change meanwhile."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(one) for key, one in value.items() if key not in ("seconds", "git", "checksum")}
        return [strip(one) for one in value] if isinstance(value, list) else value

    return strip(json.loads(path.read_text()))


def same_tensors(one: Path, other: Path) -> None:
    (tensors, header), (expected, said) = read_tensors(one), read_tensors(other)
    assert header == said
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert tensor.numpy().tobytes() == expected[name].numpy().tobytes(), (one, name)
