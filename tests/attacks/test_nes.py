"""NES: its budget, its probes, what they add up to, and models that hide their gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import victims
from memory_defense.attacks import Nes
from memory_defense.contracts import Ball, Classifier
from memory_defense.losses import margin
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.wrappers import CountingPasses

COUNT = 6
DRAWS = ImageDraws.of(0, "a", COUNT)
BALLS = pytest.mark.parametrize("ball", [Linf(0.1), L2(0.8)], ids=["linf", "l2"])


class Watched:
    """Keeps every batch that the model is called with."""

    def __init__(self, model: Classifier) -> None:
        self.model, self.calls = model, list[Tensor]()

    def __call__(self, images: Tensor) -> Tensor:
        self.calls.append(images.clone())
        return self.model(images)


def problem() -> tuple[CountingPasses, Tensor, Tensor]:
    model, clean = victims.mlp(), victims.images(COUNT)
    labels = victims.right_answers(model, clean)
    return CountingPasses(model), clean, labels


@pytest.mark.parametrize(("queries", "spent"), [(2, 0), (3, 3), (20, 17), (41, 41), (333, 328)])
@BALLS
def test_every_image_costs_whole_steps_within_its_budget(ball: Ball, queries: int, spent: int) -> None:
    """With 20 pairs a step costs 41; where that is more than there is, one step has fewer pairs."""
    model, clean, labels = problem()
    attack = Nes(queries=queries, pairs=20 if queries > 20 else 8, stop_when_fooled=False)
    costs = list[int]()
    for row in torch.arange(COUNT).split(1):
        attack(model, clean[row], labels[row], ball, DRAWS.rows(row))
        costs.append(model.passes.forward - sum(costs))
    assert costs == [spent + 2] * COUNT
    attack(model, clean, labels, ball, DRAWS)
    assert model.passes.forward == 2 * sum(costs)
    assert model.passes.backward == 0


def test_the_default_spends_nearly_all() -> None:
    model, clean, labels = problem()
    Nes(stop_when_fooled=False)(model, clean[:1], labels[:1], Linf(0.1), DRAWS.rows(torch.arange(1)))
    assert 4900 < model.passes.forward <= 5002


def test_images_that_are_fooled_cost_nothing_more() -> None:
    model, clean, labels = problem()
    found = Nes(queries=500, pairs=20)(model, clean, labels, Linf(1.0), DRAWS)
    assert bool((model.model(found).argmax(1) != labels).all())
    assert model.passes.forward < 250 * COUNT


@pytest.mark.parametrize(("ball", "length"), [(Linf(0.1), 0.04), (L2(0.8), 0.32)], ids=["linf", "l2"])
def test_probes_lie_on_both_sides_at_the_reach_that_was_asked_for(ball: Ball, length: float) -> None:
    model, clean = Watched(victims.mlp()), victims.images(1, low=0.45, high=0.55)
    labels = victims.right_answers(model.model, clean)
    attack = Nes(queries=201, pairs=100, reach=0.4, cells=1, stop_when_fooled=False)
    attack(model, clean, labels, ball, DRAWS.rows(torch.arange(1)))
    first, *probes = model.calls[1:-1]  # where it starts, and the probes of one step
    points = torch.cat(probes)[:200].unflatten(0, (100, 2))
    start = first[:1]
    assert bool(ball.contains(start, clean).all())
    torch.testing.assert_close(points.mean(1), start.expand(100, -1, -1, -1), atol=1e-6, rtol=0)
    offsets = (points[:, 0] - start).flatten(1)  # no probe meets 0 or 1
    assert float((points - 0.5).abs().max()) < 0.5
    typical = offsets.std() if ball.norm == "linf" else offsets.norm(dim=1).mean()
    assert float(typical) == pytest.approx(length, rel=0.04)


def in_cells(noise: Tensor, side: int) -> bool:
    cells = noise[..., ::side, ::side]
    whole = cells.repeat_interleave(side, -2).repeat_interleave(side, -1)
    return bool(((whole[..., : noise.shape[-2], : noise.shape[-1]] - noise).abs() < 1e-5).all())


class Bright(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3))
        return torch.stack([mean, 1 - mean], 1)


@pytest.mark.parametrize(
    ("size", "sides"), [(18, (4, 2, 2, 1, 1, 1, 1, 1)), (12, (3, 2, 2, 1, 1, 1, 1, 1)), (6, (1,) * 8)]
)
def test_noise_comes_in_cells_that_shrink_with_the_steps(size: int, sides: tuple[int, ...]) -> None:
    model, clean = Watched(Bright()), torch.full((1, 3, size, size), 0.7)
    attack = Nes(queries=9 * 8, pairs=4, reach=0.2, stop_when_fooled=False)
    attack(model, clean, torch.tensor([0]), Linf(0.1), DRAWS.rows(torch.arange(1)))
    for side, probes in zip(sides, model.calls[2::2], strict=True):
        pairs = probes[:8].unflatten(0, (4, 2))
        noise = pairs[:, 0] - pairs[:, 1]
        assert in_cells(noise, side)
        assert not in_cells(noise, side + 1)
        assert not bool((noise[:, 0] == noise[:, 1]).any()), "every channel has its own"
        assert not bool((noise[0] == noise[1]).any()), "and every pair"


@pytest.mark.parametrize(("size", "cells"), [(12, 1), (28, 1), (32, 1), (56, 2), (224, 8)])
def test_cells_grow_with_the_image(size: int, cells: int) -> None:
    model, clean = Watched(Bright()), torch.full((1, 1, size, size), 0.7)
    Nes(queries=3, reach=0.2)(model, clean, torch.tensor([0]), Linf(0.1), DRAWS.rows(torch.arange(1)))
    noise = model.calls[2][0] - model.calls[2][1]
    assert in_cells(noise, cells)
    assert not in_cells(noise, cells + 1)


def test_directions_approach_the_gradient() -> None:
    model, clean = victims.affine(classes=2), victims.images(COUNT, low=0.4, high=0.6)
    labels = victims.right_answers(model, clean)
    gradient = (model.weight[1 - labels] - model.weight[labels]).float()
    cosines = list[float]()
    for pairs in (5, 50, 2000):
        attack = Nes(queries=2 * pairs + 1, pairs=pairs, cells=1, reach=0.1, stop_when_fooled=False)
        watched = Watched(model)
        attack(watched, clean, labels, L2(0.5), DRAWS)
        start, stepped = watched.calls[1][:COUNT], watched.calls[-1][:COUNT]
        inward = stepped - start  # one step across the ball, then onto it, and the start is what it began with
        step = torch.cosine_similarity((inward + (start - clean)).flatten(1), gradient)
        cosines.append(float(step.mean()))
    assert cosines[0] < cosines[1] < cosines[2]
    assert cosines[2] > 0.8


@BALLS
def test_the_best_place_that_was_stood_at_is_returned(ball: Ball) -> None:
    counting, clean, labels = problem()
    model = Watched(counting.model)
    attack = Nes(queries=50, pairs=2, stop_when_fooled=False)
    result = attack(model, clean, labels, ball, DRAWS)
    stood = [model.calls[0], model.calls[1], *model.calls[3::2]]
    leads = torch.stack([margin(counting.model(call[:COUNT]), labels) for call in stood])
    assert len(leads) == 12
    torch.testing.assert_close(margin(counting.model(result), labels), leads.amax(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("micro_batch", [1, 7, 64])
def test_blocks_and_passes_change_no_result(micro_batch: int) -> None:
    model, clean, labels = problem()
    settings: dict[str, Any] = {"queries": 3 * 161, "pairs": 80, "stop_when_fooled": False}
    whole = Nes(**settings)(model, clean, labels, Linf(0.1), DRAWS)
    again = Nes(**settings, micro_batch=micro_batch)(model, clean, labels, Linf(0.1), DRAWS)
    torch.testing.assert_close(again, whole, atol=1e-6, rtol=0)


def test_one_image_fills_passes() -> None:
    counting, clean, labels = problem()
    model = Watched(counting.model)
    attack = Nes(queries=5 * 101, pairs=50, stop_when_fooled=False)
    attack(model, clean[:1], labels[:1], Linf(0.1), DRAWS.rows(torch.arange(1)))
    assert len(model.calls) == 2 + 5 * 2, "all probes of a step in one pass, and one for where it leads"


def test_what_no_probe_changes_is_left_where_it_was() -> None:
    model, clean = victims.Flat(), victims.images(COUNT)
    labels = torch.zeros(COUNT, dtype=torch.int64)
    assert torch.equal(Nes(queries=50, pairs=5)(model, clean, labels, Linf(0.1), DRAWS), clean)


def test_for_transfer_goes_on_to_the_largest_margin() -> None:
    model, clean, labels = problem()
    attack = Nes(queries=500, pairs=20)
    assert attack.for_transfer() == Nes(queries=500, pairs=20, stop_when_fooled=False)
    first = margin(model(attack(model, clean, labels, Linf(0.2), DRAWS)), labels)
    most = margin(model(attack.for_transfer()(model, clean, labels, Linf(0.2), DRAWS)), labels)
    assert bool((most > first)[first > 0].all())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"queries": 0}, "queries is 0"),
        ({"pairs": 0}, "pairs is 0"),
        ({"cells": 0}, "cells is 0"),
        ({"reach": 0.0}, "reach is 0.0"),
        ({"reach": math.inf}, "reach is inf"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"micro_batch": 0}, "micro_batch is 0"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Nes(**options)


def test_an_unbounded_ball_is_refused() -> None:
    model, clean, labels = problem()
    with pytest.raises(ValueError, match="must be bounded; give an epsilon"):
        Nes()(model, clean, labels, L2(math.inf), DRAWS)
