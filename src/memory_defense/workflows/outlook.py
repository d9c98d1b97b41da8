"""The time that all parts of a long work will take, from the speed of what was done: a display that says it.

A hardening attacks, trains and attacks again. Each part says what it takes by itself; here they are added up, with
the parts that have not begun, each judged by measured speed: steps and scores of a training by those so far,
attacks by the time of a pass and by how many images the held-out ones promise to stand, and what an evaluation does
around its attacks by what it took the first time.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memory_defense.contracts import FineProgress
from memory_defense.progress import duration

_SCORE = re.compile(r"held-out score ([\d.e+-]+)")
_CHECK = re.compile(r"auditing, check (\d+) of (\d+)")
_FIRST_STEPS = 3
"""Steps of a training after which their speed is believed."""
_AROUND, _AROUND_PASSES, _BEHIND = 0.3, 30_000, 0.6
"""What an evaluation does beside its attacks until one was timed: a share of those, and forward passes of an image,
in which its batches are measured and its numbers audited; and the share of it that comes behind the attacks."""


@dataclass
class Part:
    """One part of the work."""

    name: str
    cost: Callable[[float], float]
    """Forward passes of an image that it takes, from the share of images that stand."""
    steps: int = 0
    """Steps of a training; 0 for attacks."""
    scores: int = 0
    """Times that a training is scored."""
    score_cost: float = 0.0
    """Forward passes of one score."""


class Outlook:
    """A `contracts.FineProgress` that says which part is running, and about how long all of them will take.

    Parameters
    ----------
    shown
        Where it is said.
    parts
        What there is to do, in order.
    rate
        Seconds of a forward pass of one image, measured before anything began.
    survive
        Share of the images expected to stand in the end, before and after hardening.
    clock
        Current time in seconds.
    """

    def __init__(
        self,
        shown: FineProgress,
        parts: Sequence[Part],
        rate: float,
        survive: tuple[float, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shown, self.parts, self.rate, self.clock = shown, list(parts), rate, clock
        self.survive, self._hardened = survive
        self._at, self._text, self._stage = -1, "", ""
        self._around: list[tuple[float, float]] = []
        self._enter()

    def _enter(self) -> None:
        now = self.clock()
        self._began = self._mark = now
        self._attacking: float | None = None
        self._attacked: float | None = None
        self._left: float | None = None
        self._done, self._base, self._counting = 0, 0, False
        self._stepping = self._scoring = 0.0
        self._scores, self._steps = 0, (0, 0)

    def part(self, name: str) -> None:
        """Begin a part; those before it that were not begun need not be done."""
        if self._attacking is not None and self._attacked is not None:
            self._around.append((self._attacking - self._began, self.clock() - self._attacked))
        self._move(next(place for place, one in enumerate(self.parts) if one.name == name))

    def _move(self, place: int) -> None:
        self._at = place
        if self._at and not self.parts[self._at].steps:
            self.survive = self._hardened
        self._enter()
        self._tell(None)

    def begin(self, what: str, total: int) -> None:
        """Start a stage of the part."""
        if what == "training":
            ahead = [
                place for place in range(max(self._at, 0), len(self.parts)) if self.parts[place].steps == total
            ]
            if ahead and ahead[0] != self._at:
                self._move(ahead[0])
            self._mark = self._began = self.clock()
        elif what == "attacking":
            self._attacking = self.clock()
        elif self._attacking is not None and self._attacked is None:
            self._attacked = self.clock()
        self._stage, self._text = what, ""
        if found := _CHECK.search(what):
            self._steps = int(found[1]) - 1, int(found[2])
        self.shown.begin(f"{self._where()}{what}", total)

    def advance(self, steps: int, text: str = "") -> None:
        """Count steps."""
        if self._at >= 0 and self.parts[self._at].steps and self._stage == "training":
            now = self.clock()
            if not self._counting:  # the first says what was done before
                self._base, self._counting = steps, True
            else:
                self._stepping += now - self._mark
            self._done, self._mark = self._done + steps, now
        self.shown.advance(steps, text)
        self._tell(text or self._text)

    def tell(self, text: str, left: float | None = None) -> None:
        """Take where the part is; what it says of the time left alone gives way to that of everything."""
        del left
        self._tell(text)

    def note(self, text: str) -> None:
        """Show a line; a training's line of an epoch says its score, too."""
        if self._stage == "training" and text.startswith("epoch "):
            now = self.clock()
            if found := _SCORE.search(text):
                self._scoring += now - self._mark
                self._scores += 1
                if 0 <= (score := float(found[1])) <= 1:
                    self._hardened = score
            self._mark = now
        self.shown.note(text)

    def expect(self, cost: float, rate: float) -> None:
        """Hear what is left of the attacks at hand, and the speed of passes."""
        self.rate = rate
        self._left = cost * rate

    def left(self) -> float:
        """Return the seconds that everything may still take, about."""
        if self._at < 0:
            return math.inf
        later = sum(self._whole(one) for one in self.parts[self._at + 1 :])
        return self._of_this() + later

    def _whole(self, one: Part) -> float:
        seconds = one.cost(self._hardened) * self.rate
        if one.steps:
            return seconds + one.scores * one.score_cost * self.rate
        return seconds + sum(self._beside(seconds))

    def _beside(self, seconds: float) -> tuple[float, float]:
        """Return the time of an evaluation before its attacks, and behind them."""
        if self._around:
            return self._around[-1]
        guess = _AROUND * seconds + _AROUND_PASSES * self.rate
        return (1 - _BEHIND) * guess, _BEHIND * guess

    def _of_this(self) -> float:
        one, elapsed = self.parts[self._at], self.clock() - self._began
        if one.steps:
            return self._of_training(one)
        attacks = one.cost(self.survive) * self.rate
        before, behind = self._beside(attacks)
        if self._attacking is None:
            return max(before - elapsed, 0.0) + attacks + behind
        if self._attacked is not None:
            return self._of_steps() or max(behind - (self.clock() - self._attacked), 1.0)
        return (attacks if self._left is None else self._left) + behind

    def _of_steps(self) -> float:
        """Return the rest of the audit by its checks so far; 0 while there are none."""
        done, total = self._steps
        return (self.clock() - (self._attacked or 0.0)) * (total - done) / done if 0 < done < total else 0.0

    def _of_training(self, one: Part) -> float:
        made, now = self._done - self._base, self.clock()
        step = self._stepping / made if made >= _FIRST_STEPS else one.cost(0.0) * self.rate / one.steps
        score = self._scoring / self._scores if self._scores else one.score_cost * self.rate
        due = max(one.scores - one.scores * self._base // one.steps - self._scores, 0) * score
        if made and now - self._mark > 2 * step:  # inside a score
            due = max(due - (now - self._mark), 0.0)
        return (one.steps - self._done) * step + due

    def _where(self) -> str:
        return f"{self._at + 1} of {len(self.parts)}, {self.parts[self._at].name}: " if self._at >= 0 else ""

    def _tell(self, text: str | None) -> None:
        self._text = self._text if text is None else text
        left = self.left()
        said = f"about {duration(left)} left in all" if 1 <= left < math.inf else ""
        self.shown.tell(", ".join(one for one in (self._text, said) if one), math.inf)
