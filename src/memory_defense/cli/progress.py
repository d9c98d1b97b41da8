"""Progress displays: a live line on a terminal, plain lines every 15 seconds elsewhere; both on standard error."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from memory_defense.cli.stopping import Wish, patiently
from memory_defense.progress import EVERY_SECONDS, Lines, Pace, check_every, heard

EVERY = "MEMDEF_PROGRESS_SECONDS"
"""Environment variable with the seconds between two plain lines."""


class Display:
    """A `contracts.FineProgress` that shows nothing; the base of those that do.

    Parameters
    ----------
    wish
        The wish to stop; after a signal the next whole step, or pass of a model, raises KeyboardInterrupt.
    """

    def __init__(self, wish: Wish) -> None:
        self.wish = wish

    def begin(self, what: str, total: int) -> None:
        """Start a stage of so many steps."""

    def advance(self, steps: int, text: str = "") -> None:
        """Count steps; raise KeyboardInterrupt if somebody wishes to stop."""
        del steps, text
        self.wish.check()

    def tell(self, text: str, left: float | None = None) -> None:
        """Take where the work is; raise KeyboardInterrupt if somebody wishes to stop."""
        del text, left
        self.wish.check()

    def note(self, text: str) -> None:
        """Show a line."""

    def remind(self) -> None:
        """Show where the work is, if that is due."""

    def pass_made(self, images: int) -> None:
        """Hear of a pass that no stage listens to; raise KeyboardInterrupt if somebody wishes to stop."""
        del images
        self.wish.check()


class _Plain(Display):
    """Plain lines into a log."""

    def __init__(self, wish: Wish, every: float) -> None:
        super().__init__(wish)
        self._lines = Lines(_write, every=every)

    def begin(self, what: str, total: int) -> None:
        self._lines.begin(what, total)

    def advance(self, steps: int, text: str = "") -> None:
        self._lines.advance(steps, text)
        self.wish.check()

    def tell(self, text: str, left: float | None = None) -> None:
        self._lines.tell(text, left)
        self.wish.check()

    def note(self, text: str) -> None:
        self._lines.note(text)

    def remind(self) -> None:
        self._lines.remind()


class _Rich(Display):
    """One live line for the current stage; notes scroll above it."""

    def __init__(self, wish: Wish, bars: Bars) -> None:
        super().__init__(wish)
        self._bars, self._pace = bars, Pace("starting", 0, time.monotonic())
        self._task = bars.add_task("starting", total=None, said="")

    def begin(self, what: str, total: int) -> None:
        self._pace = Pace(what, total, time.monotonic())
        self._bars.reset(self._task, total=total or None, description=printable(what), said="")

    def advance(self, steps: int, text: str = "") -> None:
        self._pace.advance(steps, text, time.monotonic())
        self._show(steps)
        self.wish.check()

    def tell(self, text: str, left: float | None = None) -> None:
        self._pace.tell(text, left, time.monotonic())
        self._show(0)
        self.wish.check()

    def note(self, text: str) -> None:
        self._bars.console.print(printable(text), highlight=False, markup=False)

    def _show(self, steps: int) -> None:
        left = self._pace.left(time.monotonic())
        said = ", ".join(filter(None, (left, printable(self._pace.text))))
        self._bars.update(self._task, advance=steps, said=said)


def printable(text: str) -> str:
    """Return text without what could move a cursor or change a terminal's colours, such as a file's odd name."""
    return "".join(one if one.isprintable() or one == "\n" else "?" for one in text)


def _write(text: str) -> None:
    """Write a line at once. A log that is closed, or on a full disk, must not end the work that it is about."""
    with suppress(OSError, ValueError):
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()


def every_seconds() -> float:
    """Return the seconds between two plain lines: what the environment says, or 15.

    Raises
    ------
    ValueError
        For something that is no time above 0.
    """
    text = os.environ.get(EVERY, "")
    if not text:
        return EVERY_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    check_every(seconds, f"the environment variable {EVERY}")
    return seconds


@contextmanager
def shown(*, silent: bool = False, live: bool = True) -> Generator[Display]:
    """Yield a progress display on standard error; while it is up, a signal stops the work at a whole step.

    Parameters
    ----------
    silent
        Show nothing, as all but the first of several processes do.
    live
        Whether a terminal may get a live line; not where the results scroll through it meanwhile.
    """
    console, every = Console(stderr=True), every_seconds()
    bars = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}", markup=False),
        console=console,
        transient=True,
    )
    bar = live and not silent and console.is_terminal and not console.is_dumb_terminal and sys.stderr.isatty()
    with patiently() as wish:
        display = Display(wish) if silent else _Rich(wish, bars) if bar else _Plain(wish, every)
        with bars if bar else nullcontext(), _reminded(display, every), heard(display.pass_made):
            yield display


@contextmanager
def _reminded(display: Display, every: float) -> Generator[None]:
    """Run a block beside a thread that lets the display speak also while the work calls nothing of it."""
    over = threading.Event()

    def remind() -> None:
        while not over.wait(min(every, 1.0)):
            display.remind()

    thread = threading.Thread(target=remind, name="memdef progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
