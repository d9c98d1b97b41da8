"""What comes with the package is attacked without training, and trained where that is asked for."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from memory_defense import zoo
from memory_defense.paper.tables import reproduce
from memory_defense.recipes.registry import RECIPES
from memory_defense.run_directory import RunDirectory
from memory_defense.tensorfiles import read_tensors, write_tensors
from paper.rows import Notes, splits

SYSTEM = "fashion-mnist/tiny/memory-defense"
CLASSIFIER = "fashion-mnist/tiny/resnet-offline"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A trained row, as whoever ships it has it."""
    out = tmp_path_factory.mktemp("trained")
    reproduce("table5", out, splits, scale="tiny", rows=["memory-defense"])
    return out


@pytest.fixture
def entry(trained: Path, tmp_path, monkeypatch) -> RunDirectory:
    """The row in half precision, as an entry of the zoo."""
    root = tmp_path / "package"
    shutil.copytree(trained / SYSTEM, root / "fashion-mnist" / "paper")
    run = RunDirectory(root / "fashion-mnist" / "paper")
    for path in (run.weights, run.undefended):
        tensors, header = read_tensors(path)
        halved = {name: one.half() if one.is_floating_point() else one for name, one in tensors.items()}
        write_tensors(path, halved, header)
    run.seal(run.read())
    monkeypatch.setattr(zoo, "ROOT", root)
    return run


def made(out: Path, row: str, **options) -> list[str]:
    """Return the stages that a row was trained in, of what the display was told."""
    progress = Notes()
    reproduce("table5", out, splits, scale="tiny", rows=[row], progress=progress, **options)
    return [name for note in progress.notes for name in re.findall(r": ([a-z-]+), \d+ epochs", note)]


def test_a_row_that_is_shipped_is_only_attacked(entry: RunDirectory, tmp_path) -> None:
    assert made(tmp_path / "out", "memory-defense") == []
    run = RunDirectory(tmp_path / "out" / SYSTEM)
    assert run.weights.read_bytes() == entry.weights.read_bytes()
    assert run.undefended.read_bytes() == entry.undefended.read_bytes()
    assert run.read_finished()["shipped"] == "fashion-mnist/paper"
    run.verify(run.read())
    assert run.record.is_file()
    assert made(tmp_path / "out", "memory-defense") == [], "nor is it trained the next time"


def test_its_classifiers_are_those_of_other_rows(entry: RunDirectory, tmp_path) -> None:
    assert made(tmp_path / "out", "resnet-offline") == []
    weights, _ = read_tensors(RunDirectory(tmp_path / "out" / CLASSIFIER).weights)
    shipped, _ = read_tensors(entry.weights)
    assert weights
    for name, tensor in weights.items():
        same = shipped[f"selector.{name.split('.', 1)[1]}"]
        assert torch.equal(tensor, same.to(tensor.dtype)), name


def test_it_is_trained_anew_where_that_is_asked_for(entry: RunDirectory, tmp_path) -> None:
    assert made(tmp_path / "out", "resnet-offline") == []
    everything = ["undefended-other", "selector-benign", "selector-offline", "autoencoder-joint"]
    assert made(tmp_path / "out", "memory-defense", anew=True) == everything
    run = RunDirectory(tmp_path / "out" / SYSTEM)
    assert "shipped" not in run.read()
    assert run.weights.read_bytes() != entry.weights.read_bytes()
    with pytest.raises(ValueError, match=r"resnet-offline was taken .* give --train another directory"):
        made(tmp_path / "out", "resnet-offline", anew=True)


@pytest.mark.parametrize("change", ["another seed", "another recipe", "other images"])
def test_what_was_trained_otherwise_is_not_taken(entry: RunDirectory, tmp_path, change) -> None:
    manifest = entry.read()
    if change == "another recipe":
        entry.write({**manifest, "training_sha256": "0" * 64})
    if change == "other images":
        entry.write({**manifest, "images_sha256": "0" * 64})
    assert made(tmp_path / "out", "resnet-offline", seed=1 if change == "another seed" else 0) != []


@pytest.mark.parametrize(
    "name", [one for one in zoo.entries() if "/desk/" in RunDirectory(zoo.ROOT / one).read()["recipe"]]
)
def test_a_row_of_scale_desk_that_is_shipped_is_today_s(name) -> None:
    """Else whoever reproduces a table trains for hours what lies beside."""
    manifest = RunDirectory(zoo.ROOT / name).read()
    assert manifest["training_sha256"] == RECIPES[manifest["recipe"]].training_sha256
