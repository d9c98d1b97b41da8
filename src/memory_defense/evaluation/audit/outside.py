"""Checks of what an answer depends on beside the image: earlier questions, the clock, files, and grey levels."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from inspect import isfunction
from typing import Any

from memory_defense.evaluation.audit.findings import Check, Findings, above, line, relative
from memory_defense.evaluation.doubts import LEARNED, ROUNDED, TOLD
from memory_defense.evaluation.elsewhere import held_open, watched_outside
from memory_defense.evaluation.record import AuditLine
from memory_defense.randomness import seeded
from memory_defense.wrappers.untouched import reached

_LATER = 100_003.0
"""Seconds by which the clock is put forward: more than a day, and no whole number of minutes."""

_CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time")
_SAME = 1e-3


def earlier_questions_change_nothing(findings: Findings) -> AuditLine:
    """What was asked before must not decide on an answer, wherever the model keeps it."""
    doubts = findings.doubts
    return above(
        "earlier questions change no answer",
        doubts.learned if doubts.kept is not None else None,
        LEARNED,
        "share of moved images that the model answers otherwise once it was asked about others than before its "
        "first question; it keeps what it is asked in attributes, lists, closures, classes or global names "
        f"({doubts.kept or 0} of them change while it answers). Where this fails, the attacks were made once more "
        "against the untouched model, and the numbers are that model's",
        "keep nothing of what is asked; an adversary asks a model that has not seen these images",
        "what the model was before its first answer was not written down; memory_defense.evaluate does that",
    )


def answers_come_from_nowhere_else(findings: Findings) -> AuditLine:
    """A file that is written while answering is memory that nobody can put back."""
    images, _ = findings.probe
    with watched_outside(reading=True) as heard:
        findings.logits((0.9 * images[:8].flip(3) + 0.05).clone())
    events = [*findings.doubts.outside, *heard, *held_open(findings.defense)]
    return above(
        "answering leaves files and networks alone",
        float(len(events)),
        0,
        "files written or read, connections made or held, and programs started while the model answers; what is "
        "kept there outlives every question, and nobody can put it back"
        + (f" ({', '.join(events[:3])})" if events else ""),
        "answer from the image alone; write logs outside of the model",
    )


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
    "outside": answers_come_from_nowhere_else,
    "clock": the_clock_decides_nothing,
    "levels": levels_are_not_told_apart,
}
"""Checks of what decides beside the image, in the order of the report."""
