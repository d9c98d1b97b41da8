"""The time that all parts of a long work will take, from the speed of what was done: a display that says it.

A hardening attacks, trains and attacks again. Each part says what it takes by itself; here they are added up, with
the parts that have not begun, each judged by measured speed: steps and scores of a training by those so far,
attacks by the time of a pass and by how many images the held-out ones promise to stand. What an evaluation does
around its attacks, each check of its audit by itself, is judged by what it took the first time, and before that by
`BEFORE` and `BEHIND`.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from memory_defense.contracts import FineProgress
from memory_defense.progress import BETWEEN, duration

BEFORE: Mapping[str, float] = {
    "beginning": 500,
    "looking at what the answers depend on": 3000,
    "measuring whether an answer depends on its batch": 10_000,
    "asking the model about the clean images": 1500,
    "timing passes of several sizes": 1500,
}
"""What the stages of an evaluation take before its attacks, in forward passes of an image, until they were timed:
as they were on 500 images of 224 pixels and a small network."""
BEHIND: Mapping[str, float] = {
    "after attacking": 2000,
    "noise": 4500,
    "chance": 500,
    "iterative": 500,
    "deterministic": 700,
    "randomised": 700,
    "equivariant": 400,
    "meaningless": 1000,
    "company": 800,
    "zero-cross-entropy": 1600,
    "zero-margin": 1500,
    "many-draws": 6500,
    "binarisation": 9000,
    "order": 2000,
    "clock": 300,
    "unseen": 1000,
    "jumps": 1700,
    "half-way": 500,
    "held": 3000,
}
"""The same of the stages behind its attacks, each check of the audit by its name. A missing one took hardly any."""

_SCORE = re.compile(r"held-out score ([\d.e+-]+)")
_CHECK = re.compile(r"auditing, check \d+ of \d+, (.+)")
_FIRST_STEPS = 3
"""Steps of a training after which their speed is believed."""
_ATTACKS = "attacking"
"""Stage of the attacks themselves, which `Expecting` judges."""
_BELIEVED = 0.1
"""Share of an audit after which its own speed is believed."""
_RAN = 0.02
"""Share of its expected time below which a stage is taken not to have run."""


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
    slower: float = 1.0
    """How long a forward pass of what is attacked takes, in those of the classifier as it was."""
    audited: bool = True
    """Whether its attacks are those of an evaluation, with an audit behind them."""


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
        self._around = dict(BEFORE), dict(BEHIND)
        self._enter()

    def _enter(self) -> None:
        now = self.clock()
        self._began = self._mark = now
        self._here, self._here_began, self._behind = "beginning", now, False
        self._took: tuple[dict[str, float], dict[str, float]] = {}, {}
        self._left: float | None = None
        self._done, self._base, self._counting = 0, 0, False
        self._stepping = self._scoring = 0.0
        self._scores = 0

    def part(self, name: str) -> None:
        """Begin a part; those before it that were not begun need not be done."""
        if self._behind:
            self._keep()
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
        else:
            self._next(what)
        self._stage, self._text = what, ""
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
        self.rate = rate / self.parts[self._at].slower
        self._left = cost * rate

    def left(self) -> float:
        """Return the seconds that everything may still take, about."""
        if self._at < 0:
            return math.inf
        later = sum(self._whole(one) for one in self.parts[self._at + 1 :])
        return self._of_this() + later

    def _whole(self, one: Part) -> float:
        passes = one.cost(self._hardened)
        if one.steps:
            passes += one.scores * one.score_cost
        elif one.audited:
            passes += sum(sum(some.values()) for some in self._around)
        return passes * one.slower * self.rate

    def _next(self, what: str) -> None:
        """End the stage of an evaluation at hand, and begin another."""
        now = self.clock()
        if self._here == _ATTACKS:
            self._behind = True
        else:
            took = self._took[self._behind]
            took[self._here] = took.get(self._here, 0.0) + now - self._here_began
        check = _CHECK.search(what)
        self._here = check[1] if check else what if what != BETWEEN else f"after {self._here}"
        self._here_began = now

    def _keep(self) -> None:
        """Take what the stages of this evaluation took for what they take, if they ran."""
        self._next("")
        seconds = self.rate * self.parts[self._at].slower
        for some, took in zip(self._around, self._took, strict=True):
            pace = sum(took.values()) / max(sum(some.get(name, 0.0) for name in took), 1.0)
            ran = {name: one for name, one in took.items() if one > _RAN * some.get(name, 0.0) * pace}
            some |= {name: one / seconds for name, one in ran.items()}

    def _of_this(self) -> float:
        one = self.parts[self._at]
        if one.steps:
            return self._of_training(one)
        if not one.audited:
            elapsed = self.clock() - self._began
            return max(one.cost(self.survive) * one.slower * self.rate - elapsed, 1.0)
        behind = self._of_stages(one, behind=True)
        if self._behind:
            return max(behind, 1.0)
        if self._left is not None:
            return self._left + behind
        before = 0.0 if self._here == _ATTACKS else self._of_stages(one, behind=False)
        return before + one.cost(self.survive) * one.slower * self.rate + behind

    def _of_stages(self, one: Part, *, behind: bool) -> float:
        """Return what the stages before or behind an evaluation's attacks will take that have not ended."""
        costs, took, seconds = self._around[behind], self._took[behind], one.slower * self.rate
        done = [name for name in took if took[name] > _RAN * costs.get(name, math.inf) * seconds]
        if (expected := sum(costs[name] for name in done)) > _BELIEVED * sum(costs.values()):
            seconds = sum(took[name] for name in done) / expected
        left = sum(cost for name, cost in costs.items() if name not in took and name != self._here) * seconds
        here = costs.get(self._here, 0.0) * seconds if behind == self._behind else 0.0
        return left + max(here - (self.clock() - self._here_began), 0.0)

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
