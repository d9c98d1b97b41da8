"""Stopping on Ctrl-C (SIGINT), SIGTERM and SIGHUP: at the next whole step, with a saved state; twice, at once.

The first signal is remembered. While long work runs (`patiently`), it looks for that itself after every pass of a
model, and ends by a KeyboardInterrupt; elsewhere that is raised at once. A pass in foreign code may take minutes,
for which Python's own handlers wait. So a thread of its own hears the signals as well: it answers, and on the
second one it ends the process, which leaves no half-written file behind.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

SAME_WISH_SECONDS = 1.0
"""Signals within this time are one wish: a terminal, a scheduler and a parent may each send theirs."""

ANSWER_SECONDS = 1.0
"""Time for Python to answer a signal before the thread does."""

PARENT = "MEMDEF_PARENT"
"""Environment variable with the process that started this one among several, and whose end is its own."""


@dataclass
class Wish:
    """The wish to stop, of this process."""

    number: int | None = None
    """The first signal; None while there is none."""
    patient: bool = False
    """Whether somebody looks at `check`."""
    since: float = 0.0
    answered: bool = False
    children: list[Any] = field(default_factory=list[Any])
    """Child processes that a second signal kills."""

    def take(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal."""
        del frame
        again = self.number is not None
        if again and time.monotonic() - self.since < SAME_WISH_SECONDS:
            return
        if not again:
            self.number, self.since = number, time.monotonic()
        if self.patient and not again:
            self.answer(number)
            return
        raise KeyboardInterrupt

    def answer(self, number: int) -> None:
        """Say that the signal was heard; never through the display, which may hold its lock."""
        if not self.answered:
            self.answered = True
            name = signal.Signals(number).name
            with suppress(OSError):
                os.write(2, f"\n{name}: stopping at the next whole step; once more stops at once\n".encode())

    def check(self) -> None:
        """Raise KeyboardInterrupt where somebody wishes to stop, or where the process that started this is gone."""
        if self.number is not None or _orphaned():
            raise KeyboardInterrupt


wish = Wish()
"""The only one: signals belong to the process."""


@contextmanager
def heard() -> Generator[Wish]:
    """Run a block in which signals are a wish to stop; afterwards their handlers are as before.

    A SIGHUP that is ignored, as nohup has it, stays so. Outside the main thread nothing is changed.
    """
    before: dict[int, Any] = {}
    if signal.getsignal(signal.SIGINT) != wish.take:  # nobody has listened yet
        wish.number, wish.answered = None, False
    if threading.current_thread() is threading.main_thread():
        ignored = {one for one in SIGNALS if one != signal.SIGINT and signal.getsignal(one) == signal.SIG_IGN}
        before = {one: signal.signal(one, wish.take) for one in SIGNALS if one not in ignored}
    try:
        yield wish
    finally:
        for one, handler in before.items():
            signal.signal(one, handler if handler is not None else signal.SIG_DFL)


@contextmanager
def patiently() -> Generator[Wish]:
    """Run a block of long work, which calls `Wish.check` after its steps."""
    before = wish.patient
    with heard(), _listening():
        wish.patient = True
        try:
            yield wish
        finally:
            wish.patient = before


@contextmanager
def _listening() -> Generator[None]:
    """Run a block beside a thread that hears signals also while the interpreter cannot handle them."""
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread = threading.Thread(target=_listen, args=(reading,), name="memdef signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)  # which ends the thread
        thread.join()
        os.close(reading)


def _listen(reading: int) -> None:
    """Answer the first signal where Python does not, and end the process on the second; end with the pipe."""
    first, number = math.inf, 0
    while True:
        came = _next(reading, None if first == math.inf or wish.answered else ANSWER_SECONDS)
        if came == 0:
            return
        if came is None:
            wish.answer(number)
        elif first == math.inf:
            first, number = time.monotonic(), came
        elif time.monotonic() - first >= SAME_WISH_SECONDS:
            gently = time.monotonic() + ANSWER_SECONDS  # for Python's own handler
            while (rest := gently - time.monotonic()) > 0:
                if _next(reading, rest) == 0:
                    return
            _end(number)


def _next(reading: int, seconds: float | None) -> int | None:
    """Return the next signal of ours, 0 where the pipe was closed, None where none came in time."""
    while True:
        ready, _, _ = select.select([reading], [], [], seconds)
        if not ready:
            return None
        byte = os.read(reading, 1)
        if not byte or byte[0] in SIGNALS:
            return byte[0] if byte else 0


def _end(number: int) -> None:
    """End this process and those that it started, at once."""
    for child in (*wish.children, *multiprocessing.active_children()):
        with suppress(OSError, ValueError):
            child.kill()
    with suppress(OSError):
        shown = b"\x1b[?25h" if os.isatty(2) else b""  # a live line had hidden the cursor
        os.write(2, shown + b"stopped at once; what was saved before is kept\n")
    os._exit(128 + number)


def _orphaned() -> bool:
    parent = os.environ.get(PARENT, "")
    return parent.isdecimal() and os.name == "posix" and os.getppid() != int(parent)


def end_at_once_on_signals(status: int) -> None:
    """Let a signal that comes while the interpreter ends do that with this exit status, and not with its own."""

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        os._exit(status)

    if threading.current_thread() is threading.main_thread():
        for one in SIGNALS:
            signal.signal(one, end)


def quiet_end() -> None:
    """Leave standard output to nobody, so that the interpreter's last flush of a closed pipe says nothing."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
