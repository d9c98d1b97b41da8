"""Predictions of a trained run, from files to JSON lines, with everything that can go wrong on the way."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from memory_defense.cli import main
from memory_defense.cli.predict import SOME_UNREADABLE
from memory_defense.data.pictures import pictures
from memory_defense.data.sources import DataNotFoundError
from memory_defense.evaluation.flag import Flag, kept_flag
from memory_defense.systems.load import load
from memory_defense.workflows import run_images
from memory_defense.workflows.predict import Prediction, flag_for, predict
from paper.made_up import made_up_splits, tiny_run

SPLITS = made_up_splits()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("runs") / "run", SPLITS)


@pytest.fixture
def run(trained):
    """The run as it was trained: without a flag."""
    manifest = trained.read()
    manifest.pop("flag", None)
    trained.write(manifest)
    return trained


@pytest.fixture
def folder(tmp_path) -> Path:
    (path := tmp_path / "pictures").mkdir()
    for number in range(5):
        Image.fromarray(SPLITS.test.images[number, 0].numpy()).save(path / f"{number}.png")
    return path


@pytest.fixture
def memdef(monkeypatch, capsys):
    """Run the command in this process; return its exit status, output and errors."""
    monkeypatch.setattr(run_images, "splits_of", lambda *_, **__: SPLITS)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["memdef", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_json_lines_say_what_the_defense_says(run, folder, memdef) -> None:
    status, out, err = memdef("predict", run.path, folder, "--json")
    assert status == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    defense = load(run.path)
    images = SPLITS.test.floats()[:5]
    with torch.no_grad():
        best = defense(images).softmax(1).max(1)
        scores = defense.scores(images)["reconstruction"]
    assert [line["file"] for line in lines] == [str(folder / f"{number}.png") for number in range(5)]
    assert [line["label"] for line in lines] == [SPLITS.spec.classes[k] for k in best.indices.tolist()]
    assert [line["confidence"] for line in lines] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert [line["score"] for line in lines] == pytest.approx(scores.tolist(), rel=1e-4)
    assert {line["threshold"] for line in lines} == {defense.flag_threshold}
    for line in lines:
        assert line["flag"] == ("suspicious" if line["score"] > line["threshold"] else "accept")
    assert "50 held-out clean images for 5.0 % false alarms" in " ".join(err.split())


def test_noise_is_suspicious(run, tmp_path, memdef) -> None:
    """A checkerboard is further from every reconstruction than any image the threshold was chosen on."""
    board = np.indices((28, 28)).sum(0) % 2
    np.savez(tmp_path / "odd.npz", images=(board * 255).astype(np.uint8)[None])
    status, out, _ = memdef("predict", run.path, tmp_path / "odd.npz", "--json")
    assert status == 0
    assert json.loads(out)["flag"] == "suspicious"


def test_a_broken_file_is_told_and_the_others_are_predicted(run, folder, memdef) -> None:
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:150])
    status, out, _ = memdef("predict", run.path, folder, folder / "none.png", "--json", "--batch", "2")
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == SOME_UNREADABLE == 1
    assert [("error" in line) for line in lines] == [False, False, True, False, False, True]
    assert "truncated or damaged" in lines[2]["error"]
    status, out, err = memdef("predict", run.path, folder)
    assert status == 1
    assert "not read" in out
    assert "truncated or damaged" in err
    assert out.count(" accept ") + out.count(" suspicious ") == 4


def test_every_file_of_an_inbox_has_its_line(run, folder, memdef) -> None:
    images = [Image.open(folder / f"{number}.png") for number in range(3)]
    for number, image in enumerate(images):
        image.save(folder / f"{number}.tif")
        image.convert("RGB").save(folder / f"{number}.webp", lossless=True)
        image.convert("RGB").save(folder / f"{number}.jfif", "JPEG")
    (folder / ".DS_Store").write_bytes(b"x")
    status, out, err = memdef("predict", run.path, folder, "--json")
    lines = {Path(one["file"]).name: one for one in map(json.loads, out.splitlines())}
    assert (status, len(lines)) == (0, 5 + 9)
    for number in range(3):
        kinds = [lines[f"{number}.{suffix}"] for suffix in ("png", "tif", "webp")]
        assert len({one["label"] for one in kinds}) == len({round(one["score"], 4) for one in kinds}) == 1
    assert f"1 hidden or system file left out in {folder}: .DS_Store" in err
    (folder / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    (folder / "notes.txt").write_text("no image")
    (folder / "to nothing.png").symlink_to(folder / "none.png")
    status, out, err = memdef("predict", run.path, folder, "--json")
    faults = [one for one in map(json.loads, out.splitlines()) if "error" in one]
    assert (status, len(out.splitlines()), len(faults)) == (SOME_UNREADABLE, 17, 3)
    assert "not read: 3 of 17" in err
    assert "HEIC" in faults[2]["error"]


def test_names_that_no_terminal_shows_are_predicted_too(run, folder, memdef) -> None:
    for name in ("a\n\x1b[2Jb.png", "\udcff.png"):
        (folder / name).write_bytes((folder / "0.png").read_bytes())
    status, out, _ = memdef("predict", run.path, folder, "--json")
    assert (status, len(out.splitlines())) == (0, 7)
    assert {json.loads(line)["file"] for line in out.splitlines()} == {str(path) for path in folder.iterdir()}
    status, out, err = memdef("predict", run.path, folder)
    assert (status, err) == (0, "")
    assert "\x1b[2J" not in out


def test_another_size_is_converted_and_said(run, tmp_path, memdef) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "big.png")
    status, out, _ = memdef("predict", run.path, tmp_path / "big.png", "--json")
    assert status == 0
    assert json.loads(out)["changes"] == ["colour made grey", "resized from 64 x 40 to 28 x 28, the sides cut off"]
    _, table, _ = memdef("predict", run.path, tmp_path / "big.png")
    assert "colour made grey" in " ".join(table.split())


def test_the_threshold_is_kept_once_and_used_without_data(run, folder) -> None:
    defense = load(run.path)
    assert defense.flag_threshold is None
    chosen, fresh = flag_for(run, defense, lambda: SPLITS.held_out)
    assert fresh
    assert (chosen.false_alarms, chosen.calibration_images) == (0.05, 50)
    assert kept_flag(run.read(), run.manifest_path) == chosen

    def never():
        raise AssertionError("the data were asked for")

    assert flag_for(run, load(run.path), never) == (chosen, False)
    assert flag_for(run, load(run.path), never, false_alarms=0.05) == (chosen, False)
    looser, fresh = flag_for(run, load(run.path), lambda: SPLITS.held_out, false_alarms=0.5)
    assert fresh
    assert looser.threshold < chosen.threshold
    assert kept_flag(run.read(), run.manifest_path) == chosen


def test_the_threshold_is_one_of_held_out_scores(run) -> None:
    """It would be another if test images had a say."""
    defense = load(run.path)
    chosen, _ = flag_for(run, defense, lambda: SPLITS.held_out)
    with torch.no_grad():
        held = defense.scores(SPLITS.held_out.floats())["reconstruction"].sort().values
        test = defense.scores(SPLITS.test.floats())["reconstruction"].sort().values
    assert chosen.threshold == pytest.approx(float(held[48]), rel=1e-5)  # rank ceil(51 * 0.95) of 50
    assert (test - chosen.threshold).abs().min() > 1e-6
    pooled = torch.cat([held, test]).sort().values
    assert chosen.threshold != pytest.approx(float(pooled[int(np.ceil(151 * 0.95)) - 1]), rel=1e-5)


def test_without_threshold_and_data_the_way_out_is_said(run, folder, memdef, monkeypatch) -> None:
    def missing(*_, **__):
        raise DataNotFoundError("no source has it")

    monkeypatch.setattr(run_images, "splits_of", missing)
    status, out, err = memdef("predict", run.path, folder)
    assert (status, out) == (2, "")
    assert "--data-dir" in err
    assert "no source has it" in err
    assert "flag" not in run.read()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--false-alarms", "0"), "false_alarms is 0"),
        (("--false-alarms", "0.001"), "use at least 999"),
        (("--batch", "0"), "--batch"),
    ],
)
def test_rates_that_cannot_be_promised_are_refused(run, folder, memdef, options, reason) -> None:
    status, _, err = memdef("predict", run.path, folder, *options)
    assert status == 2
    assert reason in err


def test_an_answer_does_not_depend_on_its_batch(run, folder) -> None:
    defense = load(run.path)
    flag = Flag(score="disagreement", threshold=0.2, false_alarms=0.05, calibration_images=50)

    def told(batch: int) -> list[Prediction]:
        source = pictures([folder], channels=1, size=28)
        return list(predict(defense, flag, source, classes=SPLITS.spec.classes, batch=batch))

    assert told(1) == told(2) == told(100)
    with pytest.raises(ValueError, match="batch is 0"):
        told(0)
    with pytest.raises(ValueError, match="Linear has no scores"):
        flag_for(run, torch.nn.Linear(1, 1), lambda: SPLITS.held_out)
