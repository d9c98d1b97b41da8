"""Making several rows of a table at once, each in a process of its own.

Small networks gain little from a second thread, so two cores make two rows in about the time of one. A row's
numbers do not depend on what is made beside it. Rows that need the same classifier are kept apart until one of them
has trained it; where nothing else is left to do, one waits for the other at its lock.
"""

from __future__ import annotations

import math
import multiprocessing
import queue
import signal
import time
import traceback
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Protocol

import torch

from memory_defense.contracts import Progress
from memory_defense.data.images import Splits
from memory_defense.progress import duration

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 120.0
"""Time for stopped rows to reach their next whole step; a row killed after it loses little."""
_NOTE, _AT, _DONE, _WRONG, _FAILED = "note", "at", "done", "wrong", "failed"


class RowSource(Protocol):
    """From a dataset's name to its splits, in whichever process asks; it must survive pickling."""

    def __call__(self, name: str, /) -> Splits:
        """Return the splits."""
        ...


class RowWork(Protocol):
    """One row, to be made in any process; it must survive pickling."""

    @property
    def label(self) -> str:
        """Name of the row in messages."""
        ...

    def shares(self) -> Collection[Path]:
        """Return the files that are still missing which both this and another row would make."""
        ...

    def make(self, data: RowSource, progress: Progress | None) -> object:
        """Make the row, unless it is made."""
        ...


class RowError(ChildProcessError):
    """A row's process ended before its row was made."""


@dataclass
class _Relay:
    """Progress in a worker: sent to the parent; ends the work when the parent wants it or is gone."""

    messages: Any
    stop: Event
    label: str
    what: str = ""
    total: int = 1
    done: int = 0

    def begin(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, max(total, 1), 0

    def advance(self, steps: int, text: str = "") -> None:
        parent = multiprocessing.parent_process()
        if self.stop.is_set() or (parent is not None and not parent.is_alive()):
            raise KeyboardInterrupt
        self.done += steps
        status = f", {text}" if text else ""
        self.messages.put((_AT, self.label, f"{self.label}: {self.what} {self.done}/{self.total}{status}"))

    def tell(self, text: str, left: float | None = None) -> None:
        self.advance(
            0, text if left is None or left == math.inf else f"{text}, at most about {duration(left)} left"
        )

    def note(self, text: str) -> None:
        self.messages.put((_NOTE, self.label, text if self.label in text else f"{self.label}: {text}"))


def _make(work: RowWork, data: RowSource, threads: int, messages: Any, stop: Event) -> None:
    """Make one row in a worker; errors are sent to the parent."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # these may reach every process of a job; the parent says when
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    torch.set_num_threads(threads)
    try:
        work.make(data, _Relay(messages, stop, work.label))
    except KeyboardInterrupt:
        messages.cancel_join_thread()  # nobody listens, and a killed worker may hold the queue's lock for ever
    except (ValueError, OSError) as error:
        messages.put((_WRONG, work.label, str(error)))
    except Exception:
        messages.put((_FAILED, work.label, traceback.format_exc()))
    else:
        messages.put((_DONE, work.label, ""))


@dataclass(frozen=True, kw_only=True)
class RowPool:
    """Number of rows made at once, and of threads that each may use.

    Raises
    ------
    ValueError
        For fewer than one of either.
    """

    processes: int
    threads: int = 1

    def __post_init__(self) -> None:
        if self.processes < 1 or self.threads < 1:
            raise ValueError(f"{self.processes} processes of {self.threads} threads make nothing; give 1 or more")

    def make(self, works: Sequence[RowWork], data: RowSource, progress: Progress | None = None) -> None:
        """Make all of `works`, the first ones first as far as they need not wait for each other.

        Parameters
        ----------
        works
            Each is pickled, and made by a new process.
        data
            Called in the new processes; download before.
        progress
            Receives how far the work is. When it raises in `advance`, as on Ctrl-C, the rows stop at their next
            whole step; what is done of them stays.

        Raises
        ------
        ValueError
            For a row's own ValueError or OSError, such as a full disk; the other rows are stopped.
        RowError
            If a row failed otherwise, or its process was killed.
        """
        _PoolRun(self, data, progress).run(list(works))


@dataclass
class _PoolRun:
    """The rows of one call that wait, run and are done."""

    pool: RowPool
    data: RowSource
    progress: Progress | None
    running: dict[str, tuple[RowWork, BaseProcess]] = field(default_factory=dict[str, tuple[RowWork, BaseProcess]])
    ended: set[str] = field(default_factory=set[str])

    def run(self, waiting: list[RowWork]) -> None:
        context = multiprocessing.get_context("spawn")
        messages, stop = context.Queue(), context.Event()
        if self.progress:
            self.progress.begin("rows", len(waiting))
        try:
            while waiting or self.running:
                while waiting and len(self.running) < self.pool.processes:
                    work = self._next(waiting)
                    worker = context.Process(
                        target=_make, args=(work, self.data, self.pool.threads, messages, stop)
                    )
                    worker.start()
                    self.running[work.label] = (work, worker)
                self._receive(messages)
                self._collect_ended(messages)
        finally:
            stop.set()
            patience = time.monotonic() + _PATIENCE_SECONDS
            for _, worker in self.running.values():
                while worker.is_alive():
                    self._discard(messages)
                    worker.join(_POLL_SECONDS)
                    if time.monotonic() > patience:
                        worker.kill()
            messages.close()

    def _next(self, waiting: list[RowWork]) -> RowWork:
        """Take the first row that makes nothing which a running one is to make, or the first of all."""
        taken = {path for work, _ in self.running.values() for path in work.shares()}
        free = (at for at, work in enumerate(waiting) if taken.isdisjoint(work.shares()))
        return waiting.pop(next(free, 0))

    def _receive(self, messages: Any) -> None:
        """Handle every message sent so far; wait a moment if there is none."""
        wait = _POLL_SECONDS
        while True:
            try:
                kind, label, text = messages.get(timeout=wait) if wait else messages.get_nowait()
            except queue.Empty:
                break
            wait = 0.0
            self._handle(kind, label, text)
        if self.progress:
            self.progress.advance(0)

    def _handle(self, kind: str, label: str, text: str) -> None:
        if kind == _WRONG:
            raise ValueError(text)
        if kind == _FAILED:
            raise RowError(f"{label} failed:\n{text}")
        if kind == _DONE:
            self.ended.add(label)
        if self.progress is None:
            return
        if kind == _DONE:
            self.progress.advance(1, f"{label}: done")
        elif kind == _AT:
            self.progress.advance(0, text)
        else:
            self.progress.note(text)

    def _collect_ended(self, messages: Any) -> None:
        """Forget the workers that ended; the last message of one may still be under way."""
        for label, (_, worker) in list(self.running.items()):
            if worker.is_alive():
                continue
            worker.join()
            self._receive(messages)
            if label not in self.ended:
                raise RowError(
                    f"{label}: its process ended with status {worker.exitcode}; give the same command again, which "
                    "resumes it"
                )
            del self.running[label]

    def _discard(self, messages: Any) -> None:
        """Empty the queue, since a worker does not end while it has messages to send."""
        try:
            while True:
                messages.get_nowait()
        except queue.Empty:
            return
