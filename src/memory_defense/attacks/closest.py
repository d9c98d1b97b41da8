"""The closest image found so far, for attacks that minimise the distance.

An iterate is judged by the logits of the pass that its gradient needs anyway; the closest one is judged once more
before it is returned. An image for which nothing is found inside the ball comes back unchanged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch

from memory_defense.attacks.engine import Victim, check_settings, column, put
from memory_defense.contracts import Ball, Images, Labels, Logits, PerImage, Rows
from memory_defense.losses import margin

TRANSFER_CONFIDENCE = 5.0
"""The lead in logits that ``for_transfer`` asks for at least."""

ROUNDING = 1e-5
"""Lead over the confidence, relative to the largest logit, that survives judging in another batch."""


def check_search(
    confidence: float, micro_batch: int | None, shares: dict[str, float], lengths: dict[str, float], **counts: int
) -> None:
    """Raise ValueError for a share outside (0, 1), a length that is not positive, or a count below 1."""
    check_settings("margin", micro_batch, **counts)
    if not 0 <= confidence < math.inf:
        raise ValueError(f"confidence is {confidence}, expected a lead in logits of at least 0")
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ValueError(f"{name} is {share}, expected a share strictly between 0 and 1")
    for name, length in lengths.items():
        if not 0 < length < math.inf:
            raise ValueError(f"{name} is {length}, expected a positive number")


@dataclass(frozen=True, kw_only=True)
class SmallestChange:
    """Base of the attacks that minimise the distance to the clean image."""

    def closest(self, victim: Victim, clean: Images, ball: Ball) -> Closest:
        """Return an empty `Closest` with those of its options that the attack has."""
        return Closest(victim, clean, ball, **{name: one for name, one in vars(self).items() if name in _OPTIONS})

    def for_transfer(self) -> Self:
        """Return the same attack asking for a lead of `TRANSFER_CONFIDENCE`, or else the largest there is."""
        return replace(self, confidence=max(vars(self)["confidence"], TRANSFER_CONFIDENCE), best_effort=True)


_OPTIONS = ("confidence", "targeted", "best_effort", "stop_when_fooled")


class Closest:
    """The closest image found for every row of the set, and with `best_effort` the most fooling one.

    Parameters
    ----------
    victim
        The model and the labels.
    clean
        (N, C, H, W) in [0, 1].
    ball
        Its norm measures distances; what lies outside its radius is not returned.
    confidence, targeted, best_effort, stop_when_fooled
        See `memory_defense.attacks`.
    """

    def __init__(
        self,
        victim: Victim,
        clean: Images,
        ball: Ball,
        *,
        confidence: float = 0.0,
        targeted: bool = False,
        best_effort: bool = False,
        stop_when_fooled: bool = False,
    ) -> None:
        self.victim, self.clean, self.ball = victim, clean, ball
        self.confidence, self.targeted, self.stop_when_fooled = confidence, targeted, stop_when_fooled
        self.best = clean.clone()
        self.distance = clean.new_full((len(clean),), math.inf)
        self.boldest = clean.clone() if best_effort else None
        self.boldest_lead = clean.new_full((len(clean),), -math.inf)
        self._tried = victim.all_rows()

    def start(self) -> tuple[Rows, Logits]:
        """Record the clean images; return the rows that do not fool the model yet, and all logits (N, K)."""
        parts = list(self.victim.parts(self._tried))
        seen = [self.victim.answers(self.clean[part], part) for part in parts]
        for part, logits in zip(parts, seen, strict=True):
            self.record(self.clean[part], part, logits)
        self._tried = self._tried[self.distance.isinf()]
        return self._tried, torch.cat(seen)

    def reach(self) -> PerImage:
        """Return (N,) the largest distance to search: the box's farthest corner; with `best_effort`, the radius."""
        far = self.ball.distance(torch.maximum(self.clean, 1 - self.clean), torch.zeros_like(self.clean))
        return far if self.boldest is None else far.clamp_(max=self.ball.epsilon)

    def lead(self, logits: Logits, labels: Labels) -> PerImage:
        """Return (B,) the lead of the wrong (or the target) class minus the confidence asked for."""
        lead = margin(logits, labels)
        return (-lead if self.targeted else lead) - self.confidence

    def record(self, points: Images, rows: Rows, logits: Logits) -> PerImage:
        """Remember the images that are closer or bolder; return (B,) bool, which ones lead by the confidence."""
        lead = self.lead(logits, self.victim.labels[rows])
        fooled = (lead > 0) & (lead >= ROUNDING * logits.abs().amax(1))
        self.keep_closest(points, rows, fooled, self.ball.distance(points, self.clean[rows]))
        if self.boldest is not None:
            self.keep_boldest(points, rows, self.ball.contains(points, self.clean[rows]), lead)
        return fooled

    def keep_closest(self, points: Images, rows: Rows, fooled: PerImage, distance: PerImage) -> None:
        """Remember those among the images that fool the model which are closer than the known ones."""
        closer = fooled & (distance < self.distance[rows])
        put(self.best, rows, closer, points)
        put(self.distance, rows, closer, distance)

    def keep_boldest(self, points: Images, rows: Rows, inside: PerImage, lead: PerImage) -> None:
        """Remember those among the images inside the ball that lead by more than the known ones."""
        if self.boldest is not None:
            bolder = inside & (lead > self.boldest_lead[rows])
            put(self.boldest, rows, bolder, points)
            put(self.boldest_lead, rows, bolder, lead)

    def merge(self, other: Closest, rows: Rows, images: Rows) -> None:
        """Take over what another search found in its `rows`, which are the `images` of this one."""
        everyone = torch.ones_like(rows, dtype=torch.bool)
        self.keep_closest(other.best[rows], images, everyone, other.distance[rows])
        if other.boldest is not None:
            self.keep_boldest(other.boldest[rows], images, everyone, other.boldest_lead[rows])

    def unfinished(self, rows: Rows) -> Rows:
        """Return the rows that still need work."""
        if not self.stop_when_fooled:
            return rows
        distance = self.distance[rows]
        return rows[distance.isinf() | (distance > self.ball.epsilon)]  # in an unbounded ball inf is not outside

    def result(self) -> Images:
        """Return the closest images that lie inside the ball, judged once more as they are returned."""
        inside = self.distance <= self.ball.epsilon
        return self.judged(inside, self._tried[inside[self._tried]])

    def judged(self, inside: PerImage, rows: Rows) -> Images:
        """Return the closest images of those that lie `inside` (N,) bool, after judging these rows once more."""
        for part in self.victim.parts(rows):
            inside[part] &= self.lead(self.victim.answers(self.best[part], part), self.victim.labels[part]) > 0
        return torch.where(column(inside), self.best, self.clean if self.boldest is None else self.boldest)
