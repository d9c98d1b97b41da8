"""What a toolkit did when it was asked, and the verdict that follows from it by rule."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

LONGEST = 190
"""Characters of what was observed that are kept."""


class Verdict(StrEnum):
    """From the best to the worst; of several ways of asking, the worst one counts."""

    RIGHT = "right"
    HELPS = "refused, message helps"
    SAID = "wrong, and says so"
    TRACEBACK = "refused, traceback"
    MISLEADS = "refused, wrong advice"
    SILENT = "says nothing for long"
    WRONG = "silently wrong"
    ABSENT = "no such feature"


ORDER = list(Verdict)


@dataclass
class Seen:
    """What one call did."""

    value: Any = None
    """What it returned."""
    error: str = ""
    """What it raised instead, with its type; or the last line of a command whose exit status was not 0."""
    plain: bool = True
    """False for a traceback out of a command, which should have been a message."""
    said: str = ""
    """Everything it wrote to standard output and standard error meanwhile: prints, warnings, log lines."""


@dataclass(frozen=True)
class Observation:
    """One way of asking, and what came of it."""

    form: str
    """The way of asking; empty where there is only one."""
    verdict: Verdict
    observed: str


@dataclass(frozen=True)
class Rule:
    """When an answer is right, and when a refusal helps: the same for every toolkit."""

    right: Callable[[Any], bool]
    """Of the returned value, whether it agrees with the oracle."""
    helps: str
    """Regular expression of what a message must name: the cause or the remedy, in a user's terms."""
    shown: Callable[[Any], str] = str
    """The value in words."""
    text: Callable[[Seen], str] = field(default=lambda seen: f"{seen.error} {seen.said}")
    """Where a message is looked for."""
    advice_works: Callable[[str], bool] = field(default=lambda _: True)
    """Of a message that helps, whether what it advises gives what is right."""


def watch(call: Callable[[], Any]) -> Seen:
    """Return what a call returned or raised, and what was written to both standard streams meanwhile."""
    seen = Seen()
    with _captured() as written:
        try:
            seen.value = call()
        except KeyboardInterrupt:
            seen.error = "stopped"
        except BaseException as error:
            seen.error = f"{type(error).__name__}: {error}"
    seen.said = written[0]
    return seen


def judged(form: str, seen: Seen, rule: Rule) -> Observation:
    """Return an observation with the verdict that the rule gives.

    A value that agrees with the oracle is right. Anything else that was said in the terms of the rule is a refusal
    that helps, or a wrong number that says so; what was not said so is a traceback, or silently wrong.
    """
    named = re.search(rule.helps, rule.text(seen), re.IGNORECASE) is not None
    if seen.error:
        verdict = Verdict.HELPS if named and seen.plain else Verdict.TRACEBACK
        if verdict is Verdict.HELPS and not rule.advice_works(rule.text(seen)):
            verdict = Verdict.MISLEADS
        return Observation(form, verdict, short(_told(seen, rule) if named else seen.error))
    if rule.right(seen.value):
        return Observation(form, Verdict.RIGHT, short(rule.shown(seen.value)))
    shown = rule.shown(seen.value)
    if named:
        return Observation(form, Verdict.SAID, short(f"{shown}; says: {_told(seen, rule)}"))
    return Observation(form, Verdict.WRONG, short(shown))


def worst(observations: list[Observation]) -> Observation:
    """Return the observation that counts for the case."""
    return max(observations, key=lambda one: ORDER.index(one.verdict))


def short(text: str) -> str:
    """Return a text on one line, without the folder it ran in, cut where it is too long."""
    for folder in {str(Path.cwd()), str(Path.cwd().resolve())}:
        text = text.replace(folder + "/", "").replace(folder, ".")
    text = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", text)  # what moves a terminal's cursor
    text = re.sub(r"(/[\w.+-]+)+/(site-packages|third_party)/", "", text)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3].rstrip()}..."


def _told(seen: Seen, rule: Rule) -> str:
    """Return the error if it matches, else the line that does."""
    for text in (seen.error, *seen.said.splitlines()):
        if re.search(rule.helps, text, re.IGNORECASE):
            return text if not seen.error or text == seen.error else f"{text.strip()} Then {seen.error}"
    return seen.error


@contextlib.contextmanager
def _captured() -> Iterator[list[str]]:
    """Send both streams of the process to a file; handlers made at import and compiled code are heard too."""
    found: list[str] = [""]
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield found
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in zip((1, 2), before, strict=True):
                os.dup2(old, number)
                os.close(old)
            file.seek(0)
            found[0] = file.read().decode(errors="replace").replace("\r", "\n")
