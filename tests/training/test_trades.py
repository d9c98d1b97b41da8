"""TRADES against closed forms on a linear model, whose worst image is at a corner of the ball."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from memory_defense.contracts import Batch
from memory_defense.networks.resnet import ResNet
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.training.trades import Trades
from memory_defense.training.weight_perturbation import Crafting


class TwoClasses(nn.Module):
    """Logits (-z / 2, z / 2) with ``z = <w, x>``: the probability of class 1 is sigmoid(z)."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        z = images.flatten(1) @ self.weight
        return torch.stack([-z / 2, z / 2], 1)


WEIGHT = torch.tensor([2.0, -1.0, 0.5, 3.0])


def batch(progress: float = 1.0, count: int = 6) -> Batch:
    ids = torch.arange(count)
    images = ImageDraws.of(1, "images", ids).uniform(1, 2, 2) * 0.4 + 0.3
    return Batch(images, ids % 2, ids, ImageDraws.of(1, "epoch 0", ids), progress)


def bernoulli_divergence(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_both_terms_by_hand() -> None:
    """KL is convex in z and 0 at the clean z, so its maximum over the cube is at ``z +- epsilon * ||w||_1``."""
    one, model = batch(), TwoClasses(WEIGHT).train()
    objective = Trades(epsilon=0.1, warm_up=0, beta=4.0, steps=20)
    images = objective.craft(model, one)
    losses = objective.losses(model, images, one)
    reach = 0.1 * float(WEIGHT.abs().sum())
    entropies, divergences = [], []
    for clean, moved, label in zip(one.images, images, one.labels.tolist(), strict=True):
        z = float(clean.flatten() @ WEIGHT)
        side = math.copysign(1, float(moved.flatten() @ WEIGHT) - z)
        corner = clean.flatten() + 0.1 * side * WEIGHT.sign()
        assert torch.allclose(moved.flatten(), corner, atol=1e-6)  # a corner, on either side
        entropies.append(-math.log(sigmoid(z if label else -z)))
        divergences.append(bernoulli_divergence(sigmoid(z), sigmoid(z + side * reach)))
    assert losses.cross_entropy.item() == pytest.approx(sum(entropies) / 6, rel=1e-5)
    assert losses.divergence.item() == pytest.approx(sum(divergences) / 6, rel=1e-4)
    assert losses.total.item() == pytest.approx(sum(entropies) / 6 + 4 * sum(divergences) / 6, rel=1e-4)
    parts = losses.parts()
    assert parts["loss"] == losses.total.item()
    right = (one.images.flatten(1) @ WEIGHT > 0) == one.labels.bool()
    assert parts["clean batch accuracy"] == pytest.approx(right.float().mean().item())


def test_l2_steps_go_along_the_weights() -> None:
    one, model = batch(), TwoClasses(WEIGHT).train()
    moved = Trades(norm="l2", epsilon=0.2, warm_up=0, steps=20).craft(model, one)
    change = (moved - one.images).flatten(1)
    assert torch.allclose(change.norm(dim=1), torch.full((6,), 0.2), atol=1e-5)
    assert torch.allclose((change @ WEIGHT).abs(), 0.2 * WEIGHT.norm().expand(6), atol=1e-4)


def test_without_beta_it_is_the_clean_cross_entropy() -> None:
    one, model = batch(), TwoClasses(WEIGHT).train()
    losses = Trades(epsilon=0.1, warm_up=0, beta=0.0, steps=1)(model, one)
    assert torch.equal(losses.total, F.cross_entropy(model(one.images), one.labels))


def test_label_smoothing_is_of_the_clean_term() -> None:
    one, model = batch(), TwoClasses(WEIGHT).train()
    losses = Trades(epsilon=0.1, warm_up=0, label_smoothing=0.2)(model, one)
    assert torch.equal(losses.cross_entropy, F.cross_entropy(model(one.images), one.labels, label_smoothing=0.2))


@pytest.mark.parametrize("start", ["near", "uniform"])
@pytest.mark.parametrize(("norm", "kind", "epsilon"), [("linf", Linf, 0.1), ("l2", L2, 0.3)])
def test_crafted_images_are_in_the_ball_that_grows(start, norm, kind, epsilon) -> None:
    objective = Trades(norm=norm, epsilon=epsilon, warm_up=0.5, steps=3, start=start)
    model = TwoClasses(WEIGHT).train()
    assert torch.equal(objective.craft(model, batch(0.0)), batch().images)
    for progress, radius in ((0.25, epsilon / 2), (1.0, epsilon)):
        moved = objective.craft(model, batch(progress))
        assert kind(radius).contains(moved, batch().images).all()
        assert not kind(radius / 2).contains(moved, batch().images).any()


def test_crafting_leaves_batch_statistics_modes_and_gradients_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moved = Trades(epsilon=0.1, warm_up=0).craft(model, batch())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not moved.requires_grad


def test_the_same_draws_give_the_same_images() -> None:
    model, objective = (
        TwoClasses(WEIGHT).train(),
        Trades(epsilon=0.1, warm_up=0, start="uniform", steps=1, step=0.1),
    )
    torch.manual_seed(1)
    one = objective.craft(model, batch())
    torch.manual_seed(2)
    assert torch.equal(one, objective.craft(model, batch()))


def test_every_weight_gets_a_gradient_under_autocast() -> None:
    torch.manual_seed(0)
    model = ResNet(channels=1, size=8, classes=3, mean=(0.5,), std=(0.3,), layers=18, stem_pool=False).train()
    ids = torch.arange(4)
    images = ImageDraws.of(1, "images", ids).uniform(1, 8, 8)
    one = Batch(images, ids % 3, ids, ImageDraws.of(1, "epoch 0", ids), 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        losses = Trades(epsilon=0.1, warm_up=0, steps=2)(model, one)
    assert losses.total.dtype == torch.float32
    losses.total.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_it_crafts_apart_from_its_loss() -> None:
    assert isinstance(Trades(), Crafting)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"beta": -1.0}, "beta is -1.0"),
        ({"steps": 0}, "steps is 0"),
        ({"step": 0.0}, "step is 0.0"),
        ({"start": "nearby"}, "'near'"),
        ({"epsilon": 8}, "8"),
    ],
)
def test_bad_values(changed, said) -> None:
    with pytest.raises(ValueError, match=said):
        Trades(**changed)
