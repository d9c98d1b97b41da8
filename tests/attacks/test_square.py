"""Square attack: its schedule, its search against closed forms, and what it spends."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import victims
from memory_defense.attacks import Apgd, Nes, Square
from memory_defense.attacks.square import L2Moves, LinfMoves, square_side
from memory_defense.contracts import Ball, Classifier
from memory_defense.losses import margin
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.wrappers import CountingPasses

COUNT = 12
EPSILON = 0.2
BALLS = pytest.mark.parametrize("ball", [Linf(0.1), L2(0.8)], ids=["linf", "l2"])


class Watched:
    """Keeps every batch the model is called with, without the images that only fill it up."""

    def __init__(self, model: Classifier, count: int = COUNT) -> None:
        self.model, self.count, self.calls = model, count, list[Tensor]()

    def __call__(self, images: Tensor) -> Tensor:
        self.calls.append(images[: self.count].clone())
        return self.model(images)


def problem() -> tuple[CountingPasses, Tensor, Tensor, ImageDraws]:
    model, clean = victims.mlp(), victims.images(COUNT)
    return CountingPasses(model), clean, victims.right_answers(model, clean), ImageDraws.of(0, "a", COUNT)


def test_the_squares_shrink_on_the_fixed_schedule() -> None:
    sides = {
        **{0: 25, 10: 25, 11: 18, 50: 18, 51: 13, 200: 13, 201: 9, 500: 9, 501: 6, 1000: 6},
        **{1001: 4, 2000: 4, 2001: 3, 4000: 3, 4001: 2, 6000: 2, 6001: 2, 8000: 2, 8001: 1, 10**6: 1},
    }
    assert {query: square_side(0.8, query, 28, 28) for query in sides} == sides
    assert square_side(1.0, 0, 4, 100) == 4
    assert square_side(0.01, 0, 5, 5) == 1


@BALLS
def test_a_square_stays_only_where_it_raises_the_margin(ball: Ball) -> None:
    counting, clean, labels, draws = problem()
    model = Watched(counting.model)
    attack = Square(queries=150, ahead=1).for_transfer()
    result = attack(model, clean, labels, ball, draws)
    leads = torch.stack([margin(counting.model(call), labels) for call in model.calls])  # (1 + queries, B)
    assert len(leads) == 151
    torch.testing.assert_close(margin(counting.model(result), labels), leads.amax(0), atol=1e-6, rtol=0)
    moves = (LinfMoves if ball.norm == "linf" else L2Moves)(ball.epsilon, 1, 6, 6)
    best, lead = model.calls[0], leads[0]
    for query in range(64):
        numbers = draws.child("squares", 0).uniform(64, moves.numbers)[:, query]
        tried = moves.square(clean, best, numbers, square_side(0.8, query, 6, 6))
        torch.testing.assert_close(model.calls[1 + query], tried, atol=1e-6, rtol=0)
        better = leads[1 + query] > lead
        best = torch.where(better[:, None, None, None], tried, best)
        lead = torch.where(better, leads[1 + query], lead)


def test_a_square_that_changes_nothing_for_the_model_is_not_kept() -> None:
    model, clean = Watched(victims.Flat()), victims.images(COUNT)
    labels, draws = torch.zeros(COUNT, dtype=torch.int64), ImageDraws.of(0, "a", COUNT)
    result = Square(queries=20)(model, clean, labels, Linf(0.1), draws)
    assert torch.equal(result, model.calls[1]), "the start"
    assert not torch.equal(model.calls[2], model.calls[1])


def test_a_tie_that_fools_is_kept() -> None:
    """With the label 1, the answer changes from the second to the third row while the margin stays 0."""
    answers = [[0.0, 5.0, 0.0], [0.0, 5.0, 5.0], [5.0, 5.0, 0.0]]
    asked = list[Tensor]()

    def model(images: Tensor) -> Tensor:
        asked.append(images[:1].clone())
        return torch.tensor([answers[len(asked) - 1]]).expand(len(images), 3)

    result = Square(queries=50)(model, victims.images(1), torch.tensor([1]), Linf(0.1), ImageDraws.of(0, "a", 1))
    assert len(asked) == 3
    assert torch.equal(result, asked[2])


def test_linf_finds_the_optimum_of_a_linear_model() -> None:
    model, clean = victims.affine(classes=2), victims.images(8)
    labels = victims.right_answers(model, clean)
    d = model.weight[1 - labels] - model.weight[labels]
    attack = Square(queries=1500, p_init=0.02, stop_when_fooled=False)
    result = attack(model, clean, labels, Linf(EPSILON), ImageDraws.of(0, "a", 8))
    best = (clean + EPSILON * d.sign().view_as(clean)).clamp(0, 1).float()
    torch.testing.assert_close(result, best, atol=1e-6, rtol=0)


def test_l2_finds_most_of_the_optimum_of_a_smooth_linear_model() -> None:
    ramp = torch.linspace(-1, 1, 6)
    weight = (ramp[:, None] + ramp[None] / 2).reshape(1, 36)
    model = victims.Affine(torch.cat([weight, -weight]), torch.zeros(2))
    clean = victims.images(8, low=0.4, high=0.6)
    labels = victims.right_answers(model, clean)
    attack = Square(queries=1600, p_init=0.3, stop_when_fooled=False)
    result = attack(model, clean, labels, L2(EPSILON), ImageDraws.of(0, "a", 8))
    gain = margin(model(result), labels) - margin(model(clean), labels)
    best = EPSILON * 2 * float(weight.norm())
    assert bool((gain <= best + 1e-5).all())
    assert bool((gain >= 0.7 * best).all())


class Stairs(nn.Module):
    """Sees only whether a pixel is bright; its gradient is zero everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.model = victims.affine()

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images > 0.5).float()) + 0 * images.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("asking", [Square(queries=400), Nes(queries=1000)], ids=["square", "nes"])
@pytest.mark.parametrize("ball", [Linf(0.3), L2(1.0)], ids=["linf", "l2"])
def test_asking_breaks_what_hides_its_gradient(ball: Ball, asking: Square | Nes) -> None:
    model, clean = Stairs(), victims.images(40)
    labels, draws = victims.right_answers(model, clean), ImageDraws.of(0, "a", 40)
    fooled = [
        int((model(attack(model, clean, labels, ball, draws)).argmax(1) != labels).sum())
        for attack in (Apgd(steps=100), asking)
    ]
    assert fooled[0] < 24, "only as many as the random start fools"
    assert fooled[1] == 40


