"""Rows made at once, each in its own process: the same numbers, one training of what is shared, and clean ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from memory_defense.files import locked
from memory_defense.paper import row_pool
from memory_defense.paper.row_pool import RowError, RowPool
from memory_defense.paper.tables import reproduce, shared_directory
from memory_defense.recipes.registry import recipe
from memory_defense.run_directory import RunDirectory
from memory_defense.workflows.train import shared_stages
from paper.pool_work import Work, data, parent
from paper.rows import Notes, splits

ROWS = ("resnet-benign", "resnet-offline")


def accuracies(row) -> tuple:
    record = row.record
    return record.clean, [(one.attack, one.accuracy) for one in record.attacks], record.worst_case


def test_a_table_made_at_once_is_the_table_made_row_by_row(tmp_path: Path) -> None:
    progress = Notes()
    at_once = reproduce(
        "table1",
        tmp_path / "at-once",
        splits,
        scale="tiny",
        rows=ROWS,
        pool=RowPool(processes=2),
        progress=progress,
    )
    one_by_one = reproduce("table1", tmp_path / "serial", splits, scale="tiny", rows=ROWS)
    for mine, theirs in zip(at_once["fashion-mnist"], one_by_one["fashion-mnist"], strict=True):
        assert mine.key == theirs.key
        assert accuracies(mine) == accuracies(theirs)
    trained = [note for note in progress.notes if ": selector-benign, " in note]
    assert len(trained) == 1
    recipes = [recipe(f"fashion-mnist/tiny/{row}") for row in ROWS]
    where = shared_directory(tmp_path / "at-once", "fashion-mnist")
    told = {path for one in recipes for path in shared_stages(one, where, 0, 200)}
    assert set(where.glob("*.safetensors")) == told
    runs = [tmp_path / "at-once/fashion-mnist/tiny" / row for row in ROWS]
    shared = {RunDirectory(run).read()["stages"]["selector-benign"].get("shared") for run in runs}
    assert len(shared - {None}) == 1
    assert not list((tmp_path / "at-once").rglob(".*.lock"))


class Stopping(Notes):
    """Raises, as Ctrl-C does, once a row has counted."""

    def advance(self, steps: int, text: str = "") -> None:
        if "counting" in text:
            raise KeyboardInterrupt


def test_every_row_is_made_and_heard(tmp_path: Path) -> None:
    progress = Notes()
    works = [Work(f"row{n}", "count", tmp_path) for n in range(3)]
    RowPool(processes=2).make(works, data, progress)
    assert sorted(progress.notes) == [f"row{n}: data of it" for n in range(3)]
    pids = {(tmp_path / f"row{n}.pid").read_text() for n in range(3)}
    assert len(pids) == 3
    assert str(os.getpid()) not in pids


def test_a_row_that_would_wait_for_another_lets_a_later_one_go_first(tmp_path: Path) -> None:
    names = {"first": "makes common", "second": "needs common", "beside": "beside"}
    RowPool(processes=2).make([Work(name, what, tmp_path) for name, what in names.items()], data)
    assert all((tmp_path / name).exists() for name in names)


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("wrong", ValueError, "^bad cannot be$"),
        ("full", ValueError, "^the disk is full$"),
        ("fail", RowError, "(?s)bad failed.*Traceback.*a defect"),
        ("killed", RowError, "bad: its process ended with status -9"),
    ],
)
def test_a_row_that_fails_stops_the_others(tmp_path: Path, what: str, error: type, message: str) -> None:
    works = [Work("long", "long", tmp_path), Work("bad", what, tmp_path), Work("never", "count", tmp_path)]
    with pytest.raises(error, match=message):
        RowPool(processes=2).make(works, data)
    assert not (tmp_path / "long").exists()
    assert not (tmp_path / "never").exists()
    assert not multiprocessing.active_children()


def test_a_row_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(row_pool, "_PATIENCE_SECONDS", 1.0)
    works = [Work("deaf", "deaf", tmp_path), Work("bad", "waits for deaf", tmp_path)]
    with pytest.raises(ValueError, match="bad cannot be"):
        RowPool(processes=2).make(works, data)
    assert not multiprocessing.active_children()


def test_an_interruption_stops_every_row_at_its_next_step(tmp_path: Path) -> None:
    works = [Work(name, "long", tmp_path) for name in ("a", "b")]
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        RowPool(processes=2).make(works, data, Stopping())
    assert time.monotonic() - started < 40  # each would count for 50 s
    assert not (tmp_path / "a").exists()
    assert not multiprocessing.active_children()


def test_rows_of_a_killed_parent_end(tmp_path: Path) -> None:
    killed = multiprocessing.get_context("spawn").Process(target=parent, args=(tmp_path,))
    killed.start()
    told = tmp_path / "orphan.pid"
    while not (told.exists() and told.read_text()):
        assert killed.is_alive()
        time.sleep(0.05)
    orphan = int(told.read_text())
    os.kill(killed.pid or 0, signal.SIGKILL)
    killed.join()
    for _ in range(200):
        if not Path(f"/proc/{orphan}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{orphan}").exists()
    assert not (tmp_path / "orphan").exists()


@pytest.mark.parametrize("wrong", [{"processes": 0}, {"processes": 1, "threads": 0}])
def test_a_pool_of_nothing_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="make nothing; give 1 or more"):
        RowPool(**wrong)


def test_a_run_waits_for_who_trains_what_both_need(tmp_path: Path) -> None:
    (path,) = shared_stages(recipe("fashion-mnist/tiny/resnet-benign"), tmp_path / "shared/fashion-mnist", 0, 200)
    progress = Notes()
    made = threading.Thread(
        target=reproduce,
        args=("table1", tmp_path, splits),
        kwargs={"scale": "tiny", "rows": ["resnet-benign"], "progress": progress},
    )
    with locked(path):
        made.start()
        while not any("waiting" in note for note in progress.notes):
            assert made.is_alive()
            time.sleep(0.05)
        assert not path.exists()
    made.join()
    assert path.is_file()
    assert [note for note in progress.notes if "selector-benign" in note]
