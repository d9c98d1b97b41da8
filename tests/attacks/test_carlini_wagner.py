"""The Carlini & Wagner attack's bookkeeping; its distances are tested against closed forms in the oracle."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks import victims
from memory_defense.attacks import PAPER_CW, CarliniWagner
from memory_defense.attacks.carlini_wagner import Bisection, first_const
from memory_defense.attacks.closest import TRANSFER_CONFIDENCE
from memory_defense.attacks.engine import attacked
from memory_defense.losses import margin
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.wrappers import CountingPasses

COUNT = 12
DRAWS = ImageDraws.of(0, "a", COUNT)
ANY = L2(math.inf)
QUICK = CarliniWagner(steps=30, search_steps=4)


def problem() -> tuple[CountingPasses, Tensor, Tensor]:
    model, clean = victims.mlp(), victims.images(COUNT)
    return CountingPasses(model), clean, victims.right_answers(model, clean)


def one_by_one(settings: CarliniWagner, model: CountingPasses, clean: Tensor, label: int) -> Tensor:
    """The published algorithm for one image, with autograd through tanh and torch's own Adam."""
    assert settings.initial_const is not None
    low, high, const = 0.0, math.inf, settings.initial_const
    best, best_distance = clean, math.inf
    for _ in range(settings.search_steps):
        variable = torch.atanh((2 * clean - 1) * 0.999999).requires_grad_()
        adam, success = torch.optim.Adam([variable], settings.learning_rate), False
        for _ in range(settings.steps):
            image = (torch.tanh(variable) + 1) / 2
            logits = model(image[None])[0]
            others = torch.cat([logits[:label], logits[label + 1 :]])
            distance = (image - clean).square().sum()
            moved = distance.item()
            if bool(others.max() > logits[label]):
                success = True
                if moved < best_distance:
                    best, best_distance = image.detach(), moved
            adam.zero_grad()
            (distance + const * (logits[label] - others.max()).clamp(min=0)).backward()
            adam.step()
        low, high = (low, min(high, const)) if success else (max(low, const), high)
        const = 10 * const if math.isinf(high) else (low + high) / 2
    return best


def test_tanh_is_the_published_algorithm_image_by_image() -> None:
    model, clean, labels = problem()
    model.model.requires_grad_(False)
    settings = CarliniWagner(variant="tanh", steps=25, search_steps=4, learning_rate=0.1, initial_const=0.3)
    result = settings(model, clean[:4], labels[:4], ANY, DRAWS.rows(torch.arange(4)))
    expected = [
        one_by_one(settings, model, image, int(label)) for image, label in zip(clean[:4], labels[:4], strict=True)
    ]
    torch.testing.assert_close(result, torch.stack(expected), atol=1e-4, rtol=0)


def test_every_pass_is_a_step_and_two_more_judge() -> None:
    model, clean, labels = problem()
    QUICK(model, clean, labels, ANY, DRAWS)
    assert (model.passes.forward, model.passes.backward) == (122 * COUNT, 120 * COUNT)


def test_an_automatic_first_constant_is_one_and_a_half_times_what_a_plane_needs() -> None:
    """With f linear of slope g the minimum lies at c g / 2, so c = 2 f / |g|^2 just reaches the boundary."""
    model, clean = victims.affine(classes=2), victims.images(COUNT)
    labels = victims.right_answers(model, clean)
    needed = -2 * margin(model(clean), labels) / (model.weight[1] - model.weight[0]).square().sum()
    with attacked(model, clean, labels) as victim:
        const = Bisection(CarliniWagner(initial_const=None), victim, clean, ANY).const
    torch.testing.assert_close(const.double(), 1.5 * needed, rtol=1e-2, atol=0)


def test_an_automatic_first_constant_has_limits_and_a_fallback() -> None:
    losses = torch.tensor([1.0, 1.0, 1.0, 2.0])
    gradient = torch.tensor([0.0, 1e-9, 1e9, 1.0])[:, None, None, None].expand(4, 1, 2, 2)
    assert first_const(losses, gradient).tolist() == [1.0, 1e4, pytest.approx(1e-4), 1.5]


def test_an_automatic_first_constant_costs_one_gradient_and_needs_no_tuning() -> None:
    """The same network at logits 1000 times as large or small asks for the same search."""
    model, clean, labels = problem()
    automatic = dataclasses.replace(QUICK, initial_const=None)
    plain = automatic(model, clean, labels, ANY, DRAWS)
    assert (model.passes.forward, model.passes.backward) == (122 * COUNT, 121 * COUNT)
    assert bool((model(plain).argmax(1) != labels).all())
    for scale in (1 / 1024, 1024.0):
        result = automatic(lambda images, scale=scale: scale * model(images), clean, labels, ANY, DRAWS)
        torch.testing.assert_close(ANY.distance(result, clean), ANY.distance(plain, clean), rtol=0.05, atol=0)