def test_robust_images_cost_every_query_and_two_passes() -> None:
    model, clean, labels, draws = problem()
    Square(queries=70, ahead=1)(model, clean, labels, Linf(1e-4), draws)
    assert (model.passes.forward, model.passes.backward) == (72 * COUNT, 0)


@BALLS
def test_packing_changes_neither_result_nor_cost(ball: Ball) -> None:
    model, clean, labels, draws = problem()
    labels[3] = (labels[3] + 1) % victims.CLASSES
    attack = Square(queries=100, ahead=1, micro_batch=5)
    whole = attack(model, clean, labels, ball, draws)
    spent = dataclasses.replace(model.passes)
    model.passes.forward = 0
    costs = list[int]()
    for row in torch.arange(COUNT).split(1):
        alone = attack(model, clean[row], labels[row], ball, draws.rows(row))
        torch.testing.assert_close(alone, whole[row], atol=1e-6, rtol=0)
        costs.append(model.passes.forward - sum(costs))
    assert model.passes == spent
    assert costs[3] == 1
    assert len(set(costs)) > 3, "images must leave at different queries"
    fooled = model(whole).argmax(1) != labels
    assert 2 < fooled.sum() < COUNT


@BALLS
@pytest.mark.parametrize("stop", [True, False], ids=["stop", "transfer"])
@pytest.mark.parametrize(("ahead", "micro_batch"), [(2, 5), (7, 256), (64, 64), (64, 3)])
def test_squares_tried_together_end_where_squares_tried_one_by_one_do(
    ball: Ball, stop: bool, ahead: int, micro_batch: int
) -> None:
    counting, clean, labels, draws = problem()
    plain = Square(queries=130, ahead=1, stop_when_fooled=stop)  # two blocks, and four sizes of square
    together = dataclasses.replace(plain, ahead=ahead, micro_batch=micro_batch)
    for rows in (torch.arange(COUNT), torch.arange(1)):
        one, other = CountingPasses(counting.model), CountingPasses(counting.model)
        expected = plain(one, clean[rows], labels[rows], ball, draws.rows(rows))
        found = together(other, clean[rows], labels[rows], ball, draws.rows(rows))
        assert torch.equal(found, expected)
        assert one.passes == other.passes


