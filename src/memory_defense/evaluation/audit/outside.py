"""Checks of what decides beside the image: earlier questions, their order, files, the clock, and grey levels.

What a model keeps in Python is written down before its first answer (`wrappers.untouched`). What it keeps anywhere
else, in a file, another process or a thread's own names, shows only in what it answers: the same images are asked
about first and last, and images that nobody asked about before are walked through forwards and backwards.
"""

from __future__ import annotations

import datetime
import io
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from inspect import isfunction
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from memory_defense.contracts import Ball, Images, Labels, PerImage
from memory_defense.evaluation.attempt import on_grid
from memory_defense.evaluation.audit.findings import (
    LEARNED,
    ROUNDED,
    TOLD,
    Check,
    Findings,
    above,
    line,
    relative,
)
from memory_defense.evaluation.metrics import predict
from memory_defense.evaluation.record import AuditLine
from memory_defense.foreign import watched_outside
from memory_defense.randomness import seeded
from memory_defense.wrappers.untouched import reached

_LATER = 100_003.0
"""Seconds by which the clock is put forward: more than a day, and no whole number of minutes."""

_CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time")
_SAME = 1e-3

_CONNECTED = frozenset(
    {
        "sqlite3",
        "socket",
        "queue",
        "_queue",
        "_socket",
        "mmap",
        "dbm",
        "_gdbm",
        "_dbm",
        "shelve",
        "subprocess",
        "multiprocessing",
    }
)


def earlier_questions_change_nothing(findings: Findings) -> AuditLine:
    """What was asked before must not decide on an answer, wherever the model keeps it."""
    doubts, later = findings.doubts, _answered_otherwise(findings)
    return above(
        "earlier questions change no answer",
        None if doubts.kept is None else max(doubts.learned, later),
        LEARNED,
        "share of moved images that the model answers otherwise once it was asked about others than before its "
        "first question, or than it did itself when it was asked first; it keeps what it is asked in attributes, "
        f"lists, closures, classes or global names ({doubts.kept or 0} of them change while it answers), or "
        "elsewhere. Where it is the former, the attacks were made once more against the untouched model, and the "
        "numbers are that model's",
        "keep nothing of what is asked; an adversary asks a model that has not seen these images",
        "what the model was before its first answer was not written down; memory_defense.evaluate does that",
    )


def _answered_otherwise(findings: Findings) -> float:
    """Return the share of the images asked about first of all that are answered otherwise now."""
    first = findings.doubts.first
    if first is None or findings.randomised:
        return 0.0
    images, logits = first
    now = findings.logits(images)
    if now.shape != logits.shape:
        return 1.0
    return float(((relative(logits, now) > _SAME) | (logits.argmax(1) != now.argmax(1))).float().mean())


_WAYS = 24
"""Ways of one round that are walked forwards, and as many backwards."""

_ROUNDS = 8
"""Rounds at most; another one is walked where those before it leave a doubt."""

_STEPS = 12
_RADII = 4
"""Length of a short way, in radii of the ball; a model that gets past an attack keeps at least one to each side."""

_HALVINGS = 12
_DOUBT, _SURE = 0.8, 4.0
"""Standard errors of a mean of symmetric differences up to which it is chance, and above which it is none."""

_FEWEST = 8


def the_order_changes_nothing(findings: Findings) -> AuditLine:
    """Who keeps what it was asked goes on answering so: where an answer changes depends on where one came from.

    Ways between two images that nobody asked about are walked forwards, and their negatives, mirrored, backwards;
    which of the two is drawn by lot for each, so that without a memory the differences are symmetric about 0.
    """
    check = "the order of questions changes no answer"
    meaning = (
        "how much longer, as a share of the way, the answer stays what it was at the end that was asked first, on "
        f"ways between two images that were never asked about; fails where the mean lies {_SURE:g} standard errors "
        "above 0, so that the model answers by what it was asked before, wherever it keeps that"
    )
    remedy = "keep nothing of what is asked; an adversary asks a model that has not seen these images"
    clean = findings.probe[0][:_WAYS]
    ball = next((one for one in findings.balls if one.epsilon > 0), None)
    if len(clean) < _FEWEST or ball is None:
        return line(check, None, None, meaning, remedy, "too few images, or no bounded ball that is no point")
    if why := findings.too_long(2 * _WAYS * (2 * _STEPS + _HALVINGS + 1)):
        return line(check, None, None, meaning, remedy, why)
    walked = [_walked(findings, ball, clean, near=near) for near in (False, True)]
    found = [one for one in walked if one is not None]
    if not found:
        return line(check, None, None, meaning, remedy, "the answer hardly changes on the way to other images")
    sure, share = max(found)
    return line(check, sure > _SURE, share, meaning, remedy)