def test_images_that_stall_cost_nothing_until_the_next_search_step() -> None:
    model, clean, labels = problem()
    early = dataclasses.replace(QUICK, abort_early=True, micro_batch=5)
    result = early(model, clean, labels, ANY, DRAWS)
    assert model.passes.backward < 120 * COUNT
    assert bool((model(result).argmax(1) != labels).all())
    again = dataclasses.replace(early, micro_batch=64)(model, clean, labels, ANY, DRAWS)
    torch.testing.assert_close(again, result, atol=1e-6, rtol=0)


def test_mistaken_images_are_not_searched() -> None:
    model, clean, labels = problem()
    wrong = (labels + 1) % victims.CLASSES
    assert torch.equal(QUICK(model, clean, wrong, ANY, DRAWS), clean)
    assert model.passes.backward == 0


def test_a_changed_image_fools_the_model_by_the_confidence() -> None:
    model, clean, labels = problem()
    distances = []
    for confidence in (0.0, 0.1, 0.2):
        settings = dataclasses.replace(QUICK, confidence=confidence, initial_const=10.0)
        result = settings(model, clean, labels, ANY, DRAWS)
        lead = margin(model(result), labels)
        changed = (result != clean).flatten(1).any(1)
        assert torch.equal(changed, lead > confidence)
        assert changed.double().mean() > 0.9
        distances.append(ANY.distance(result, clean)[changed].mean())
    assert distances[0] < distances[1] < distances[2]


def test_more_search_finds_shorter_steps() -> None:
    model, clean, labels = problem()
    distances = [
        ANY.distance(CarliniWagner(steps=steps, search_steps=search)(model, clean, labels, ANY, DRAWS), clean)
        for steps, search in ((15, 3), (60, 5))
    ]
    assert bool((distances[1] <= distances[0] * 1.01).all())
    assert distances[1].mean() < 0.97 * distances[0].mean()


def test_for_transfer_takes_the_largest_lead_where_the_confidence_is_out_of_reach() -> None:
    model, clean, labels = problem()
    ball = L2(0.8)
    bold, shy = QUICK.for_transfer(), dataclasses.replace(QUICK, confidence=TRANSFER_CONFIDENCE)
    assert (bold.confidence, bold.best_effort) == (TRANSFER_CONFIDENCE, True)
    assert dataclasses.replace(QUICK, confidence=50.0).for_transfer().confidence == 50.0
    assert torch.equal(shy(model, clean, labels, ball, DRAWS), clean)
    result = bold(model, clean, labels, ball, DRAWS)
    assert bool(ball.contains(result, clean).all())
    plain = margin(model(QUICK(model, clean, labels, ball, DRAWS)), labels)
    leads = margin(model(result), labels)
    assert (leads > 0).sum() >= (plain > 0).sum() > 0
    assert leads[plain > 0].mean() > 2 * plain[plain > 0].mean()


class Fickle:
    """Errs at every call but the last, which is the attack's own judgement of its result."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, images: Tensor) -> Tensor:
        self.left -= 1
        return images.flatten(1)[:, :2] * 1e-3 + torch.tensor([0.0, 1.0 if 0 < self.left < 12 else -1.0])


def test_what_fails_the_last_judgement_is_not_returned() -> None:
    clean, labels = victims.images(3), torch.zeros(3, dtype=torch.int64)
    settings, draws = CarliniWagner(steps=12, search_steps=1), DRAWS.rows(torch.arange(3))
    assert torch.equal(settings(Fickle(14), clean, labels, ANY, draws), clean)
    assert not torch.equal(settings(Fickle(15), clean, labels, ANY, draws), clean), "the fixture can be fooled"


def test_saturated_pixels_move_in_both_variants() -> None:
    model, clean = victims.affine(classes=2), (victims.images(COUNT) > 0.5).float()
    labels = victims.right_answers(model, clean)
    for variant, rate in (("projected", 0.05), ("tanh", 0.1)):
        settings = CarliniWagner(variant=variant, learning_rate=rate)  # pyright: ignore
        result = settings(model, clean, labels, ANY, DRAWS)
        assert bool((model(result).argmax(1) != labels).all()), variant


def test_only_an_l2_ball_makes_sense() -> None:
    model, clean, labels = problem()
    with pytest.raises(ValueError, match=r"ball is linf; use threat.L2\(epsilon\)"):
        QUICK(model, clean, labels, Linf(0.1), DRAWS)


def test_the_papers_settings_are_the_papers() -> None:
    expected = {
        "confidence": 0.0,
        "steps": 1000,
        "search_steps": 5,
        "learning_rate": 5e-3,
        "initial_const": 1e-2,
    }
    assert {name: getattr(PAPER_CW, name) for name in expected} == expected
    assert (PAPER_CW.variant, PAPER_CW.abort_early) == ("tanh", True)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"search_steps": 0}, "search_steps is 0"),
        ({"micro_batch": -1}, "micro_batch is -1"),
        ({"confidence": -1.0}, "confidence is -1.0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"initial_const": math.inf}, "initial_const is inf"),
        ({"variant": "arctan"}, "variant is 'arctan'"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        CarliniWagner(**options)
