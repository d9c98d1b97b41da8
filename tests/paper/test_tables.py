"""Reproducing a table at the smallest scale, on made-up images: rows share what they can, nothing is done twice."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from memory_defense.data.images import Splits
from memory_defense.evaluation.record import Record
from memory_defense.paper.printed.published import PUBLISHED
from memory_defense.paper.printed.reproduced import LINES, reproduced
from memory_defense.paper.tables import keep_results, reproduce
from memory_defense.run_directory import RunDirectory
from paper.rows import Notes, splits


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("reproduce")


ROWS = ("resnet-offline", "memory-defense", "autoencoder")


def test_rows_share_their_classifier_and_fill_their_table(out: Path) -> None:
    progress = Notes()
    made = reproduce("table5", out, splits, scale="tiny", rows=ROWS, progress=progress)
    trained = [name for note in progress.notes for name in re.findall(r"(selector-\w+), \d+ epochs", note)]
    assert trained == ["selector-benign", "selector-offline"]
    stages = RunDirectory(out / "fashion-mnist/tiny/memory-defense").read()["stages"]
    assert {name for name, stage in stages.items() if "shared" in stage} == {"selector-offline"}
    rows = made["fashion-mnist"]
    assert [row.key for row in rows] == ["autoencoder", "resnet-offline", "memory-defense"]  # the table's order
    table = reproduced(PUBLISHED["table5"][0], [(r.key, r.record, str(r.path)) for r in rows], scale="tiny")
    for system in table.systems:
        for name in LINES:
            assert all(cell.text for cell in system.lines[name])


def test_what_is_done_is_not_done_again(out: Path) -> None:
    reproduce("table5", out, splits, scale="tiny", rows=["resnet-offline"])
    place = out / "fashion-mnist/tiny/resnet-offline/record.json"
    before = place.stat().st_mtime_ns
    progress = Notes()
    made = reproduce("table5", out, splits, scale="tiny", rows=["resnet-offline"], progress=progress)
    assert progress.notes, "what is taken from before is said"
    assert [note for note in progress.notes if "before" not in note] == []
    assert place.stat().st_mtime_ns == before
    keep_results(made, out / "kept")
    assert Record.read(out / "kept/fashion-mnist/resnet-offline.json") == made["fashion-mnist"][0].record


def test_another_table_is_another_record_of_the_same_run(out: Path) -> None:
    reproduce("table5", out, splits, scale="tiny", rows=["memory-defense"])
    run = out / "fashion-mnist/tiny/memory-defense"
    weights = (run / "weights.safetensors").read_bytes()

    def without_colour(name: str) -> Splits:
        return splits(name) if name == "fashion-mnist" else replace(splits(name), test=splits(name).test.first(4))

    made = reproduce("table3", out, without_colour, scale="tiny", rows=["memory-defense"])
    assert made.keys() == {"fashion-mnist", "cifar10"}
    assert (run / "weights.safetensors").read_bytes() == weights
    record = made["fashion-mnist"][0].record
    assert {(one.attack, round(one.epsilon, 3)) for one in record.attacks} == {("fgsm", 0.3), ("cw", 28.0)}
    assert made["fashion-mnist"][0].path == run / "table3.json"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": "table4"}, "did you mean 'table"),
        ({"table": "table5", "scale": "huge"}, "scale"),
        ({"table": "table5", "scale": "tiny", "rows": ["pixeldefend"]}, "row of table5"),
    ],
)
def test_unknown_names_are_told(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reproduce(options.pop("table"), tmp_path, splits, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_row_of_another_seed_is_not_taken_for_this_one(out: Path) -> None:
    reproduce("table5", out, splits, scale="tiny", rows=["resnet-offline"])
    with pytest.raises(ValueError, match=r"holds another run \(seed is 0, not 1\); choose another directory"):
        reproduce("table5", out, splits, scale="tiny", rows=["resnet-offline"], seed=1)
