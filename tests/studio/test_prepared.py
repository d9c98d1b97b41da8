"""What the studio opens with was computed from the very weights that are shipped, and is computed again here."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from memory_defense import zoo
from memory_defense.run_directory import RunDirectory
from memory_defense.studio.describe import describe_run, shelf
from memory_defense.studio.library import Library
from memory_defense.studio.messages import ImageChoice
from memory_defense.studio.play import play
from memory_defense.studio.prepared import all_prepared, prepared_for, sha256_of
from memory_defense.studio.runs import Runs
from memory_defense.studio.tickets import Ticket

from .pages import opened

SOUND, PAPER = "zoo:fashion-mnist/sound", "zoo:fashion-mnist/paper"


@pytest.fixture(scope="module")
def shipped() -> Library:
    """The zoo without a dataset: the example brings its own image."""
    library = Library(Runs(shipped=zoo.ROOT))
    library._tests["fashion-mnist"] = "not on this machine: upload or draw one"
    return library


@pytest.fixture(scope="module")
def example(shipped):
    found = shelf(shipped)
    assert found.first == SOUND
    assert found.opening is not None
    return found.opening


def played_here(library, example):
    posed = library.pose(ImageChoice(pixels=example.pixels), None, library.runs.find(SOUND))
    return posed, play(library.subject(SOUND), posed, example.attack, Ticket(120))[0]


def test_the_example_is_an_attack_that_works_on_the_shipped_weights(shipped, example) -> None:
    posed, here = played_here(shipped, example)
    there = example.played
    assert (posed.label, posed.source, posed.identity) == (example.label, "dataset", example.identity)
    assert there.run == here.run == SOUND
    assert here.fooled
    assert there.fooled
    assert there.clean.answer == there.label == here.label
    assert (here.adversarial.answer, here.adversarial.slot) == (there.adversarial.answer, there.adversarial.slot)
    assert here.sentence == there.sentence
    assert here.linf == pytest.approx(there.linf, abs=1e-6)
    assert here.linf <= example.attack.epsilon + 1e-6
    for look, kept in ((here.clean, there.clean), (here.adversarial, there.adversarial)):
        assert look.probabilities == pytest.approx(kept.probabilities, abs=0.05)
        assert look.selector == pytest.approx(kept.selector, abs=0.05)
        assert look.flagged == kept.flagged is not None
    assert (opened(here.clean.picture) == opened(there.clean.picture)).all()
    apart = np.abs(opened(here.adversarial.picture).astype(int) - opened(there.adversarial.picture))
    assert (apart > 1).mean() < 0.2, "another processor may round a few signs otherwise, not most"


def test_a_position_in_the_dataset_and_the_picture_itself_are_the_same_question(shipped, example, splits) -> None:
    """The made-up test split, with the example's picture in its place."""
    pixels, labels = splits.test.images.clone(), splits.test.labels.clone()
    image = shipped.pose(ImageChoice(pixels=example.pixels), None, shipped.runs.find(SOUND)).image
    pixels[example.test], labels[example.test] = (image[0] * 255).round().to(torch.uint8), example.label
    tests = replace(splits.test, images=pixels, labels=labels)
    library = Library(Runs(shipped=zoo.ROOT), tests={"fashion-mnist": tests})
    by_place = library.pose(ImageChoice(test=example.test), None, library.runs.find(SOUND))
    by_picture = library.pose(ImageChoice(pixels=example.pixels), None, library.runs.find(SOUND))
    assert torch.equal(by_place.image, by_picture.image)
    assert (by_place.identity, by_place.label, by_place.source) == (
        by_picture.identity,
        by_picture.label,
        by_picture.source,
    )


@pytest.mark.parametrize("name", [SOUND, PAPER])
def test_every_shipped_run_flags_and_says_whose_threshold_it_is(shipped, name) -> None:
    flag = prepared_for(shipped.runs.find(name)).flag
    defense = shipped.subject(name).defense
    assert (defense.flag_score, defense.flag_threshold) == (flag.score, flag.threshold)
    said = describe_run(shipped, name).flag
    assert f"above {flag.threshold:.4g}" in said
    assert "5 % of 5,000 held-out clean images" in said
    assert said.endswith("the run itself stores none.")
    assert "silent" in {one.name for one in describe_run(shipped, name).knowledge}


def test_what_was_prepared_belongs_to_the_shipped_weights_of_memory_defenses() -> None:
    shipped = [RunDirectory(zoo.ROOT / name) for name in zoo.entries()]
    memories = [run for run in shipped if run.read()["model"]["defense"] == "memory-defense"]
    assert {one.weights_sha256 for one in all_prepared()} == {sha256_of(run.weights) for run in memories}


def test_other_weights_get_nothing_whatever_the_manifest_says(tmp_path) -> None:
    copy = Path(shutil.copytree(zoo.ROOT / "fashion-mnist" / "sound", tmp_path / "copy"))
    run = Runs(tmp_path).find("copy")
    assert prepared_for(run) is not None, "a copy of the very weights is no other run"
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert prepared_for(run) is None
    assert shelf(Library(Runs(tmp_path))).opening is None
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["sha256"], manifest["checksum"]
    run.directory.write(manifest)
    assert prepared_for(run) is None


def test_without_a_folder_named_the_example_comes_first(root, tmp_path) -> None:
    found = shelf(Library(Runs(root, shipped=zoo.ROOT, flat=tmp_path)))
    assert found.first == SOUND
    assert found.opening is not None
    assert shelf(Library(Runs(flat=tmp_path))).first == ""


def test_a_run_of_one_s_own_opens_first_and_the_shipped_ones_stay(root) -> None:
    found = shelf(Library(Runs(root, shipped=zoo.ROOT)))
    assert [run.name for run in found.runs if not run.shipped] == ["deeper/second", "first", "stopped"]
    assert [run.name for run in found.runs[3:]] == [f"zoo:{name}" for name in zoo.entries()]
    assert [run.shipped for run in found.runs] == [False] * 3 + [True] * len(zoo.entries())
    assert found.first == "deeper/second"
    assert found.opening is None
