"""The anatomy at the scale tiny: every number recomputed from the images of its step."""

import pytest
import torch

from memory_defense.evaluation.record import Record
from memory_defense.paper.anatomy import STEPS, Bench, judged_row, reproduce_anatomy
from memory_defense.paper.printed.anatomy import Anatomy, write_anatomy
from memory_defense.paper.trained_rows import TrainedRows
from paper.beside import SOURCE

ROW = "fashion-mnist/tiny/memory-defense"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("reproduction")


@pytest.fixture(scope="module")
def anatomy(out) -> Anatomy:
    return reproduce_anatomy(TrainedRows(out=out, data=SOURCE, scale="tiny", seed=1))


def test_the_anatomy_has_every_step_and_control(anatomy, tmp_path) -> None:
    assert [step.key for step in anatomy.steps] == list("abcdefgh")
    assert [step.protocol for step in anatomy.steps] == [step.protocol.choices() for step in STEPS]
    assert [step.changed for step in anatomy.steps] == [
        "", "score", "steps", "units", "seen", "seen", "seen", "attacks",
    ]  # fmt: skip
    assert [one.key for one in anatomy.controls] == ["a", "a", "a", "d"]
    first, second = anatomy.steps[:2]
    assert first.attacked == second.attacked  # only what is counted differs
    assert first.score == pytest.approx((anatomy.clean.accuracy + second.score) / 2)
    paths = write_anatomy(anatomy, tmp_path)
    assert Anatomy.read(paths[0]) == anatomy


def test_the_last_step_is_the_records_worst_case(anatomy, out) -> None:
    record = Record.read(out / ROW / "worst-case.json")
    (worst,) = (one for one in record.worst_case if one.norm == "linf" and round(255 * one.epsilon) == 25)
    assert anatomy.steps[-1].score == worst.accuracy
    assert anatomy.images == record.images
    assert anatomy.clean == record.clean


def test_the_record_of_the_table_goes_first(out, anatomy) -> None:
    rows = TrainedRows(out=out, data=SOURCE, scale="tiny", seed=1)
    recipe = rows.recipes["memory-defense"]
    made = Record.read(out / ROW / "worst-case.json")
    of_table = made.provenance.model_copy(update={"recipe_sha256": recipe.sha256})
    table = out / ROW / "record.json"
    made.model_copy(update={"provenance": of_table}).write(table)
    assert judged_row(rows, recipe).path == table
    made.write(table)  # of another plan
    assert judged_row(rows, recipe).path == out / ROW / "worst-case.json"


def test_attacked_images_lie_where_their_protocol_allows(out, anatomy) -> None:
    rows = TrainedRows(out=out, data=SOURCE, scale="tiny", seed=1)
    sample = rows.test(anatomy.images)
    bench = Bench(defense=rows.defense("memory-defense"), sample=sample, seed=1)
    for step in STEPS[:-1]:
        images = bench.attacked(step.protocol)
        ball = step.protocol.ball(25 / 255)
        assert bool(ball.contains(images, sample.images).all())
        measured = next(one for one in anatomy.steps if one.key == step.key)
        with torch.no_grad():
            answers, slots = bench.defense(images).argmax(1), bench.defense.selector(images).argmax(1)
        assert measured.attacked.accuracy == pytest.approx(float((answers == sample.labels).float().mean()))
        assert measured.selector.accuracy == pytest.approx(float((slots == sample.labels).float().mean()))
        assert measured.agreement == pytest.approx(float((answers == slots).float().mean()))
    noise = bench.noise(STEPS[3].protocol)
    inner = (sample.images > 25 / 255) & (sample.images < 1 - 25 / 255)
    moved = (noise - sample.images)[inner]
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 25 / 255))
    assert 0.4 < float((moved > 0).float().mean()) < 0.6
