"""Progress for people: bars with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

PLAIN_SECONDS = 15.0
"""Least time between two plain lines of one stage."""


class Shown(Protocol):
    """A `contracts.Progress` that is on show."""

    def begin(self, what: str, total: int) -> None:
        """Start a stage."""
        ...

    def advance(self, steps: int, text: str = "") -> None:
        """Count steps; raise KeyboardInterrupt when Ctrl-C was pressed meanwhile."""
        ...

    def note(self, text: str) -> None:
        """Say one line."""
        ...


class _Interrupts:
    """Turns the first Ctrl-C into an exception at the next whole step, the second into one at once."""

    def __init__(self) -> None:
        self.pressed = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True

    def check(self) -> None:
        if self.pressed:
            raise KeyboardInterrupt


class _Plain:
    """One line at each stage's start, then at most one every few seconds."""

    def __init__(self, interrupts: _Interrupts) -> None:
        self._interrupts = interrupts
        self._what, self._total, self._done, self._started, self._last = "", 1, 0, 0.0, 0.0

    def begin(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, max(total, 1), 0
        self._started = self._last = time.monotonic()

    def advance(self, steps: int, text: str = "") -> None:
        self._interrupts.check()
        self._done += steps
        now = time.monotonic()
        if now - self._last >= PLAIN_SECONDS and self._done:
            left = (now - self._started) / self._done * (self._total - self._done)
            said = f", {text}" if text else ""
            self.note(f"  {self._what} {self._done}/{self._total}, about {left:.0f} s left{said}")
            self._last = now

    def note(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


class _Rich:
    """One live bar for the current stage; notes scroll above it."""

    def __init__(self, bars: Bars, interrupts: _Interrupts) -> None:
        self._bars, self._interrupts = bars, interrupts
        self._task = bars.add_task("starting", total=None, said="")

    def begin(self, what: str, total: int) -> None:
        self._bars.reset(self._task, total=total, description=what, said="")

    def advance(self, steps: int, text: str = "") -> None:
        self._interrupts.check()
        if text:
            self._bars.update(self._task, advance=steps, said=text)
        else:
            self._bars.update(self._task, advance=steps)

    def note(self, text: str) -> None:
        self._bars.console.print(text, highlight=False, markup=False)


class _Silent:
    """Shows nothing; another process of the same work does."""

    def __init__(self, interrupts: _Interrupts) -> None:
        self._interrupts = interrupts

    def begin(self, what: str, total: int) -> None:
        del what, total

    def advance(self, steps: int, text: str = "") -> None:
        del steps, text
        self._interrupts.check()

    def note(self, text: str) -> None:
        del text


@contextmanager
def shown(*, silent: bool = False) -> Generator[Shown]:
    """Yield a progress display on standard error, with Ctrl-C made safe for the time it is up."""
    interrupts = _Interrupts()
    before = signal.signal(signal.SIGINT, interrupts.handle)
    console = Console(stderr=True)
    try:
        if silent:
            yield _Silent(interrupts)
            return
        if not console.is_terminal:
            yield _Plain(interrupts)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}", markup=False),
        )
        with Bars(*columns, console=console, transient=True) as bars:
            yield _Rich(bars, interrupts)
    finally:
        signal.signal(signal.SIGINT, before)
