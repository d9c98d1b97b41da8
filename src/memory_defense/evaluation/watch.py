"""What an evaluation says while it attacks: which attack, on how many images, how far, and how long at most.

The time left is an upper bound. It takes every attack to be tried on every image that still stands with all the
passes that it may use, at the speed of the passes so far. An attack that does not say how many that are is judged
by what it took for other images; until it has taken something, no time is said.

Who adds up several works hears what is expected, too (`Expecting`): images that an attack breaks stop early,
scouts that find nothing new stay with the pilot, and outward attacks end where they break none. How many images
stand at the end decides most of it, and is a guess until they were attacked.

A stopped evaluation loses what the attack at hand did to its images. Where an answer does not depend on its batch,
so that any chunk gives the same verdicts, the speed of passes chooses how many they are (`Chunks`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch

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
from memory_defense.evaluation.cascade import BLOCK_IMAGES, BLOCKS, PILOT_IMAGES, SAMPLE_IMAGES
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.pixels import Pixels, chunk_for
from memory_defense.evaluation.replay import Replay
from memory_defense.evaluation.state import State
from memory_defense.progress import Seldom, heard

GRADIENT_COST = 3
"""Forward passes that a forward and a backward pass cost together."""

EARLY = 0.25
"""Share of its passes that an attack takes for an image that it breaks, about."""
_OUTWARD_BLOCKS = 2.5
"""Blocks that an outward attack tries, about."""

KEPT_SECONDS = 40.0
"""Time that the attack at hand takes for its images, about, before they are kept."""

_SETTLED_SECONDS = 1.0
"""Time of passes after which their speed is believed."""


def most_passes(attack: Attack, norm: str) -> int | None:
    """Return the most passes of one image that an attack makes, about; None where it does not say.

    Parameters
    ----------
    attack
        Its `steps`, `queries`, `restarts`, `targets`, `among`, `samples` and parts tell.
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
    chosen = int(getattr(attack, "among", None) or 0)  # targets are chosen from so many, by a pass each
    return attack.steps * again * averaged * int(getattr(attack, "search_steps", 1)) + again + chosen


@runtime_checkable
class Expecting(Protocol):
    """A display that wants to know what is expected, beside what it takes at most."""

    survive: float
    """The share of the images that will stand in the end, as far as anybody can tell."""

    def expect(self, cost: float, rate: float) -> None:
        """Hear what is left of the attacks in forward passes of an image, and the seconds of one so far."""
        ...


def passes_of(case: Case) -> float:
    """Return the cost of a case for an image that stands, in forward passes; 0 where the attack does not say."""
    most = most_passes(case.attack, case.ball.norm) or 0
    return most * (GRADIENT_COST if needs_gradient(case.attack) else 1)


def opening(images: float, survive: float) -> float:
    """Return how many images' whole passes an attack takes that is the first to see them."""
    return images * (survive + (1 - survive) * EARLY)


def following(case: Case, standing: float) -> float:
    """Return how many images' whole passes a case takes that comes after the first attack on all of them."""
    if case.purpose != "cascade" or case.role == "main":
        return standing
    if case.role == "scout":
        return min(standing, PILOT_IMAGES)
    sample = 0 if needs_gradient(case.attack) else SAMPLE_IMAGES
    return min(standing, _OUTWARD_BLOCKS * max(BLOCK_IMAGES, standing / BLOCKS) + sample)


def expected_cost(cases: Sequence[Case], images: int, survive: float) -> float:
    """Return the forward passes that an evaluation of so many images, all right, takes, about."""
    total, opened = 0.0, set[tuple[str, float]]()
    for case in cases:
        ball = case.ball.norm, case.ball.epsilon
        if case.purpose != "cascade":
            whole = opening(images, survive)
        elif ball in opened:
            whole = following(case, images * survive)
        else:
            whole = opening(images, survive)
            opened.add(ball)
        total += whole * passes_of(case)
    return total


