"""What an evaluation says while it attacks: which attack, on how many images, how far, and how long at most.

The time left is an upper bound. It takes every attack to be tried on every image that still stands with all the
passes that it may use, at the speed of the passes so far. An attack that does not say how many that are is judged
by what it took for other images; until it has taken something, no time is said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from memory_defense.contracts import (
    Attack,
    Averaging,
    FineProgress,
    Progress,
    Querying,
    Restarting,
    Rows,
    Stepping,
    needs_gradient,
    parts_of_attack,
    targets_of,
)
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.replay import Replay
from memory_defense.evaluation.state import State
from memory_defense.progress import Seldom, heard

GRADIENT_COST = 3
"""Forward passes that a forward and a backward pass cost together."""

_SETTLED_SECONDS = 1.0
"""Time of passes after which their speed is believed."""


def most_passes(attack: Attack, norm: str) -> int | None:
    """Return the most passes of one image that an attack makes, about; None where it does not say.

    Parameters
    ----------
    attack
        Its `steps`, `queries`, `restarts`, `targets`, `samples` and parts tell.
    norm
        ``linf`` or ``l2``, which may decide on the parts.
    """
    parts = parts_of_attack(attack, norm)
    if "" not in parts:
        found = [most_passes(part, norm) for part in parts.values()]
        return None if None in found else sum(one or 0 for one in found)
    if isinstance(attack, Replay):
        return 1
    if isinstance(attack, Querying) and not needs_gradient(attack):
        return attack.queries
    if not isinstance(attack, Stepping):
        return None
    again = (attack.restarts if isinstance(attack, Restarting) else 1) * (targets_of(attack) or 1)
    averaged = attack.samples if isinstance(attack, Averaging) else 1
    return attack.steps * again * averaged * int(getattr(attack, "search_steps", 1)) + again


@dataclass
class Watch:
    """Says where the attacks of one evaluation are.

    Parameters
    ----------
    progress
        Receives it, if it is a `contracts.FineProgress`.
    cases
        All cases of the evaluation, in order.
    clock
        Current time in seconds.
    """

    progress: Progress | None
    cases: Sequence[Case]
    clock: Callable[[], float] = time.monotonic
    _at: int = 0
    _number: int = 0
    _ended: set[int] = field(default_factory=set[int])
    _images: tuple[int, int] = (0, 0)
    """Images that are done, and to do, of the case at hand."""
    _part: tuple[int, int] = (0, 0)
    """Images that the attack at hand works on, and their passes so far."""
    _after: float | None = None
    """Cost of what comes after the part at hand, in forward passes; None if unknown."""
    _cost: float = 0.0
    _seconds: float = 0.0
    _since: float = 0.0

    @contextmanager
    def part(self, state: State, position: int, rows: Rows, start: int, count: int) -> Generator[None]:
        """Run a block that tries the case at `position` on `count` of these rows, beginning with row `start`."""
        if not isinstance(self.progress, FineProgress):
            yield
            return
        self._at, self._images, self._part = position, (start, len(rows)), (count, 0)
        self._after = self._cost_after(state, position, len(rows) - start - count)
        seldom, self._since, before = Seldom(self.progress, self.clock), self.clock(), self._cost
        each = GRADIENT_COST if needs_gradient(self.cases[position].attack) else 1

        def listen(images: int) -> None:
            self._part = (count, self._part[1] + images)
            self._cost = before + each * self._part[1]
            seldom(self._told)

        try:
            with heard(listen):
                yield
        finally:
            self._seconds += self.clock() - self._since

    def end(self, position: int) -> None:
        """Say that the case will not be tried on any image any more."""
        self._ended.add(position)

    def _told(self) -> tuple[str, float]:
        case, (done, wanted), (count, passes) = self.cases[self._at], self._images, self._part
        most = self._most(self._at)
        of_most = "" if most is None else f" of at most {max(most * count, passes):,}"
        text = f"{described(case)}, {done:,}/{wanted:,} images done"
        text += "" if count == wanted else f", {count:,} of them at work"
        return f"{text}, {passes:,}{of_most} image passes", self._left()

    def _left(self) -> float:
        """Return the seconds that all attacks may still take; infinity while there is too little to go by."""
        count, passes = self._part
        most, seconds = self._most(self._at), self._seconds + self.clock() - self._since
        if most is None or self._after is None or self._cost == 0 or seconds < _SETTLED_SECONDS:
            return math.inf
        each = GRADIENT_COST if needs_gradient(self.cases[self._at].attack) else 1
        return (each * max(most * count - passes, 0) + self._after) * seconds / self._cost

    def _cost_after(self, state: State, position: int, rest: int) -> float | None:
        """Return the most that comes after this part: the case's other `rest` images, and the other cases."""
        found = 0.0
        for other, case in enumerate(self.cases):
            if other in self._ended:
                continue
            one = state.cases[other]
            stands = state.inside(case.ball).robust if case.purpose == "cascade" else state.correct
            images = rest if other == position else int((stands & ~one.done).sum())
            most = self._most(other)
            if most is None and one.done.any():
                cost = (one.forward + (GRADIENT_COST - 1) * one.backward) / int(one.done.sum())
            elif most is None:
                return None
            else:
                cost = most * (GRADIENT_COST if needs_gradient(case.attack) else 1)
            found += images * cost
        return found

    def _most(self, position: int) -> int | None:
        case = self.cases[position]
        return most_passes(case.attack, case.ball.norm)


def described(case: Case) -> str:
    """Return which attack, with which knowledge, in which ball."""
    return f"{case.name}, {case.knowledge}, {case.ball.norm} {case.ball.epsilon:.4g}"
