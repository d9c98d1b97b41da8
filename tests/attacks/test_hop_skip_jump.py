"""HopSkipJump: labels only, a budget for each image, distances against closed forms, honest failure."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import victims
from attacks.minimum import lead, least_distance
from memory_defense.attacks import HopSkipJump
from memory_defense.attacks.closest import Closest
from memory_defense.attacks.engine import attacked
from memory_defense.attacks.hop_skip_jump import BoundaryWalk, LabelsOnly
from memory_defense.contracts import Ball
from memory_defense.losses import margin
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.wrappers import CountingPasses

COUNT = 16
DRAWS = ImageDraws.of(0, "a", COUNT)
ANY = pytest.mark.parametrize("ball", [Linf(1.0), L2(math.inf)], ids=["linf", "l2"])


class Distorted(nn.Module):
    """The same labels as a network, from logits that tell nothing about distance."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        winner = torch.zeros_like(logits).scatter(1, logits.argmax(1, keepdim=True), 1.0)
        return winner * (1 + images.flatten(1).sum(1, keepdim=True)) - images.flatten(1)[:, : logits.shape[1]] - 3


@ANY
def test_only_labels_matter(ball: Ball) -> None:
    model, clean = victims.mlp(), victims.images(COUNT)
    labels = victims.right_answers(model, clean)
    attack = HopSkipJump(queries=200, evaluations=30, stop_when_fooled=False)
    one = attack(model, clean, labels, ball, DRAWS)
    other = attack(Distorted(model), clean, labels, ball, DRAWS)
    assert torch.equal(one, other)
    assert bool((model(one).argmax(1) != labels).all())


def test_a_victim_of_labels_keeps_answers_and_rows() -> None:
    model, clean = victims.row_bound(8), victims.images(8)
    rows = torch.tensor([3, 0, 3])
    with attacked(model, clean, victims.right_answers(model, clean)) as victim:
        seen = LabelsOnly(victim).answers(clean[rows], rows)
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(seen.argmax(1), model(clean)[rows].argmax(1))


@ANY
def test_more_queries_come_closer_to_the_shortest_step(ball: Ball) -> None:
    model, clean = victims.affine(classes=2), victims.images(COUNT)
    labels = victims.right_answers(model, clean)
    least = least_distance(model, clean, labels, ball.norm)
    assert bool(least.isfinite().all())
    medians = list[float]()
    for queries in (100, 1000):
        result = HopSkipJump(queries=queries, stop_when_fooled=False)(model, clean, labels, ball, DRAWS)
        assert bool((lead(model, result, labels) > 0).all())
        ratio = ball.distance(result, clean).double() / least
        assert bool((ratio >= 1 - 1e-4).all())
        medians.append(float(ratio.median()))
    assert medians[1] < 1.12
    assert medians[0] > medians[1] + 0.2


@pytest.mark.parametrize("queries", [1, 7, 60, 333])
@ANY
def test_no_image_costs_more_than_its_budget(ball: Ball, queries: int) -> None:
    """The clean image and the result cost one more each; what is left unspent pays for no whole bisection."""
    model, clean = CountingPasses(victims.mlp()), victims.images(6)
    labels = victims.right_answers(model, clean)
    model.passes.forward = 0
    attack = HopSkipJump(queries=queries, evaluations=20, stop_when_fooled=False)
    costs = list[int]()
    for row in torch.arange(6).split(1):
        attack(model, clean[row], labels[row], ball, DRAWS.rows(row))
        costs.append(model.passes.forward - sum(costs))
    assert max(costs) <= queries + 2
    assert min(costs) >= queries - 25
    attack(model, clean, labels, ball, DRAWS.rows(torch.arange(6)))
    assert model.passes.forward == 2 * sum(costs)
    assert model.passes.backward == 0


def searching(
    model: nn.Module, clean: Tensor, labels: Tensor, ball: Ball, evaluations: int
) -> tuple[BoundaryWalk, Tensor]:
    """Return a search that stands behind the boundary, with every row."""
    with attacked(model, clean, labels) as scored:
        found = Closest(
            LabelsOnly(scored),
            clean,
            ball,
            confidence=0.0,
            targeted=False,
            best_effort=False,
            stop_when_fooled=False,
        )
        search = BoundaryWalk(HopSkipJump(queries=10**6, evaluations=evaluations), found, DRAWS)
        rows = search.begin(found.start()[0])
        assert len(rows) == len(clean)
        return search, rows


@ANY
def test_a_bisection_ends_just_behind_the_boundary(ball: Ball) -> None:
    model, clean = victims.affine(classes=2), victims.images(8)
    labels = victims.right_answers(model, clean)
    search, rows = searching(model, clean, labels, ball, 50)
    for step in (1, 2, 3):
        search._stride(rows, ball.ascent(search._normals(rows, torch.full((8,), 50), step)), step)
        far = search.point.clone()
        search._bisect(rows, ball.norm, search.precision)
        assert bool((lead(model, far, labels) > 0).all())
        assert bool((lead(model, search.point, labels) > 0).all())
        span = ball.distance(far, clean)
        share = ball.distance(search.point, clean) / span - 1.01 * search.precision
        assert bool((share < 0.999).all())
        if ball.norm == "linf":
            radius = (share * span)[:, None, None, None]
            short = clean + torch.minimum(torch.maximum(far - clean, -radius), radius)
        else:
            short = clean + share[:, None, None, None] * (far - clean)
        assert bool((lead(model, short, labels) < 0).all())


