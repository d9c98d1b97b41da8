"""``memdef evaluate --rejection-cost``: what it writes and prints, with a flag and without, and what it refuses."""

from __future__ import annotations

import sys

import pytest

from memory_defense.cli import main
from memory_defense.evaluation.record import Record
from memory_defense.workflows import run_images
from paper.made_up import made_up_splits, tiny_run

SPLITS = made_up_splits(held_out=100)
FEW = ("--images", "10", "--attacks", "fgsm", "--epsilon", "0.1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("runs") / "run", SPLITS)


@pytest.fixture
def memdef(monkeypatch, capsys):
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


def test_a_run_without_a_flag_and_then_with_its_fitted_one(run, memdef) -> None:
    costs = ("--rejection-cost", "0.1", "--rejection-cost", "0.3", "--out", run.record)
    status, out, err = memdef("evaluate", run.path, *FEW, *costs)
    assert status == 0, err
    assert "Answer and flag" in out
    plain = Record.read(run.record).selection
    assert {one.score for one in plain} == {""}
    status, _, err = memdef("evaluate", run.path, *FEW, *costs, "--detection")
    assert status == 0, err
    record = Record.read(run.record)
    fitted = next(one for one in record.selection if one.norm == "linf")
    assert record.detection
    assert (fitted.score, [loss.cost for loss in fitted.losses]) == ("reconstruction", [0.1, 0.3])
    assert {stage.knowledge for stage in fitted.stages} == {"silent", "crossing", "alarm"}
    assert fitted.threshold in {one.threshold for one in record.detection}


@pytest.mark.parametrize(("cost", "said"), [("2", "the cost of a flag is 2"), ("-1", "the cost of a flag is -1")])
def test_a_cost_that_is_none_is_refused_before_the_work(run, memdef, cost, said) -> None:
    status, _, err = memdef("evaluate", run.path, "--rejection-cost", cost, "--out", run.path / "never.json")
    assert status == 2
    assert said in err
    assert not (run.path / "never.json").exists()


def test_a_classifier_of_ones_own_is_refused(memdef) -> None:
    status, _, err = memdef(
        "evaluate", "a.module:build", "--rejection-cost", "0.1", "--data", "x", "--epsilon", "0.1"
    )
    assert status == 2
    assert "--rejection-cost: only for a run directory" in err
