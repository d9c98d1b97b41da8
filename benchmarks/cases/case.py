"""A case: a situation, what is right in it, and how each toolkit is asked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from cases.observe import Observation, Seen, Verdict, watch


@dataclass(frozen=True)
class Case:
    """One situation."""

    name: str
    kind: str
    """The kind of trouble that it is a sample of."""
    situation: str
    """What the user has, in a sentence."""
    oracle: str
    """What is right, and how that is known."""
    helps: str
    """What a refusal has to name."""
    ask: Callable[[str], list[Observation]]
    """Of a toolkit's name, what came of every way of asking."""


def absent(reason: str) -> list[Observation]:
    """Return the one observation that is not measured: the toolkit has nothing to ask."""
    return [Observation("", Verdict.ABSENT, reason)]


def command(*arguments: object) -> Seen:
    """Return what ``memdef`` did with these arguments, in this process; its value is the exit status 0."""
    from memory_defense.cli import main

    def run() -> int:
        before, sys.argv = sys.argv, ["memdef", *map(str, arguments)]
        try:
            main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            sys.argv = before
        return 0

    seen = watch(run)
    if seen.value:
        lines = [line for line in seen.said.splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("error:")]
        seen.error, seen.plain = (said or lines or [f"exit status {seen.value}"])[-1], True
    elif seen.error:
        seen.plain = False
    return seen
