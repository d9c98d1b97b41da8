"""The course of a cascade: which images each case is tried on, with attacks whose success is known beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memory_defense.evaluation.cascade import BLOCK_IMAGES, BLOCKS, Cascade
from memory_defense.evaluation.cases import Case, Role
from memory_defense.evaluation.state import Attempt, State
from memory_defense.ranks import Ranks
from memory_defense.threat import Linf
from memory_defense.wrappers import Passes

COUNT = 1000
BALL = Linf(0.1)


@dataclass(frozen=True)
class Planned:
    """What a case will do: the ids it breaks, the lead it leaves on the others, and what an image costs."""

    breaks: Callable[[Tensor], Tensor]
    lead: Callable[[Tensor], Tensor] = lambda ids: -ids.float()
    cost: int = 10
    gradient_free: bool = False


def run(*plan: tuple[Role, Planned], wrong: int = 0) -> tuple[State, list[list[int]], tuple[int, ...]]:
    """Run a cascade over images 0..COUNT-1; return its state, the ids each case was tried on, and the order."""
    cases = [
        Case(
            name=f"case {number}",
            attack=_as_attack(one),
            knowledge="end-to-end",
            ball=BALL,
            purpose="cascade",
            role=role,
        )
        for number, (role, one) in enumerate(plan)
    ]
    images, ids = torch.zeros(COUNT, 1, 1, 1), torch.arange(COUNT)
    state = State.blank(images, torch.zeros(COUNT, dtype=torch.int64), ids, cases)
    state.start(ids >= wrong, -ids.float())
    tried: list[list[int]] = [[] for _ in plan]

    def attack(position: int, rows: Tensor) -> None:
        one = plan[position][1]
        tried[position] += rows.tolist()
        fooled = one.breaks(rows)
        lead = torch.where(fooled, 1.0, one.lead(rows))
        passes = Passes(forward=one.cost * len(rows))
        attempt = Attempt(images[rows], fooled, fooled, lead, torch.zeros(len(rows)), passes, 0.0, 0)
        state.add(position, rows, attempt, torch.full((len(rows),), -1))

    order = Cascade(state, cases, range(len(cases)), attack, Ranks(), seed=0, ended=lambda _: None).run()
    return state, tried, order


def _as_attack(planned: Planned) -> Any:
    return planned


def nobody(ids: Tensor) -> Tensor:
    return torch.zeros_like(ids, dtype=torch.bool)


def test_main_cases_see_what_stands_and_nothing_twice() -> None:
    state, tried, order = run(
        ("main", Planned(lambda ids: ids % 2 == 0)), ("main", Planned(lambda ids: ids % 3 == 0)), wrong=10
    )
    assert order == (0, 1)
    assert tried[0] == list(range(10, COUNT))
    assert tried[1] == [one for one in range(10, COUNT) if one % 2]
    assert state.broken[0].robust.tolist() == [one >= 10 and one % 2 != 0 and one % 3 != 0 for one in range(COUNT)]


def test_it_stops_when_nothing_stands() -> None:
    _, tried, _ = run(("main", Planned(lambda ids: ids >= 0)), ("main", Planned(nobody)))
    assert tried[1] == []


def test_the_scout_that_breaks_most_for_its_passes_goes_first() -> None:
    _, tried, order = run(
        ("scout", Planned(lambda ids: ids % 4 == 0, cost=10)), ("scout", Planned(lambda ids: ids % 5 == 0, cost=1))
    )
    assert order == (1, 0)
    assert sorted(tried[1]) == list(range(COUNT))
    assert len(set(tried[0])) == len(tried[0]) < COUNT, "what the first broke, the second saw on the pilot at most"


def test_a_scout_that_breaks_nothing_new_on_the_pilot_is_left_there() -> None:
    state, tried, order = run(
        ("scout", Planned(lambda ids: ids % 2 == 0)),
        ("scout", Planned(lambda ids: ids % 4 == 0)),
        ("main", Planned(nobody)),
    )
    assert order == (0, 1, 2)
    assert 30 < len(tried[1]) < 110, "the pilot alone"
    assert "nothing new" in state.cases[1].note


def test_outward_begins_with_the_nearest_and_stops_after_a_tenth_without_success() -> None:
    size = max(BLOCK_IMAGES, math.ceil(COUNT / BLOCKS))
    reach = 2 * size + 5  # the third block still holds some, the fourth and the fifth none
    state, tried, _ = run(("outward", Planned(lambda ids: ids < reach)))
    assert tried[0] == list(range(5 * size))
    assert "stopped" in state.cases[0].note
    assert not state.broken[0].robust[:reach].any()
    assert state.broken[0].robust[reach:].all()


def test_outward_goes_past_a_block_without_success() -> None:
    size = max(BLOCK_IMAGES, math.ceil(COUNT / BLOCKS))
    state, tried, _ = run(("outward", Planned(lambda ids: (ids < 5) | (ids == 2 * size + 1))))
    assert tried[0] == list(range(5 * size))
    assert not bool(state.broken[0].robust[2 * size + 1])


def test_with_few_survivors_one_block_without_success_is_a_tenth() -> None:
    _, tried, _ = run(("main", Planned(lambda ids: ids >= 200)), ("outward", Planned(nobody)))
    assert tried[1] == list(range(BLOCK_IMAGES))


def test_nearness_is_the_best_lead_of_all_attacks_before() -> None:
    size = max(BLOCK_IMAGES, math.ceil(COUNT / BLOCKS))
    backwards = Planned(nobody, lead=lambda ids: ids.float() - 500)  # later images come nearest to breaking
    _, tried, _ = run(("main", backwards), ("outward", Planned(nobody)))
    best = torch.maximum(-torch.arange(COUNT).float(), torch.arange(COUNT).float() - 500)
    assert set(tried[1]) == set(best.argsort(descending=True, stable=True)[: 2 * size].tolist())


def test_without_gradients_a_sample_decides_wherever_it_stands() -> None:
    everywhere = Planned(lambda ids: ids % 7 == 0, gradient_free=True)
    _, tried, _ = run(("outward", everywhere))
    assert sorted(tried[0]) == list(range(COUNT)), "what breaks on the sample is carried to every survivor"
    _, tried, _ = run(("outward", Planned(nobody, gradient_free=True)))
    size = max(BLOCK_IMAGES, math.ceil(COUNT / BLOCKS))
    assert 2 * size + 20 < len(set(tried[0])) < 2 * size + 90
    assert len(tried[0]) == len(set(tried[0]))


def test_equal_leads_stay_together() -> None:
    same = Planned(nobody, lead=lambda ids: torch.zeros(len(ids)))
    _, tried, _ = run(("main", same), ("outward", Planned(nobody)))
    assert len(tried[1]) == COUNT, "nobody is nearer than anybody else"
