"""The flag that a run keeps: there and back, and refused where it is damaged."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from memory_defense.evaluation.flag import Flag, keep_flag, kept_flag, restore_flag
from memory_defense.recipes.fashion_mnist import TINY
from memory_defense.run_directory import RunDirectory

FLAG = Flag(score="disagreement", threshold=0.1 + 0.2, false_alarms=0.05, calibration_images=5000)


class Holder:
    """As much of a defense as a flag needs."""

    flag_score = "reconstruction"
    flag_threshold: float | None = None


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    directory.begin(TINY, 3, 100, resume=False)
    return directory


def test_a_flag_comes_back_to_the_last_bit(run) -> None:
    before = run.read()
    assert kept_flag(before, run.manifest_path) is None
    keep_flag(run, FLAG)
    assert kept_flag(run.read(), run.manifest_path) == FLAG
    assert json.loads(run.manifest_path.read_text())["flag"] == {
        "score": "disagreement", "threshold": 0.1 + 0.2, "false_alarms": 0.05, "calibration_images": 5000,
    }  # fmt: skip
    assert {key: value for key, value in run.read().items() if key != "flag"} == before
    keep_flag(run, Flag(**{**asdict(FLAG), "threshold": 0.7}))
    assert kept_flag(run.read(), run.manifest_path).threshold == 0.7


def test_a_flag_is_put_on_a_defense(run) -> None:
    defense = Holder()
    restore_flag(defense, run.read(), run.manifest_path)
    assert (defense.flag_score, defense.flag_threshold) == ("reconstruction", None)
    keep_flag(run, FLAG)
    restore_flag(defense, run.read(), run.manifest_path)
    assert (defense.flag_score, defense.flag_threshold) == ("disagreement", 0.1 + 0.2)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ([1], "is not a table"),
        ({}, "holds nothing"),
        ({**asdict(FLAG), "more": 1}, "holds calibration_images, false_alarms, more"),
        ({**asdict(FLAG), "score": 3}, "the score 3"),
        ({**asdict(FLAG), "calibration_images": 0}, "from 0 images"),
        ({**asdict(FLAG), "calibration_images": True}, "from True images"),
        ({**asdict(FLAG), "threshold": "0.3"}, "threshold '0.3'"),
        ({**asdict(FLAG), "threshold": float("nan")}, "threshold nan"),
        ({**asdict(FLAG), "false_alarms": 1.0}, "not between 0 and 1"),
    ],
)
def test_a_damaged_flag_is_refused(entry, reason) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        kept_flag({"flag": entry}, Path("x/manifest.json"))
    assert "x/manifest.json" in str(caught.value)
    assert "--detection" in str(caught.value)
