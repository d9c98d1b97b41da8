"""What attacks cost: the passes that one makes at most, and what an evaluation will take, about.

Images that an attack breaks stop early, scouts that find nothing new stay with the pilot, and outward attacks end
where they break none. How many images stand at the end decides most of it, and is a guess until they were attacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from memory_defense.contracts import (
    Attack,
    Averaging,
    Querying,
    Restarting,
    Stepping,
    needs_gradient,
    parts_of_attack,
    targets_of,
)
from memory_defense.evaluation.cascade import BLOCK_IMAGES, BLOCKS, PILOT_IMAGES, SAMPLE_IMAGES
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.replay import Replay

GRADIENT_COST = 3
"""Forward passes that a forward and a backward pass cost together."""

EARLY = 0.25
"""Share of its passes that an attack takes for an image that it breaks, about."""
_OUTWARD_BLOCKS = 1.5
"""Blocks that an outward attack tries, about."""


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
