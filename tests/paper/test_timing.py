"""The timing at the scale tiny: every system in every round, warm-up runs not counted."""

import pytest
import torch

from memory_defense.paper.printed.timing import Timing, write_timing
from memory_defense.paper.timing import measure, reproduce_timing
from memory_defense.paper.trained_rows import TrainedRows
from paper.beside import SOURCE


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("reproduction")


def test_timing_runs_every_system_in_every_round(out, tmp_path) -> None:
    result = reproduce_timing(TrainedRows(out=out, data=SOURCE, scale="tiny", seed=1))
    assert [one.batch for one in result.latencies] == [1] * 5 + [10] * 5
    assert all(one.runs == 3 and one.seconds >= one.fastest > 0 and one.ratio > 0 for one in result.latencies)
    assert [one.ratio for one in result.latencies if one.key == "without-memory"] == [1, 1]
    paths = write_timing(result, tmp_path)
    assert Timing.read(paths[0]) == result
    assert "| 1.712 |" in paths[1].read_text()


def test_warm_up_runs_do_not_count() -> None:
    calls: list[str] = []
    jobs = {"one": lambda: calls.append("one"), "two": lambda: calls.append("two")}
    seconds = measure(jobs, 30, torch.device("cpu"))
    assert {key: len(runs) for key, runs in seconds.items()} == {"one": 30, "two": 30}
    assert calls == ["one", "two"] * 33
