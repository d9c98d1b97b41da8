"""What is said of long work, by a clock that the tests turn themselves."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from rich.console import Console

from memory_defense import LoggedProgress
from memory_defense.cli.progress import shown
from memory_defense.progress import Lines, Pace, Seldom, beat, duration, heard, stage


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (660, "11 min"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_times_are_said_as_people_say_them(seconds, text) -> None:
    assert duration(seconds) == text


def test_short_stages_one_after_the_other_are_heard_too(clock, said) -> None:
    lines = Lines(said.append, clock=clock)
    for number in range(10):
        lines.begin(f"stage {number}", 1)
        clock.passes(4)
        lines.advance(1)
    assert len(said) == 2, "forty seconds of stages of four seconds each"
    assert "stage 3" in said[0]


def test_at_most_one_line_in_fifteen_seconds_however_often_it_is_told(clock, said) -> None:
    lines = Lines(said.append, clock=clock)
    lines.begin("work", 1000)
    for _ in range(1000):
        clock.passes(0.125)
        lines.advance(1)
        lines.remind()
    assert len(said) == 8
    assert said[0] == "  work 120/1,000, 15 s so far, about 1 min 50 s left"


def test_no_time_is_said_before_there_is_one_nor_at_the_end(clock) -> None:
    pace = Pace("work", 10, clock())
    clock.passes(30)
    assert pace.line(clock()) == "work 0/10, 30 s so far"
    pace.advance(1, "", clock())
    assert "left" not in pace.line(clock()), "one step says nothing yet about the next"
    clock.passes(5)
    pace.advance(1, "", clock())
    assert pace.left(clock()) == "about 40 s left"
    for _ in range(8):
        clock.passes(5)
        pace.advance(1, "", clock())
    assert pace.line(clock()) == "work 10/10, 1 min 15 s so far"


def test_what_an_earlier_run_did_is_no_speed(clock) -> None:
    pace = Pace("training", 1000, clock())
    pace.advance(900, "", clock())  # taken from a file
    clock.passes(10)
    pace.advance(10, "", clock())
    assert pace.left(clock()) == "about 1 min 30 s left"


def test_an_estimate_of_the_work_itself_counts_down_and_never_says_zero(clock) -> None:
    pace = Pace("attacking", 4, clock())
    pace.tell("pgd", 20.0, clock())
    clock.passes(5)
    assert pace.line(clock()) == "attacking 0/4: pgd, 5 s so far, at most about 15 s left"
    clock.passes(60)
    assert pace.line(clock()) == "attacking 0/4: pgd, 1 min 05 s so far", "it was wrong, so nothing is claimed"


def test_a_text_of_a_part_does_not_outlive_it(clock) -> None:
    pace = Pace("training", 10, clock())
    pace.tell("scoring the held-out images", None, clock())
    pace.advance(1, "", clock())
    assert "scoring" not in pace.line(clock())
    pace.advance(1, "fast", clock())
    pace.advance(1, "", clock())
    assert "fast" in pace.line(clock())


class Told:
    """A display that hears everything."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.told: list[tuple[str, float | None]] = []

    def begin(self, what: str, total: int) -> None:
        self.begun.append((what, total))

    def advance(self, steps: int, text: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def tell(self, text: str, left: float | None = None) -> None:
        self.told.append((text, left))


def test_a_stage_is_told_by_passes_and_says_how_long(clock) -> None:
    display = Told()
    with stage(display, "asking", 100, clock=clock):
        for _ in range(4):
            clock.passes(10)
            beat(25)
    beat(25)  # nobody listens any more
    assert display.told == [
        ("25 of 100 image passes", 30.0),
        ("50 of 100 image passes", 20.0),
        ("75 of 100 image passes", 10.0),
        ("100 of 100 image passes", None),
    ]
    assert display.begun[0] == ("asking", 0)
    assert len(display.begun) == 2, "after a stage nothing speaks of it"


class Plain:
    """A display as programs wrote them before there was `tell`."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def begin(self, what: str, total: int) -> None:
        assert total > 0
        self.calls.append(what)

    def advance(self, steps: int, text: str = "") -> None:
        self.calls.append(text)

    def note(self, text: str) -> None:
        self.calls.append(text)


def test_a_display_without_tell_hears_nothing_of_it(clock) -> None:
    display = Plain()
    with stage(display, "asking", 100, clock=clock):
        beat(25)
    assert display.calls == []


def test_passes_by_the_thousand_cost_a_display_a_few_calls(clock) -> None:
    display, asked = Told(), []
    seldom = Seldom(display, clock)

    def told() -> tuple[str, None]:
        asked.append(1)
        return "", None

    for _ in range(10_000):
        clock.passes(0.001)
        seldom(told)
    assert 45 <= len(display.told) == len(asked) <= 51


def test_what_listens_may_stop_the_work_and_is_forgotten_then() -> None:
    def stop(images: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), heard(stop):
        beat(1)
    beat(1)


def test_the_log_gets_lines_without_control_characters(clock, caplog) -> None:
    caplog.set_level(logging.INFO, logger="memory_defense")
    progress = LoggedProgress(clock=clock)
    progress.begin("attacking", 3)
    clock.passes(16)
    progress.tell("pgd on 12 images", 90.0)
    progress.note("note")
    assert [one.message for one in caplog.records] == [
        "attacking 0/3: pgd on 12 images, 16 s so far, at most about 1 min 30 s left",
        "note",
    ]
    assert {one.levelname for one in caplog.records} == {"INFO"}


def test_of_several_processes_only_the_first_logs(caplog, monkeypatch) -> None:
    caplog.set_level(logging.INFO, logger="memory_defense")
    monkeypatch.setenv("RANK", "1")
    LoggedProgress().note("note")
    assert caplog.records == []


@pytest.mark.parametrize("every", [0, -1.0, float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused(every) -> None:
    with pytest.raises(ValueError, match=r"every is .*, expected seconds above 0, such as 15"):
        LoggedProgress(every=every)


def test_a_path_with_brackets_is_no_markup_on_a_terminal(monkeypatch) -> None:
    """It ended the evaluation when its record was about to be written."""
    heard = io.StringIO()
    terminal = Console(file=heard, force_terminal=True, width=100, legacy_windows=False)
    monkeypatch.setattr("memory_defense.cli.progress.Console", lambda **_: terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with shown() as display:
        display.begin("writing runs/a[/b]/record.json", 1)
        display.advance(1)
        display.note("kept in [draft]")
    assert "a[/b]" in heard.getvalue()
    assert "[draft]" in heard.getvalue()
