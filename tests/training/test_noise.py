"""Training under normal noise: its losses by hand, where SmoothAdv moves images, and that both can be scored."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from memory_defense.attacks import Pgd
from memory_defense.contracts import Batch, Objective
from memory_defense.data.images import ImageSet
from memory_defense.randomness import ImageDraws
from memory_defense.training.adversarial import Benign, Online, SingleStep
from memory_defense.training.noise import NoiseTraining
from memory_defense.training.trades import Trades
from memory_defense.training.validate import negative_objective

SMOOTH_ADV = NoiseTraining(sigma=0.5, copies=2, epsilon=1.0, steps=2, warm_up=0.0)


def batch(progress: float = 1.0, count: int = 8, classes: int = 3) -> Batch:
    ids = torch.arange(count)
    images = ImageDraws.of(1, "images", ids).uniform(1, 6, 6)
    return Batch(images, ids % classes, ids, ImageDraws.of(1, "epoch 0", ids), progress)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 3))


def noise_of(one: Batch, copies: int, sigma: float) -> torch.Tensor:
    return sigma * one.draws.child("noise").normal(copies, 1, 6, 6).transpose(0, 1)


def test_all_terms_by_hand() -> None:
    model, one = network(), batch()
    losses = NoiseTraining(sigma=0.25, copies=3, consistency=4.0, entropy=0.5)(model, one)
    copies = [F.log_softmax(model(one.images + noise), 1) for noise in noise_of(one, 3, 0.25)]
    cross_entropy = sum(F.nll_loss(logs, one.labels) for logs in copies) / 3
    mean = sum(logs.exp() for logs in copies) / 3
    divergence = sum((mean * (mean.log() - logs)).sum(1).mean() for logs in copies) / 3
    entropy = -(mean * mean.log()).sum(1).mean()
    torch.testing.assert_close(losses.cross_entropy, cross_entropy)
    torch.testing.assert_close(losses.consistency, divergence)
    torch.testing.assert_close(losses.total, cross_entropy + 4.0 * divergence + 0.5 * entropy)


def test_smooth_adv_moves_to_where_the_copies_of_a_linear_model_are_least_often_right() -> None:
    """Of two classes, the mean probability of a linear model's true one falls along one direction alone."""
    torch.manual_seed(0)
    model, one = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), batch(classes=2)
    images = one.images * 0.2 + 0.4  # far from black and white, so that the ball alone decides
    one = Batch(images, one.labels, one.ids, one.draws, 1.0)
    asked = NoiseTraining(sigma=0.1, copies=2, epsilon=0.3, steps=2, warm_up=0.0)
    losses = asked(model, one)
    along = model[1].weight[0] - model[1].weight[1]
    sign = torch.where(one.labels == 0, -1.0, 1.0)[:, None]
    moved = images + 0.3 * (sign * along / along.norm()).reshape(-1, 1, 6, 6)
    expected = torch.cat([model(moved + noise) for noise in noise_of(one, 2, 0.1)])
    torch.testing.assert_close(losses.logits, expected, atol=1e-5, rtol=1e-5)


def test_smooth_adv_stays_in_its_ball_which_grows_from_nothing() -> None:
    model, seen = network(), []
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    for progress, radius in ((0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (1.0, 1.0)):
        one = batch(progress)
        NoiseTraining(sigma=0.5, copies=2, epsilon=1.0, steps=3)(model, one)
        moved = seen[-1][: len(one.labels)] - noise_of(one, 2, 0.5)[0]
        assert (moved - one.images).flatten(1).norm(dim=1).max() <= radius + 1e-5
        assert moved.min() >= -1e-6
        assert moved.max() <= 1 + 1e-6
        assert radius == 0 or not torch.equal(moved, one.images)


def test_smooth_adv_is_harder_than_noise_alone() -> None:
    model, one = network(), batch()
    plain = NoiseTraining(sigma=0.5, copies=2)(model, one)
    assert SMOOTH_ADV(model, one).cross_entropy > plain.cross_entropy


@pytest.mark.parametrize(
    "objective",
    [
        Benign(),
        SingleStep(epsilon=0.1),
        Online(epsilon=0.1, attack=Pgd(steps=2)),
        Trades(epsilon=0.1, steps=2),
        NoiseTraining(sigma=0.25, copies=2, consistency=1.0),
        SMOOTH_ADV,
    ],
    ids=lambda one: type(one).__name__,
)
def test_an_objective_that_attacks_is_a_score_too(objective: Objective) -> None:
    """Scores are taken where no gradients are kept."""
    one, model = batch(), network()
    images = ImageSet((one.images * 255).round().byte(), one.labels, one.ids)
    score = negative_objective(images, objective, seed=0)(model)
    assert math.isfinite(score)
    assert score == negative_objective(images, objective, seed=0)(model)
    exact = Batch(images.floats(), one.labels, one.ids, ImageDraws.of(0, "held-out objective", one.ids), 1.0)
    assert score == pytest.approx(-float(objective(model, exact).total.detach()), rel=1e-5)
    assert all(weight.grad is None for weight in model.parameters())


def test_what_cannot_be_is_refused() -> None:
    for words, asked in (
        ("sigma is 0", {"sigma": 0.0}),
        ("copies is 1", {"sigma": 0.1, "copies": 1, "consistency": 1.0}),
        ("not be below 0", {"sigma": 0.1, "entropy": -1.0}),
        ("steps is 2 and epsilon 0", {"sigma": 0.1, "steps": 2}),
    ):
        with pytest.raises(ValueError, match=words):
            NoiseTraining(**asked)