def test_directions_approach_the_normal_of_the_boundary() -> None:
    model, clean = victims.affine(classes=2), victims.images(8, low=0.3, high=0.7)
    labels = victims.right_answers(model, clean)
    normal = (model.weight[1 - labels] - model.weight[labels]).float()
    search, rows = searching(model, clean, labels, L2(math.inf), 50)
    with torch.no_grad():
        cosines = [
            torch.cosine_similarity(search._normals(rows, torch.full((8,), count), 1).flatten(1), normal)
            for count in (40, 4000)
        ]
    assert bool((cosines[1] > 0.95).all())
    assert cosines[0].mean() < cosines[1].mean() - 0.1


class Bag(nn.Module):
    """Answers 1 for whatever is noisy from one pixel to the next, and else whether the image is bright."""

    def forward(self, images: Tensor) -> Tensor:
        rough = (images[..., 1:] - images[..., :-1]).abs().mean((1, 2, 3)) > 0.2
        bright = images.mean((1, 2, 3)) > 0.5
        return torch.stack([~(rough | bright), rough | bright], 1).float()


def test_starts_in_cells_find_what_fine_noise_cannot() -> None:
    clean = torch.full((COUNT, 1, 16, 16), 0.7) + 0.05 * torch.rand(COUNT, 1, 16, 16, generator=victims.generator())
    labels = torch.ones(COUNT, dtype=torch.int64)
    result = HopSkipJump(queries=400, starts=1)(Bag(), clean, labels, L2(math.inf), DRAWS)
    assert torch.equal(result, clean), "fine noise is answered like the label"
    result = HopSkipJump(queries=400)(Bag(), clean, labels, L2(math.inf), DRAWS)
    assert bool((Bag()(result).argmax(1) == 0).all())


def test_where_no_start_is_wrong_the_clean_image_comes_back() -> None:
    model, clean = CountingPasses(victims.Flat()), victims.images(COUNT)
    labels = torch.zeros(COUNT, dtype=torch.int64)
    for attack in (HopSkipJump(starts=5), HopSkipJump(starts=5).for_transfer()):
        model.passes.forward = 0
        assert torch.equal(attack(model, clean, labels, Linf(0.5), DRAWS), clean)
        assert model.passes.forward == 6 * COUNT


def test_only_what_lies_inside_the_ball_is_returned() -> None:
    model, clean = victims.affine(classes=2), victims.images(COUNT)
    labels = victims.right_answers(model, clean)
    least = least_distance(model, clean, labels, "l2")
    epsilon = float(least.median())
    result = HopSkipJump(queries=1000)(model, clean, labels, L2(epsilon), DRAWS)
    fooled = lead(model, result, labels) > 0
    assert bool(fooled[least < 0.85 * epsilon].all())
    assert not bool(fooled[least > epsilon].any())
    assert torch.equal(result[~fooled], clean[~fooled])


@pytest.mark.parametrize("ball", [Linf(0.15), L2(1.0), L2(math.inf)], ids=["linf", "l2", "unbounded"])
def test_for_transfer_pushes_the_change_to_the_surface(ball: Ball) -> None:
    model, clean = victims.mlp(), victims.images(COUNT, low=0.35, high=0.65)
    labels = victims.right_answers(model, clean)
    attack = HopSkipJump(queries=300, evaluations=30, stop_when_fooled=False)
    assert attack.for_transfer() == HopSkipJump(queries=300, evaluations=30, stop_when_fooled=False, push=True)
    plain = attack(model, clean, labels, ball, DRAWS)
    pushed = attack.for_transfer()(model, clean, labels, ball, DRAWS)
    assert bool(ball.contains(pushed, clean).all())
    was, now = margin(model(plain), labels), margin(model(pushed), labels)
    assert bool((now[was > 0] > 0).all())
    assert now.mean() > was.mean()
    if math.isfinite(ball.epsilon):
        length = ball.distance(pushed, clean)
        assert bool((length > 0.9 * ball.epsilon).all()), "nothing but the box keeps it from the surface"
        aside = (plain == clean).flatten(1).all(1)
        assert bool((pushed != clean)[aside].flatten(1).any(1).all()), "what lies outside is projected"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"queries": 0}, "queries is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"evaluations": 0}, "evaluations is 0"),
        ({"starts": 0}, "starts is 0"),
        ({"gamma": 0.0}, "gamma is 0.0"),
        ({"micro_batch": 0}, "micro_batch is 0"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        HopSkipJump(**options)
