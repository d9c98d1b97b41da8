"""Signs of life of long work: what is running, how far it is, and about how long it will take.

Whoever passes images through a model calls `beat`. A `stage` listens and tells a display, which is a
`contracts.FineProgress`. `Lines` is one, in plain lines; `LoggedProgress` writes them to Python's log, and
`PrintedProgress` to standard error. Clocks here decide when something is said, and nothing else.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

from memory_defense.contracts import FineProgress, Progress

EVERY_SECONDS = 15.0
"""Time between two lines, in seconds."""

TELL_SECONDS = 0.2
"""Least time between two calls of `tell`, so that a display costs nothing; in seconds."""

BETWEEN = "preparing what comes next"
"""What a display says after a stage, until the next one begins."""

_listener: ContextVar[Callable[[int], None] | None] = ContextVar("listener", default=None)


def beat(images: int) -> None:
    """Say that so many images went through a model; what listens may raise KeyboardInterrupt."""
    listener = _listener.get()
    if listener is not None:
        listener(images)


@contextmanager
def heard(listener: Callable[[int], None] | None) -> Generator[None]:
    """Run a block whose beats, with their numbers of images, go to `listener`; None hears nothing."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class Seldom:
    """A `tell` that passes on what is told a few times a second, and does not even ask for the text in between.

    Parameters
    ----------
    progress
        None, or a display that is no `contracts.FineProgress`, is told nothing.
    clock
        Current time in seconds.
    """

    def __init__(self, progress: Progress | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.progress = progress if isinstance(progress, FineProgress) else None
        self.clock = clock
        self._last = -math.inf

    def __call__(self, told: Callable[[], tuple[str, float | None]]) -> None:
        """Tell what `told` returns: a text, and the seconds left if they are known."""
        if self.progress is None:
            return
        now = self.clock()
        if now - self._last >= TELL_SECONDS:
            self._last = now
            self.progress.tell(*told())


@contextmanager
def stage(
    progress: Progress | None, what: str, total: int = 0, *, clock: Callable[[], float] = time.monotonic
) -> Generator[None]:
    """Run a block as a stage of its own that is told after every pass of a model, and can be stopped there.

    A display that is no `contracts.FineProgress` hears nothing of it.

    Parameters
    ----------
    progress
        The display.
    what
        Name of the stage.
    total
        Images that will go through a model, each time that one does; 0 if nobody knows.
    clock
        Current time in seconds.
    """
    if not isinstance(progress, FineProgress):
        yield
        return
    seldom, started, passed = Seldom(progress, clock), clock(), 0
    progress.begin(what, 0)

    def told() -> tuple[str, float | None]:
        if not total:
            return f"{passed:,} image passes", None
        left = None if passed >= total else (clock() - started) / passed * (total - passed)
        return f"{min(passed, total):,} of {total:,} image passes", left

    def listen(images: int) -> None:
        nonlocal passed
        passed += images
        if passed:
            seldom(told)

    with heard(listen):
        yield
    between(progress)


@contextmanager
def during(progress: Progress | None, what: str) -> Generator[None]:
    """Run a block, a part of a stage's step, that is told after every pass of a model, and can be stopped there."""
    seldom, passed = Seldom(progress), 0

    def listen(images: int) -> None:
        nonlocal passed
        passed += images
        seldom(lambda: (f"{what}, {passed:,} image passes", None))

    with heard(listen if seldom.progress is not None else None):
        yield


def between(progress: Progress | None) -> None:
    """Say that a stage is over and the next one not begun, so that no line speaks of what is done."""
    if isinstance(progress, FineProgress):
        progress.begin(BETWEEN, 0)


def duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 3 min 20 s, 2 h 05 min, 3 d 4 h."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    if minutes >= 10 or (minutes and not rest):
        return f"{minutes} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Pace:
    """Where one stage is, how long it has taken, and how long it may still take.

    Parameters
    ----------
    what, total
        As `contracts.Progress.begin` has them.
    now
        Current time in seconds.
    """

    def __init__(self, what: str, total: int, now: float) -> None:
        self.what, self.total, self.done, self.text = what, total, 0, ""
        self._started = now
        self._from: tuple[float, int] | None = (
            None  # time and steps of the first `advance`: what a resumed work skips
        )
        self._inside = False  # whether the text is of a part of a step
        self._own = False  # whether the work has an estimate of its own, as its steps are not alike
        self._told: tuple[float, float] | None = None  # seconds left, and when that was said

    def advance(self, steps: int, text: str, now: float) -> None:
        """Count steps; an earlier estimate of the work itself no longer holds."""
        self.done += steps
        self.text = text or ("" if self._inside else self.text)
        self._told, self._inside = None, False
        if self._from is None:
            self._from = (now, self.done)

    def tell(self, text: str, left: float | None, now: float) -> None:
        """Take what the work says itself."""
        self.text, self._inside = text, True
        self._own = self._own or left is not None
        self._told = None if left is None else (left, now)

    def left(self, now: float) -> str:
        """Return the time left, in words; empty while there is nothing to go by, and at the end."""
        if self._own:
            seconds = math.inf if self._told is None else self._told[0] - (now - self._told[1])
            return f"at most about {duration(seconds)} left" if 1 <= seconds < math.inf else ""
        if self._from is None or not self._from[1] < self.done < self.total:
            return ""
        seconds = (now - self._from[0]) / (self.done - self._from[1]) * (self.total - self.done)
        return f"about {duration(seconds)} left" if seconds >= 1 else ""

    def line(self, now: float) -> str:
        """Return all of it in one line."""
        count = f" {self.done:,}/{self.total:,}" if self.total else f" {self.done:,}" if self.done else ""
        said = f"{self.what}{count}" + (f": {self.text}" if self.text else "")
        after = [f"{duration(now - self._started)} so far", self.left(now)]
        return ", ".join(one for one in (said, *after) if one)


class Lines:
    """A `contracts.FineProgress` in plain lines, at most one every few seconds, over all stages.

    Parameters
    ----------
    say
        Receives each line, without its end.
    every
        Seconds between two lines.
    clock
        Current time in seconds.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        every: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._every, self._clock = say, every, clock
        self._lock = threading.RLock()
        self._last = clock()
        self._pace = Pace("starting", 0, self._last)

    def begin(self, what: str, total: int) -> None:
        """Start a stage."""
        self.remind()
        with self._lock:
            self._pace = Pace(what, total, self._clock())

    def advance(self, steps: int, text: str = "") -> None:
        """Count steps."""
        with self._lock:
            self._pace.advance(steps, text, self._clock())
        self.remind()

    def tell(self, text: str, left: float | None = None) -> None:
        """Take where the work is now."""
        with self._lock:
            self._pace.tell(text, left, self._clock())
        self.remind()

    def note(self, text: str) -> None:
        """Say a line at once."""
        with self._lock:
            self._say(text)

    def remind(self) -> None:
        """Say where the work is, if the last time was long enough ago; safe from any thread."""
        with self._lock:
            now = self._clock()
            if now - self._last >= self._every:
                self._last = now
                self._say(f"  {self._pace.line(now)}")


class LoggedProgress(Lines):
    """A display that writes to Python's log: ``Options(progress=LoggedProgress())``.

    As long as the model is called, a line every `every` seconds says what is running, how far it is, how long it
    has taken and about how long it will; what is skipped, substituted or assumed is a line at once. All are of
    level INFO, so that nothing is shown until the calling program turns that on. Of the processes that torchrun
    started only the first writes.

    Parameters
    ----------
    every
        Seconds between two lines.
    log
        Logger to write to; ``memory_defense`` by default.
    clock
        Current time in seconds.

    Examples
    --------
    >>> import logging
    >>> logging.basicConfig(level=logging.INFO)  # doctest: +SKIP
    >>> quiet = LoggedProgress(every=60)

    Raises
    ------
    ValueError
        For a time that is not above 0.
    """

    def __init__(
        self,
        *,
        every: float = EVERY_SECONDS,
        log: logging.Logger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_every(every, "every")
        chosen = log or logging.getLogger("memory_defense")
        speaks = os.environ.get("RANK", "0") == "0"
        super().__init__(lambda text: chosen.info("%s", text.strip()) if speaks else None, every=every, clock=clock)


def _print(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class PrintedProgress(Lines):
    """A display that prints to standard error, a line every 15 seconds, in a terminal as in a notebook.

    Of the processes that torchrun started only the first prints.
    """

    def __init__(self) -> None:
        speaks = os.environ.get("RANK", "0") == "0"
        super().__init__(lambda text: _print(text) if speaks else None)


def check_every(seconds: float, name: str) -> None:
    """Raise ValueError unless this is a time above 0 at which something can be said again."""
    if not 0 < seconds < math.inf:
        raise ValueError(f"{name} is {seconds!r}, expected seconds above 0, such as {EVERY_SECONDS:g}")