def test_where_few_squares_are_kept_many_go_in_one_pass() -> None:
    calls = list[int]()

    def model(images: Tensor) -> Tensor:
        calls.append(len(images))
        return torch.zeros(len(images), 3) + torch.tensor([1.0, 0.0, 0.0])

    draws = ImageDraws.of(0, "a", 1)
    Square(queries=640)(model, torch.full((1, 1, 6, 6), 0.5), torch.zeros(1, dtype=torch.int64), Linf(0.1), draws)
    assert sum(calls) >= 642  # what is asked is not less than what is tried
    assert len(calls) < 640 / 8


def test_more_queries_go_on_where_fewer_ended() -> None:
    counting, clean, labels, draws = problem()
    few, more = Watched(counting.model), Watched(counting.model)
    Square(queries=20, ahead=1).for_transfer()(few, clean, labels, Linf(0.1), draws)
    Square(queries=80, ahead=1).for_transfer()(more, clean, labels, Linf(0.1), draws)
    assert torch.equal(torch.stack(few.calls), torch.stack(more.calls[:21]))


def test_patience_leaves_an_image_where_its_rise_would_not_reach_a_mistake() -> None:
    counting, clean, labels, draws = problem()
    model, ball, patience = counting.model, Linf(0.04), 1.5

    def found(queries: int, **options: Any) -> tuple[Tensor, int]:
        counted = CountingPasses(model)
        points = Square(queries=queries, **options)(counted, clean, labels, ball, draws)
        return points, counted.passes.forward

    (half, _), (look, _), (end, most) = found(256), found(512), found(1000)
    leads = [margin(model(points), labels) for points in (half, look)]
    rise = leads[1] - leads[0]
    left = (rise > 0) & (leads[1] + patience * rise * (1000 - 512) / 256 < 0)
    going = (leads[1] < 0) & ~left
    assert all(bool(kind.any()) for kind in (left, going, leads[1] > 0)), "images of each kind"
    result, spent = found(1000, patience=patience)
    assert torch.equal(result, torch.where(left[:, None, None, None], look, end))
    assert most - spent == (1000 - 512) * int(left.sum())


def test_a_margin_that_does_not_move_is_no_reason_to_stop() -> None:
    counting = CountingPasses(victims.Flat())
    labels, draws = torch.zeros(COUNT, dtype=torch.int64), ImageDraws.of(0, "a", COUNT)
    Square(queries=1100, patience=1)(counting, victims.images(COUNT), labels, Linf(0.1), draws)
    assert counting.passes.forward == COUNT * 1102


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"queries": 0}, "queries is 0"),
        ({"patience": 0.0}, "patience is 0.0"),
        ({"patience": math.inf}, "patience is inf"),
        ({"micro_batch": 0}, "micro_batch is 0"),
        ({"p_init": 0.0}, "p_init is 0.0"),
        ({"p_init": 1.5}, "p_init is 1.5"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Square(**options)


def test_balls_without_squares_are_refused() -> None:
    model, clean, labels, draws = problem()
    with pytest.raises(ValueError, match="must be bounded"):
        Square()(model, clean, labels, L2(math.inf), draws)

    class L1(L2):
        norm = "l1"

    with pytest.raises(ValueError, match="the ball is l1, but squares are defined for linf and l2"):
        Square()(model, clean, labels, L1(1.0), draws)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 4)])
@BALLS
def test_small_and_oblong_images_have_squares_too(shape: tuple[int, int], ball: Ball) -> None:
    clean = torch.rand(5, 3, *shape, generator=victims.generator())
    torch.manual_seed(0)
    model = victims.Double(nn.Sequential(nn.Flatten(), nn.Linear(3 * math.prod(shape), 3)))
    labels = victims.right_answers(model, clean)
    attack = Square(queries=30, stop_when_fooled=False)
    result = attack(model, clean, labels, ball, ImageDraws.of(0, "a", 5))
    assert bool(ball.contains(result, clean).all())
    assert bool((margin(model(result), labels) > margin(model(clean), labels)).any())
