"""GAMA-PGD: its loss by hand, its schedules, and the algorithm image by image."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks import victims
from memory_defense.attacks import Gama
from memory_defense.attacks.gama import drop_steps, guided_margin
from memory_defense.contracts import Ball
from memory_defense.losses import margin
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf

COUNT = 10
DRAWS = ImageDraws.of(0, "a", COUNT)
BALLS = pytest.mark.parametrize("ball", [Linf(0.1), L2(0.8)], ids=["linf", "l2"])


def test_the_loss_is_the_one_done_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0), math.log(6.0)]], dtype=torch.float64)  # 0.1, 0.3, 0.6
    clean = torch.tensor([[0.2, 0.2, 0.6]], dtype=torch.float64)
    # (0.6 - 0.3) + 5 * (0.01 + 0.01 + 0)
    torch.testing.assert_close(
        guided_margin(logits, torch.tensor([1]), clean, 5.0), torch.tensor([0.4], dtype=torch.float64)
    )


def test_steps_drop_tenfold_at_the_published_points() -> None:
    sizes = drop_steps(0.1, 100)
    assert len(sizes) == 100
    assert sizes[0] == sizes[59] == pytest.approx(0.2)
    assert sizes[60] == sizes[84] == pytest.approx(0.02)
    assert sizes[85] == sizes[99] == pytest.approx(0.002)


def one_by_one(
    settings: Gama, model: torch.nn.Module, clean: Tensor, label: int, ball: Ball, start: Tensor
) -> Tensor:
    """The published algorithm for one image, with a loss written out; the iterate of largest margin."""
    before = model(clean[None]).softmax(1).detach()
    point, best, highest = start, clean, float("-inf")
    for step in range(settings.steps + 1):
        leaf = point.clone().requires_grad_()
        logits = model(leaf[None])[0]
        lead = max(float((logits[k] - logits[label]).detach()) for k in range(len(logits)) if k != label)
        if lead > highest:
            best, highest = point, lead
        if step == settings.steps:
            break
        probabilities = logits.softmax(0)
        other = max(
            (probabilities[k] for k in range(len(logits)) if k != label), key=lambda one: float(one.detach())
        )
        weight = settings.weight * max(0.0, 1 - step / (settings.decay_end * settings.steps))
        loss = other - probabilities[label] + weight * (probabilities - before[0]).square().sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        size = 2 * ball.epsilon / 10 ** ((step >= 0.6 * settings.steps) + (step >= 0.85 * settings.steps))
        direction = gradient.sign() if ball.norm == "linf" else gradient / gradient.norm()
        point = ball.project((point + size * direction)[None], clean[None])[0].detach()
    return best


@BALLS
def test_it_is_the_published_algorithm_image_by_image(ball: Ball) -> None:
    model, clean = victims.mlp(), victims.images(COUNT)
    labels = victims.right_answers(model, clean)
    settings = Gama(steps=12, decay_end=0.5, micro_batch=3).for_transfer()
    result = settings(model, clean, labels, ball, DRAWS)
    noise = DRAWS.child("restart", 0).normal(*clean.shape[1:])
    starts = ball.project(clean + ball.epsilon * ball.ascent(noise), clean)
    for index in range(COUNT):
        expected = one_by_one(settings, model, clean[index], int(labels[index]), ball, starts[index])
        lead = margin(model(expected[None]), labels[index : index + 1])
        clean_lead = margin(model(clean[index : index + 1]), labels[index : index + 1])
        if lead > clean_lead:
            torch.testing.assert_close(result[index], expected, atol=1e-5, rtol=0)
        else:
            assert torch.equal(result[index], clean[index])


@BALLS
def test_starts_lie_on_the_surface_and_differ(ball: Ball) -> None:
    model, clean = victims.mlp(), victims.images(COUNT, low=0.4, high=0.6)
    calls = list[Tensor]()

    def watched(images: Tensor) -> Tensor:
        calls.append(images.detach().clone())
        return model(images)

    labels, small = victims.right_answers(model, clean), type(ball)(0.01)  # pyright: ignore
    Gama(steps=1, restarts=2).for_transfer()(watched, clean, labels, small, DRAWS)
    first, second = calls[1][:COUNT], calls[3][:COUNT]
    for start in (first, second):
        torch.testing.assert_close(ball.distance(start, clean), torch.full((COUNT,), 0.01), atol=1e-6, rtol=0)
    assert not torch.isclose(first, second).flatten(1).all(1).any()


def test_the_relaxation_leads_out_of_a_flat_margin() -> None:
    """Class 1 leads the label 0's rivals but never moves; only class 2 can win, and the margin ignores it."""
    weight = torch.zeros(3, victims.SIZE**2)
    weight[2, :18] = 4.0
    model = victims.Affine(weight, torch.tensor([30.0, 29.0, -20.0]))
    clean = victims.images(COUNT, low=0.4, high=0.6)
    labels = victims.right_answers(model, clean)
    assert labels.tolist() == [0] * COUNT
    flat = torch.autograd.functional.jacobian(lambda x: margin(model(x), labels).sum(), clean)
    assert bool((flat == 0).all())
    fooled = model(Gama(steps=20)(model, clean, labels, Linf(0.4), DRAWS)).argmax(1) == 2
    assert bool(fooled.all())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"restarts": 0}, "restarts is 0"),
        ({"weight": -1.0}, "weight is -1.0"),
        ({"weight": math.nan}, "weight is nan"),
        ({"decay_end": 0.0}, "decay_end is 0.0"),
        ({"micro_batch": 0}, "micro_batch is 0"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Gama(**options)


def test_an_unbounded_ball_is_refused() -> None:
    model, clean = victims.mlp(), victims.images(2)
    with pytest.raises(ValueError, match="finite epsilon"):
        Gama()(model, clean, victims.right_answers(model, clean), L2(math.inf), ImageDraws.of(0, "a", 2))
