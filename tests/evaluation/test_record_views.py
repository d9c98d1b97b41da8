"""What a record shows: its line, rows a case, rows an image, and a plain error where something is not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import memory_defense
from memory_defense import Options, Record
from memory_defense.evaluation.frames import case_rows, image_rows
from memory_defense.evaluation.results import read_per_image
from memory_defense.evaluation.verdicts import lines_of, read_verdicts, verdicts_of, write_lines

COUNT = 40
RADII = (0.02, 0.06)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A record of a linear net, wrong on the first 4 images, written to a file."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    images = torch.rand(COUNT, 1, 4, 4)
    labels = net(images).argmax(1)
    labels[:4] = (labels[:4] + 1) % 4
    place = tmp_path_factory.mktemp("views") / "record.json"
    options = Options(defense="my net", dataset="made up", ids=range(100, 100 + COUNT))
    return memory_defense.evaluate(
        net, images, labels, epsilon=RADII, attacks="fgsm,bim", out=place, options=options
    )


def test_a_record_is_one_line(made: Record) -> None:
    said = repr(made)
    assert "\n" not in said
    assert len(said) < 200
    for part in ("'my net'", "40 images of made up", "clean 90.0 %", "linf 0.02", "linf 0.06", "checks failed"):
        assert part in said


def test_where_it_lies_is_no_part_of_what_it_says(made: Record) -> None:
    assert made.place is not None
    read = Record.read(str(made.place))
    assert read == made
    assert read.place == made.place
    copy = Record.model_validate(made.model_dump(by_alias=True))
    assert copy.place is None
    assert copy == made
    assert made != made.model_copy(update={"defense": "another"})
    assert made.model_copy(update={"notes": ("more",)}).place == made.place


def test_rows_of_cases_are_the_records_numbers(made: Record) -> None:
    rows = list(case_rows(made))
    kinds = [row["kind"] for row in rows]
    assert kinds.count("clean") == 1
    assert kinds.count("worst case") == len(RADII)
    assert kinds.count("stage") == sum(len(cascade.stages) for cascade in made.cascades) > 2
    worst = [row for row in rows if row["kind"] == "worst case"]
    for row, one in zip(worst, made.worst_case, strict=True):
        assert (row["norm"], row["epsilon"], row["accuracy"]) == (one.norm, one.epsilon, one.accuracy)
        assert (row["ci95_low"], row["ci95_high"]) == one.ci95
    assert {row["defense"] for row in rows} == {"my net"}
    assert len({tuple(row) for row in rows}) == 1, "all rows have the same columns"
    stage = next(row for row in rows if row["kind"] == "stage")
    assert stage["accuracy"] is None
    assert isinstance(json.loads(str(stage["parameters"])), dict)


def test_a_curve_and_its_table_are_told_apart() -> None:
    shipped = Record.read(Path(memory_defense.__file__).parent / "zoo/fashion-mnist/sound/record.json")
    kinds = {row["kind"] for row in case_rows(shipped)}
    assert {"clean", "attack", "curve", "worst case"} <= kinds


def test_rows_of_images_add_up_to_the_record(made: Record) -> None:
    rows = list(image_rows(made))
    assert [row["id"] for row in rows] == list(range(100, 100 + COUNT))
    assert sum(bool(row["right"]) for row in rows) == round(made.clean.accuracy * COUNT)
    assert [row["right"] for row in rows[:4]] == [False] * 4, "what fails is there"
    for one in made.worst_case:
        ball = f"linf_{one.epsilon:.4g}"
        standing = [row for row in rows if row[f"standing_{ball}"]]
        broken = [row for row in rows if row[f"broken_by_{ball}"] is not None]
        assert one.accuracy is not None
        assert len(standing) == round(one.accuracy * COUNT)
        assert len(standing) + len(broken) == round(made.clean.accuracy * COUNT)
        assert {row[f"broken_by_{ball}"] for row in broken} <= {"fgsm", "bim"}
        assert {row[f"knowledge_{ball}"] for row in broken} == {"end-to-end"}
        assert all(0 < float(str(row[f"distance_{ball}"])) <= one.epsilon * 1.001 for row in broken)


def test_verdicts_are_read_as_the_whole_file_is(made: Record) -> None:
    assert made.place is not None
    path = made.place.with_name(str(made.per_image))
    quick, whole = read_verdicts(path), read_per_image(path)
    assert quick.ids == whole.ids.tolist()
    assert quick.predictions == whole.predictions.tolist()
    for ball, broken in zip(quick.balls, whole.broken, strict=True):
        assert (ball.norm, ball.epsilon) == (broken.ball.norm, broken.ball.epsilon)
        assert ball.standing == broken.robust.tolist()
        assert [one is None for one in ball.breaker] == (broken.breaker < 0).tolist()
        assert ball.distance == broken.distance.tolist()


def test_lines_are_json_and_say_what_the_rows_say(made: Record, tmp_path: Path) -> None:
    write_lines(tmp_path / "images.jsonl", made)
    lines = [json.loads(line) for line in (tmp_path / "images.jsonl").read_text().splitlines()]
    assert len(lines) == COUNT
    for line, row in zip(lines, image_rows(made), strict=True):
        assert {name: line[name] for name in ("id", "label", "predicted", "right")} == {
            name: row[name] for name in ("id", "label", "predicted", "right")
        }
        assert [ball["standing"] for ball in line["balls"]] == [
            row["standing_linf_0.02"],
            row["standing_linf_0.06"],
        ]
    assert lines_of(made) == (tmp_path / "images.jsonl").read_text()


def test_data_frames(made: Record) -> None:
    pytest.importorskip("pandas")
    cases, images = made.to_dataframe(), made.to_dataframe("image")
    assert len(cases) == len(list(case_rows(made)))
    assert len(images) == made.images
    assert images["right"].mean() == pytest.approx(made.clean.accuracy)
    assert images["standing_linf_0.06"].mean() == pytest.approx(made.worst_case[1].accuracy)
    worst = cases[cases["kind"] == "worst case"]
    assert worst["accuracy"].tolist() == [one.accuracy for one in made.worst_case]
    with pytest.raises(ValueError, match=r"unknown row 'attack'"):
        made.to_dataframe("attack")  # pyright: ignore[reportArgumentType]


def test_without_pandas_the_extra_is_named(made: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ValueError, match=r"pip install 'memory-defense\[records\]'"):
        made.to_dataframe()


def test_images_that_are_not_there_or_another_records_are_refused(made: Record, tmp_path: Path) -> None:
    unwritten = Record.model_validate(made.model_dump(by_alias=True))
    with pytest.raises(ValueError, match="was never written"):
        verdicts_of(unwritten)
    unwritten.write(tmp_path / "moved.json")
    with pytest.raises(ValueError, match="is not there"):
        verdicts_of(unwritten)
    assert made.place is not None
    own = made.place.with_name(str(made.per_image))
    (tmp_path / str(made.per_image)).write_bytes(own.read_bytes())
    assert verdicts_of(unwritten) == verdicts_of(made)
    changed = unwritten.model_copy(update={"per_image_sha256": "0" * 64})
    with pytest.raises(ValueError, match="another record's"):
        verdicts_of(changed)