def _walked(findings: Findings, ball: Ball, clean: Images, *, near: bool) -> tuple[float, float] | None:
    """Return the mean difference between both directions in standard errors, and in shares of the way.

    None where the answers on too few ways changed. Whole ways, or the short pieces in which the answer changes.
    """
    levels, differences = on_grid(clean), list[Tensor]()
    every, sure = clean.new_zeros(1), 0.0
    for number in range(near, 2 * _ROUNDS, 2):
        forth = findings.draws(f"order of questions {number}", len(clean)).uniform() < 0.5
        down, right = (clean.shape[side] // 2 + number for side in (2, 3))
        ends = clean.roll(down, 2), clean.roll(number + 1, 0).roll(right, 3)
        sides = [[torch.where(_column(side), one, 1 - one.flip(3)) for one in ends] for side in (forth, ~forth)]
        there, back = (_Ways(findings, ball, first, second, levels) for first, second in sides)
        differences.append(there.stays(near=near, backwards=False) - back.stays(near=near, backwards=True))
        every = torch.cat(differences)
        if int((every != 0).sum()) < _FEWEST:
            return None
        sure = float(every.sum() / every.square().sum().sqrt())
        if not _DOUBT < sure <= _SURE:
            break
    return sure, float(every.mean()) / 4


class _Ways:
    """Straight ways (N) between two images each, and the model that is asked along them.

    Parameters
    ----------
    findings
        Whose defense is asked.
    ball
        Its radius is the measure of a short way.
    starts, ends
        (N, C, H, W).
    levels
        Whether points are put at whole grey levels, as the images are.
    """

    def __init__(self, findings: Findings, ball: Ball, starts: Images, ends: Images, levels: bool) -> None:
        self.findings, self.starts, self.ends, self.levels = findings, starts, ends, levels
        self.low, self.high = torch.zeros(len(starts)), torch.ones(len(starts))
        self.short = _RADII * ball.epsilon / ball.distance(ends, starts).clamp_min(1e-9).cpu()

    def at(self, share: PerImage) -> Labels:
        """Return (N,) the answers at these shares of the ways."""
        points = torch.lerp(self.starts, self.ends, _column(share.to(self.starts)))
        if self.levels:
            points = (points * 255).round() / 255
        return predict(self.findings.defense, points).cpu()

    def stays(self, *, near: bool, backwards: bool) -> PerImage:
        """Return (N,) in [-1, 1] how many more steps are answered as the start is than as the end is."""
        if near:
            self._narrow()
        shares = torch.linspace(0, 1, _STEPS)
        order = range(_STEPS - 1, -1, -1) if backwards else range(_STEPS)
        answers = {step: self.at(self.low + (self.high - self.low) * shares[step]) for step in order}
        first, last = answers[0], answers[_STEPS - 1]
        given = torch.stack(list(answers.values()))  # (steps, N)
        return ((given == first).float() - (given == last).float()).mean(0)

    def _narrow(self) -> None:
        """Halve each way where its answer changes, until it is short."""
        first = self.at(self.low)
        for _ in range(_HALVINGS):
            long = self.high - self.low > self.short
            if not bool(long.any()):
                break
            middle = (self.low + self.high) / 2
            same = self.at(middle) == first
            self.low = torch.where(long & same, middle, self.low)
            self.high = torch.where(long & ~same, middle, self.high)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def answers_come_from_nowhere_else(findings: Findings) -> AuditLine:
    """A file that is written while answering is memory that nobody can put back."""
    images, _ = findings.probe
    with watched_outside(reading=True) as heard:
        findings.logits((0.9 * images[:8].flip(3) + 0.05).clone())
    events = [*findings.doubts.outside, *heard, *_held_open(findings.defense)]
    return above(
        "answering leaves files and networks alone",
        float(len(events)),
        0,
        "files written or read, connections or queues held, and programs started while the model answers; what is "
        "kept there outlives every question, and nobody can put it back"
        + (f" ({', '.join(events[:3])})" if events else ""),
        "answer from the image alone; write logs outside of the model",
    )


def _held_open(model: object) -> list[str]:
    """Return the connections, databases, queues and files open for writing that calling the model can reach."""
    found: list[str] = []
    for thing in reached(model):
        kind = type(thing)
        root = kind.__module__.partition(".")[0]
        writes = isinstance(thing, io.IOBase) and hasattr(thing, "name") and not thing.closed and thing.writable()
        writes = writes or (isinstance(thing, np.memmap) and cast("Any", thing).mode not in ("r", "c"))
        if root in _CONNECTED or writes:
            found.append(f"an open {kind.__name__}")
    return found


def the_clock_decides_nothing(findings: Findings) -> AuditLine:
    """An answer that depends on the time of day is another one for whoever asks later."""
    check = "the clock changes no answer"
    meaning = "share of images that are answered otherwise when the clock says that it is more than a day later"
    remedy = "take the clock away from the model"
    if findings.randomised:
        return line(check, None, None, meaning, remedy, "the answers change from call to call anyway")
    images, _ = findings.probe
    with seeded(findings.seed, "clock"):
        before = findings.logits(images)
    with clock_forward(findings.defense, _LATER), seeded(findings.seed, "clock"):
        after = findings.logits(images)
    changed = (relative(before, after) > _SAME) | (before.argmax(1) != after.argmax(1))
    return above(check, float(changed.float().mean()), 0, meaning, remedy)


def levels_are_not_told_apart(findings: Findings) -> AuditLine:
    """A file holds whole grey levels; a model that answers floats between them otherwise misleads every attack."""
    doubts, check = findings.doubts, "images between two grey levels are answered as those at whole ones"
    meaning = (
        "share of images that are answered, or whose gradient turns, between two levels of 1/255 as no smooth "
        "model could, or that were broken at whole levels and not as the attack had them; above "
        f"{TOLD} or {ROUNDED} the attacks were made once more at whole levels"
    )
    remedy = "round inside the model for every image alike, or not at all; believe what is found at whole levels"
    if doubts.levels is None and not doubts.rounded:
        why = "the images themselves are between two levels, or no attack follows a gradient"
        return line(check, None, None, meaning, remedy, why)
    if findings.randomised:
        return line(check, None, None, meaning, remedy, "the answers change from call to call anyway")
    levels = doubts.levels or 0.0
    failed = levels > TOLD or doubts.rounded > ROUNDED
    return line(check, failed, max(levels, doubts.rounded), meaning, remedy)


@contextmanager
def clock_forward(model: object, seconds: float) -> Generator[None]:
    """Run a block in which Python's clocks say that it is so much later, also for names that the model imported."""
    originals = {name: getattr(time, name) for name in _CLOCKS}
    later = {name: _later(one, seconds * (1e9 if name.endswith("_ns") else 1)) for name, one in originals.items()}
    replaced: dict[int, Any] = {id(one): later[name] for name, one in originals.items()}
    replaced[id(datetime.datetime)] = _datetime_later(seconds)
    undo: list[tuple[dict[str, Any], str, Any]] = []
    tables: list[dict[str, Any]] = [time.__dict__, datetime.__dict__]
    tables += [one.__globals__ for one in reached(model) if isfunction(one)]
    unique = {id(table): table for table in tables if str(table.get("__name__", "")).partition(".")[0] not in _OWN}
    try:
        for table in unique.values():
            for name, one in list(table.items()):
                if id(one) in replaced:
                    undo.append((table, name, one))
                    table[name] = replaced[id(one)]
        yield
    finally:
        for table, name, one in undo:
            table[name] = one


_OWN = frozenset({"torch", "memory_defense", "threading", "logging", "numpy"})


def _later(clock: Callable[[], Any], by: float) -> Callable[[], Any]:
    return lambda: clock() + type(clock())(by)


def _datetime_later(seconds: float) -> type:
    delta = datetime.timedelta(seconds=seconds)

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return datetime.datetime.fromtimestamp(original(), tz) + delta

        @classmethod
        def utcnow(cls) -> Any:
            return datetime.datetime.fromtimestamp(original(), datetime.UTC).replace(tzinfo=None) + delta

        @classmethod
        def today(cls) -> Any:
            return cls.now()

    original = time.time
    return Later


OUTSIDE_CHECKS: dict[str, Check] = {
    "learns": earlier_questions_change_nothing,
    "order": the_order_changes_nothing,
    "outside": answers_come_from_nowhere_else,
    "clock": the_clock_decides_nothing,
    "levels": levels_are_not_told_apart,
}
"""Checks of what decides beside the image, in the order of the report."""
