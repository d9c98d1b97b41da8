"""Trained defenses that come with the package: found by name, read by every command, never written to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import memory_defense
from faults.conftest import idx_folder, small_world, trained_run
from faults.helpers_faults import memdef, refused
from memory_defense import zoo
from memory_defense.evaluation.record import Record
from memory_defense.reporting.gallery import Gallery
from memory_defense.run_directory import RunDirectory
from memory_defense.tensorfiles import read_tensors, write_tensors

__all__ = ["idx_folder", "small_world", "trained_run"]
ROOT = Path(__file__).parents[2]
NAME = "zoo:fashion-mnist/toy"


@pytest.fixture
def entry(tmp_path, monkeypatch, trained_run, small_world, idx_folder) -> Path:
    """Ship a run of toy size, its weights in half precision, and stand somewhere else."""
    place = tmp_path / "package" / "fashion-mnist" / "toy"
    shutil.copytree(trained_run, place)
    shutil.copy(ROOT / "docs" / "results" / "demo" / "sound.json", place / "record.json")
    run = RunDirectory(place)
    for path in (run.weights, run.undefended):
        tensors, header = read_tensors(path)
        halved = {name: one.half() if one.is_floating_point() else one for name, one in tensors.items()}
        write_tensors(path, halved, header)
    run.seal(run.read())
    monkeypatch.setattr(zoo, "ROOT", tmp_path / "package")
    monkeypatch.setattr("memory_defense.cli.zoo.ROOT", tmp_path / "package")
    monkeypatch.setattr("memory_defense.cli.studio.ROOT", tmp_path / "package")
    monkeypatch.setenv("MEMDEF_DATA", str(idx_folder))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return place


def test_an_entry_is_loaded_by_its_name_and_answers_in_float32(entry) -> None:
    defense = memory_defense.load(NAME)
    assert {one.dtype for one in defense.state_dict().values() if one.is_floating_point()} == {torch.float32}
    images = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(defense(images), memory_defense.load(entry)(images))


def test_commands_take_an_entry_and_leave_it_as_it_is(entry) -> None:
    before = {path: path.read_bytes() for path in entry.rglob("*") if path.is_file()}
    done = memdef("evaluate", NAME, "--attacks", "fgsm", "--images", "4")
    assert done.status == 0, done.err
    assert Record.read("record.json").images == 4
    assert memdef("report", NAME, "record.json").status == 0
    assert Path("report.html").is_file()
    done = memdef("evaluate", NAME, "--attacks", "fgsm", "--images", "4", "--detection", "--false-alarms", "0.2")
    assert done.status == 0, done.err
    assert Record.read("record.json").detection
    assert memdef("export", NAME).status == 0
    assert Path("toy.safetensors").is_file()
    assert {path: path.read_bytes() for path in entry.rglob("*") if path.is_file()} == before


def test_the_list_says_what_each_record_says(entry) -> None:
    said = memdef("zoo").out
    record = Record.read(entry / "record.json")
    assert NAME in said
    assert f"right when clean: {100 * record.clean.accuracy:.1f} %" in said
    assert f"of {record.images:,} test images" in said
    assert "under every attack tried: " in said


def test_an_unknown_entry_is_refused_with_the_nearest_name(entry) -> None:
    refused(
        memdef("evaluate", "zoo:fashion-mnist/tov"), "unknown zoo entry 'fashion-mnist/tov'", "'fashion-mnist/toy'"
    )
    with pytest.raises(ValueError, match="did you mean 'fashion-mnist/toy'"):
        memory_defense.load("zoo:fashion-mnist/tov")


def test_an_installation_without_entries_says_so(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    assert "train one with 'memdef demo'" in memdef("zoo").out


SHIPPED = zoo.entries()


def test_the_package_comes_with_entries_and_they_are_small() -> None:
    assert SHIPPED
    files = [one for one in zoo.ROOT.rglob("*") if one.is_file() and one.suffix != ".py"]
    assert all(one.stat().st_size <= 16 << 20 for one in files)
    assert sum(one.stat().st_size for one in files) <= 25e6
    assert not [one.name for one in files if one.name.startswith(".") or "progress" in one.name]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_record_is_that_of_the_weights_beside_it(name) -> None:
    """The gallery has images of its evaluation, with what the defense answered to them."""
    place = zoo.ROOT / name
    run, record = RunDirectory(place), Record.read(place / "record.json")
    manifest = run.read_finished()
    run.verify(manifest)
    assert record.recipe.startswith(manifest["recipe"])
    assert record.worst_case
    assert (place / "README.md").read_text(encoding="utf-8").count(f"{100 * record.clean.accuracy:.1f}")
    gallery, defense = Gallery.read(run.gallery), memory_defense.load(f"zoo:{name}")
    with torch.no_grad():
        for images, answers in (
            (gallery.images, gallery.predictions_clean),
            (gallery.adversarial, gallery.predictions_adversarial),
        ):
            assert float((defense(images).argmax(1) == answers).float().mean()) >= 0.9, "rounding may move one"
    right = gallery.predictions_clean == gallery.labels
    broken = right & (gallery.predictions_adversarial != gallery.labels)
    assert bool(right.all())
    assert bool(broken.any()), "the gallery shows images that were broken"
