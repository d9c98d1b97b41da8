"""One computation at a time, each with a ticket that stops it: at a deadline, or once nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from memory_defense.contracts import Classifier, Images, Logits, Rows
from memory_defense.wrappers import rows_of

_Result = TypeVar("_Result")

THREAD = "studio"
"""What the worker's thread is called, and a number."""

POLL_SECONDS = 0.1
"""Interval at which a waiting request checks whether its page still wants the answer."""


class StoppedError(Exception):
    """Nobody waits for this computation any more."""


class TooSlowError(Exception):
    """A computation took longer than one may."""


class BusyError(Exception):
    """Too many computations are waiting already."""


@dataclass
class Ticket:
    """The right to compute for a while.

    Parameters
    ----------
    seconds
        Allowed from `begin` on.
    """

    seconds: float
    _deadline: float = field(default=float("inf"), init=False)
    _cancelled: threading.Event = field(default_factory=threading.Event, init=False)

    def begin(self) -> None:
        """Start the clock; raise StoppedError when the ticket was cancelled meanwhile."""
        self._deadline = time.monotonic() + self.seconds
        self.check()

    def cancel(self) -> None:
        """Make the next `check` raise; safe from any thread."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise StoppedError when cancelled, TooSlowError when the time is over."""
        if self._cancelled.is_set():
            raise StoppedError
        if time.monotonic() > self._deadline:
            raise TooSlowError(
                f"the computation was stopped after {self.seconds:g} s, the most that one may take here; "
                "choose fewer steps, restarts or queries, or a cheaper attack"
            )


@dataclass(frozen=True)
class Watched:
    """A classifier that looks at a ticket before every pass, which is how an attack in progress is stopped."""

    model: Classifier
    ticket: Ticket

    def __call__(self, images: Images) -> Logits:
        """Return the model's logits; raise what `Ticket.check` raises."""
        self.ticket.check()
        return self.model(images)

    def rows(self, index: Rows) -> Watched:
        """Return the classifier for these rows, watched by the same ticket."""
        return Watched(rows_of(self.model, index), self.ticket)


class Workshop:
    """A single worker thread with a short queue: results never depend on what runs beside them.

    Parameters
    ----------
    seconds
        Time limit of one computation.
    waiting
        Largest number of computations that run or wait; more are refused.
    """

    def __init__(self, *, seconds: float, waiting: int = 16) -> None:
        self.seconds = seconds
        self.waiting = waiting
        self._inside = 0
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=THREAD)

    async def run(self, job: Callable[[Ticket], _Result], gone: Callable[[], Awaitable[bool]]) -> _Result:
        """Return what the job returns.

        Parameters
        ----------
        job
            Runs in the worker's thread and passes its ticket on to everything that takes long.
        gone
            Called now and then; true once nobody waits for the result.

        Raises
        ------
        BusyError
            If the queue is full.
        StoppedError
            If nobody waits any more.
        TooSlowError
            If the time is over. An exception of the job is raised here, too.
        """
        if self._inside >= self.waiting:
            raise BusyError(f"{self._inside} computations are waiting already; try again in a few seconds")
        self._inside += 1
        ticket = Ticket(self.seconds)
        future = asyncio.get_running_loop().run_in_executor(self._pool, _started, job, ticket)
        future.add_done_callback(self._left)
        try:
            while True:
                done, _ = await asyncio.wait({future}, timeout=POLL_SECONDS)
                if done:
                    return future.result()
                if await gone():
                    raise StoppedError
        finally:
            ticket.cancel()

    def _left(self, future: asyncio.Future[_Result]) -> None:
        self._inside -= 1
        with contextlib.suppress(asyncio.CancelledError):
            future.exception()  # marks it as seen, also where nobody waits

    def close(self) -> None:
        """Take no more jobs; the running one ends with its ticket."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _started(job: Callable[[Ticket], _Result], ticket: Ticket) -> _Result:
    ticket.begin()
    return job(ticket)
