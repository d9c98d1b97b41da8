"""Ranks that work together: one that is missing, fails, ends or was given something else is named by the others."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import HashStore

from memory_defense import ranks
from memory_defense.ranks import Company, RankError, Ranks, current, in_company


class Clock:
    """Time that passes at every look."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def store(monkeypatch) -> HashStore:
    monkeypatch.setattr(ranks, "_POLL", (0.0, 0.001))
    made = HashStore()
    made.set_timeout(timedelta(seconds=100))
    return made


def company(store: HashStore, rank: int, world: int = 2, step: float = 1.0) -> Company:
    before = ranks._Calls.made
    one = Company(store, rank, world, "work", Clock(step))
    ranks._Calls.made = before  # every rank is here in one process
    one.place = "here"
    return one


def at_once(*works: Callable[[], object]) -> list[object]:
    """Run these in threads; return what each returned or raised."""
    found: list[object] = [None] * len(works)

    def run(place: int, work: Callable[[], object]) -> None:
        try:
            found[place] = work()
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=one, daemon=True) for one in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    return found


def test_ranks_that_are_all_there_go_on(store, caplog) -> None:
    both = [company(store, rank, step=0.0) for rank in range(2)]
    for _ in range(3):
        assert at_once(*(one.meet for one in both)) == [None, None]
    assert caplog.text == ""
    for one in both:
        one.end()


def test_a_rank_that_is_alone_says_so_again_and_again_and_gives_up_with_the_group(store, caplog) -> None:
    one = company(store, 1, world=4)
    store.set("here/0/2", "here")
    with caplog.at_level(logging.WARNING, "memory_defense"), pytest.raises(RankError) as error:
        one.meet()
    said = "ranks 0, 3: all 4 ranks must call work; to evaluate on one alone, give it Options(alone=True)"
    assert str(error.value) == f"rank 1 waited 101 s for {said}"
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"rank 1 waits for {said}"] * 10, "after 5 seconds, and then every 10"
    assert not store.check(["here/0/1"]), "whoever comes later does not take it for one that is there"


def test_a_rank_that_comes_late_is_waited_for(store, caplog) -> None:
    early, late = company(store, 0), company(store, 1, step=0.0)
    comes = threading.Event()

    def say(text: str, *_: object) -> None:
        comes.set()

    caplog.set_level(logging.WARNING, "memory_defense")
    ranks._log.addFilter(lambda record: comes.set() is None)

    def waits() -> None:
        assert comes.wait(30)
        late.meet()

    try:
        assert at_once(early.meet, waits) == [None, None]
    finally:
        ranks._log.filters.clear()
    assert "rank 0 waits for rank 1" in caplog.text
    early.end()
    late.end()


def test_a_rank_that_failed_is_named_with_its_error(store) -> None:
    first, second = company(store, 0, step=0.0), company(store, 1, step=0.0)
    at_once(first.meet, second.meet)
    second.fail(ValueError("no memory"))
    with pytest.raises(RankError, match="rank 1 failed, so rank 0 stops: ValueError: no memory"):
        first.meet()
    first.end()
    second.end()


def test_a_rank_without_a_sign_of_life_is_given_up(store) -> None:
    first, second = company(store, 0, step=0.0), company(store, 1, step=0.0)
    at_once(first.meet, second.meet)
    second.end()
    first.clock = Clock(30.0)
    with pytest.raises(RankError, match=r"rank 1 has given no sign of life for 1[0-9]+ s; start all ranks again"):
        first.meet()
    first.end()


def test_one_that_works_long_is_alive(store, caplog) -> None:
    first, second = company(store, 0, step=0.0), company(store, 1, step=0.0)
    at_once(first.meet, second.meet)
    second.end()
    looks = iter(range(1000))

    def clock() -> float:
        number = next(looks)
        store.set("here/pulse/1", f"look {number}")
        if number == 100:
            store.set("here/1/1", "here")
        return 50.0 * number

    first.clock = clock
    with caplog.at_level(logging.WARNING, "memory_defense"):
        first.meet()
    assert caplog.records[0].getMessage() == "rank 0 waits for rank 1, having done its own share"
    first.end()


def test_without_other_ranks_nothing_is_waited_for() -> None:
    with in_company("work") as ranks_, in_company("work") as within:
        assert ranks_ == within == current() == Ranks()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict[str, dict[str, object]]]:
    folder = tmp_path_factory.mktemp("calls")
    script = Path(__file__).with_name("rank_calls.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, folder, str(rank)],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    for process in processes:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_a_rank_can_evaluate_alone_while_the_other_does_not(found) -> None:
    assert found[0]["alone"] == found[0]["together"] == found[1]["together"]
    assert found[0]["alone"]["images"] == 12
    assert "alone" not in found[1]


@pytest.mark.parametrize(
    ("case", "name"),
    [("other seeds", "seed is 0 on rank 0 and 1 on rank 1"), ("other images", "hash of the images")],
)
def test_ranks_that_were_given_something_else_are_refused_by_one_message(found, case, name) -> None:
    assert found[0][case] == found[1][case]
    assert found[0][case]["error"] == "RankError"
    assert name in found[0][case]["said"]
    assert "Options(alone=True)" in found[0][case]["said"]


def test_the_others_stop_where_one_refuses_or_fails(found) -> None:
    assert "expected [0, 1]" in found[1]["one refuses"]["said"]
    assert found[0]["one refuses"]["error"] == "RankError"
    assert found[0]["one refuses"]["said"].startswith("rank 1 failed, so rank 0 stops: ValueError: images span")
    assert found[1]["one fails"]["error"] == "ModelError"
    assert "the model raised KeyError: 'no such layer'" in found[1]["one fails"]["said"]
    assert found[0]["one fails"]["error"] == "RankError"
    assert "no such layer" in found[0]["one fails"]["said"]


def test_a_model_wrapped_for_training_is_evaluated_as_it_is(found) -> None:
    assert found[0]["wrapped"] == found[1]["wrapped"] == found[0]["together"]


def test_what_failed_does_not_disturb_what_comes_next(found) -> None:
    assert found[0]["again"] == found[1]["again"] == found[0]["together"]
