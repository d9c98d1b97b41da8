"""Progress displays: bars with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

PLAIN_SECONDS = 15.0
"""Least time between two plain lines of one stage, in seconds."""


class Display:
    """A `contracts.Progress` that shows nothing; the base of those that do.

    The first Ctrl-C becomes a KeyboardInterrupt at the next whole step, the second one at once.
    """

    def __init__(self) -> None:
        self._pressed = False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT."""
        del number, frame
        if self._pressed:
            raise KeyboardInterrupt
        self._pressed = True

    def begin(self, what: str, total: int) -> None:
        """Start a stage of so many steps."""

    def advance(self, steps: int, text: str = "") -> None:
        """Count steps; raise KeyboardInterrupt if Ctrl-C was pressed meanwhile."""
        del steps, text
        if self._pressed:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        """Show a line."""


class _Plain(Display):
    """One line at each stage's start, then at most one every few seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.begin("", 1)

    def begin(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, max(total, 1), 0
        self._started = self._last = time.monotonic()

    def advance(self, steps: int, text: str = "") -> None:
        super().advance(steps)
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


class _Rich(Display):
    """One live bar for the current stage; notes scroll above it."""

    def __init__(self, bars: Bars) -> None:
        super().__init__()
        self._bars, self._task = bars, bars.add_task("starting", total=None, said="")

    def begin(self, what: str, total: int) -> None:
        self._bars.reset(self._task, total=total, description=what, said="")

    def advance(self, steps: int, text: str = "") -> None:
        super().advance(steps)
        said: dict[str, Any] = {"said": text} if text else {}
        self._bars.update(self._task, advance=steps, **said)

    def note(self, text: str) -> None:
        self._bars.console.print(text, highlight=False, markup=False)


@contextmanager
def shown(*, silent: bool = False) -> Generator[Display]:
    """Yield a progress display on standard error; while it is up, Ctrl-C stops at a whole step."""
    console = Console(stderr=True)
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}", markup=False),
        console=console,
        transient=True,
    )
    live = console.is_terminal and not silent
    display = Display() if silent else _Rich(bars) if live else _Plain()
    before = signal.signal(signal.SIGINT, display.interrupt)
    try:
        with bars if live else nullcontext():
            yield display
    finally:
        signal.signal(signal.SIGINT, before)