@dataclass
class Chunks:
    """Chooses the images of a chunk by the speed of the passes so far.

    Parameters
    ----------
    chunk
        Images at most, before their size counts (`pixels.chunk_for`).
    granule
        What passes are a multiple of; None where an answer may depend on its batch, and then no clock is asked.
    """

    chunk: int
    granule: int | None
    _cost: float = 0.0
    _seconds: float = 0.0

    def took(self, forward: int, backward: int, seconds: float) -> None:
        """Hear of the image passes that something made, and of its time."""
        self._cost += forward + (GRADIENT_COST - 1) * backward
        self._seconds += seconds

    def size(self, case: Case, images: Pixels) -> int:
        """Return the images of the next chunk of a case, at least a granule."""
        most, passes = chunk_for(images, self.chunk), most_passes(case.attack, case.ball.norm)
        if self.granule is None or passes is None or self._cost == 0:
            return most
        each = passes * (GRADIENT_COST if needs_gradient(case.attack) else 1) * self._seconds / self._cost
        fits = min(most, int(KEPT_SECONDS / max(each, 1e-9)))
        return max(fits - fits % self.granule, min(self.granule, most))


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
    _expected: tuple[float, float] = (0.0, 0.0)
    """Cost of the part at hand, and of what comes after it, as it is expected, in forward passes."""
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
        self._expected = self._expected_with(state, position, len(rows) - start - count)
        seldom, self._since, before = Seldom(self.progress, self.clock), self.clock(), self._cost
        each = GRADIENT_COST if needs_gradient(self.cases[position].attack) else 1

        def listen(images: int) -> None:
            self._part = (count, self._part[1] + images)
            self._cost = before + each * self._part[1]
            self._expect(each * self._part[1])
            seldom(self._told)

        try:
            with heard(listen):
                yield
        finally:
            self._seconds += self.clock() - self._since

    def only(self, positions: Sequence[int]) -> None:
        """Say which cases are tried now; no other counts for the time that is left."""
        self._ended = set(range(len(self.cases))) - set(positions)

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

    def _expect(self, spent: float) -> None:
        """Tell a display that wants to know what is left, as it is expected, and how fast passes are."""
        seconds = self._seconds + self.clock() - self._since
        if isinstance(self.progress, Expecting) and seconds >= _SETTLED_SECONDS:
            at_hand, after = self._expected
            self.progress.expect(max(at_hand - spent, 0.0) + after, seconds / self._cost)

    def _expected_with(self, state: State, position: int, rest: int) -> tuple[float, float]:
        """Return the expected cost of the part at hand, and of its case's other images and the cases after it."""
        if not isinstance(self.progress, Expecting):
            return 0.0, 0.0
        case, count, survive = self.cases[position], self._part[0], self.progress.survive
        stands = state.inside(case.ball).robust if case.purpose == "cascade" else state.correct
        standing, seen = int(stands.sum()), torch.zeros_like(stands)
        for other, one in enumerate(state.cases):
            seen |= one.done & (self.cases[other].ball == case.ball)
        fresh = int((stands & ~seen).sum())  # attacked by nothing yet
        first = fresh > 0 and case.purpose == "cascade"
        standing_then = standing - fresh + survive * fresh
        at_hand = (opening(count, survive) if first else count) * passes_of(case)
        after = (opening(rest, survive) if first else rest) * passes_of(case)
        for other, one in enumerate(self.cases):
            if other == position or other in self._ended:
                continue
            done = int(state.cases[other].done.sum())
            whole = following(one, standing_then) if one.purpose == "cascade" else int(state.correct.sum())
            after += max(whole - done, 0.0) * passes_of(one)
        if first and rest == 0 and case.role == "scout":  # a pilot: the best of the scouts goes on with all others
            after += opening(max(fresh - count, 0), survive) * passes_of(case)
        return at_hand, after

    def _most(self, position: int) -> int | None:
        case = self.cases[position]
        return most_passes(case.attack, case.ball.norm)


def described(case: Case) -> str:
    """Return which attack, with which knowledge, in which ball."""
    return f"{case.name}, {case.knowledge}, {case.ball.norm} {case.ball.epsilon:.4g}"
