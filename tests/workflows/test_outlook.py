"""The time left of a work of several parts, by a clock that the test turns."""

from __future__ import annotations

import math
import re

import pytest

from memory_defense.workflows.outlook import Outlook, Part

BESIDE = 30_000 * 0.1
"""Seconds of what an evaluation does beside its attacks, at the speed of the beginning."""


class Shown:
    def __init__(self) -> None:
        self.said, self.begun = [], []

    def begin(self, what: str, total: int) -> None:
        self.begun.append(what)

    def advance(self, steps: int, text: str = "") -> None: ...
    def note(self, text: str) -> None: ...

    def tell(self, text: str, left: float | None = None) -> None:
        assert left == math.inf  # the display says no time of its own
        self.said.append(text)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def work():
    clock = Clock()
    parts = [
        Part("attacking before", lambda survive: 100 + 0 * survive),
        Part("fine-tuning", lambda _: 600.0, steps=60, scores=2, score_cost=50.0),
        Part("attacking after", lambda survive: 1000 * survive),
    ]
    shown = Shown()
    return clock, shown, Outlook(shown, parts, 0.1, (0.1, 0.5), clock)


def test_all_parts_count_from_the_beginning(work) -> None:
    _, shown, outlook = work
    outlook.part("attacking before")
    around = 0.3 * 10 + BESIDE, 0.3 * 50 + BESIDE  # of the attacks' ten and fifty seconds
    assert outlook.left() == pytest.approx(10 + around[0] + 60 + 2 * 5 + 50 + around[1])
    outlook.begin("measuring", 0)
    assert shown.begun == ["1 of 3, attacking before: measuring"]
    assert re.fullmatch(r"about 1 h \d\d min left in all", shown.said[-1])


def test_measured_speed_replaces_what_was_guessed(work) -> None:
    clock, shown, outlook = work
    outlook.part("attacking before")
    outlook.begin("asking", 0)
    clock.now = 4.0
    outlook.begin("attacking", 1)
    outlook.expect(50, 0.2)
    assert outlook.left() == pytest.approx(
        50 * 0.2 + 0.6 * (6 + 2 * BESIDE) + 60 * 10 * 0.2 + 2 * 50 * 0.2 + 500 * 0.2 * 1.3 + 2 * BESIDE
    )
    clock.now = 14.0
    outlook.begin("preparing what comes next", 0)
    clock.now = 15.0
    outlook.begin("auditing, check 3 of 4, ties", 0)
    assert outlook.left() == pytest.approx(1.0 + 60 * 10 * 0.2 + 2 * 50 * 0.2 + 500 * 0.2 * 1.3 + 2 * BESIDE)
    clock.now = 16.0
    outlook.part("fine-tuning")
    after = 500 * 0.2 + 6.0  # around the attacks it took four seconds before and two after
    outlook.begin("training", 60)
    outlook.advance(0)
    for step in range(30):
        clock.now += 3.0
        outlook.advance(1, "10 images/s")
        assert outlook.left() == pytest.approx((59 - step) * (3.0 if step >= 2 else 2.0) + 2 * 10.0 + after)
    clock.now += 7.0
    outlook.note("epoch 1/2: loss 1.2, held-out score 0.25")
    assert outlook.left() == pytest.approx(30 * 3.0 + 7.0 + 250 * 0.2 + 6.0)
    outlook.tell("scoring")
    assert shown.said[-1].startswith("scoring, about ")


def test_a_training_that_goes_on_is_found_by_its_steps(work) -> None:
    clock, _, outlook = work
    outlook.part("attacking before")
    outlook.begin("training", 60)
    outlook.advance(40)
    for _ in range(4):
        clock.now += 1.0
        outlook.advance(1)
    assert outlook.left() == pytest.approx(16 * 1.0 + 1 * 5.0 + 50 * 1.3 + BESIDE)  # a score was before
