"""Objectives: what they train on is what they say."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from memory_defense.attacks import Pgd
from memory_defense.contracts import Batch
from memory_defense.randomness import ImageDraws
from memory_defense.threat import Linf
from memory_defense.training.adversarial import Benign, Online, SingleStep, WarmStart, ascend, classify


class Spy(nn.Module):
    """A linear classifier that remembers the images of its last call in training mode."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(16, 3, generator=generator))
        self.seen = torch.empty(0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = images.detach()
        return images.flatten(1) @ self.weight


def batch(progress: float = 1.0, epoch: int = 0, ids: tuple[int, ...] = (4, 0, 2)) -> Batch:
    draws = ImageDraws.of(7, f"epoch {epoch}", torch.tensor(ids))
    images = ImageDraws.of(7, "images", torch.tensor(ids)).uniform(1, 4, 4) * 0.6 + 0.2
    return Batch(images, torch.tensor([0, 1, 2]), torch.tensor(ids), draws, progress)


def test_benign_sees_the_images_as_they_are() -> None:
    model = Spy().train()
    losses = Benign()(model, batch())
    assert torch.equal(model.seen, batch().images)
    expected = F.cross_entropy(batch().images.flatten(1) @ model.weight, batch().labels)
    assert torch.allclose(losses.total, expected)
    assert losses.parts()["loss"] == pytest.approx(expected.item())


def test_a_step_goes_up_the_loss_and_leaves_the_model_alone() -> None:
    model, one = Spy().train(), batch()
    moved = ascend(model, one.images, one.labels, 0.05, Linf(0.05))
    assert classify(model, moved, one.labels).total > classify(model, one.images, one.labels).total
    assert torch.allclose((moved - one.images).abs(), torch.full_like(moved, 0.05), atol=1e-6)
    assert model.training
    assert model.weight.grad is None


def test_online_trains_on_the_attack() -> None:
    model, attack = Spy().train(), Pgd(steps=3, stop_when_fooled=False)
    Online(epsilon=0.1, warm_up=0, attack=attack)(model, batch())
    one = batch()
    expected = attack(model, one.images, one.labels, Linf(0.1), one.draws.child("attack"))
    assert torch.equal(model.seen, expected)
    assert (model.seen - one.images).abs().max() > 0.05


def test_single_step_adds_noise_and_one_step() -> None:
    model, one = Spy().train(), batch()
    SingleStep(epsilon=0.1, warm_up=0, noise=0.0)(model, one)
    expected = ascend(model, one.images, one.labels, 0.1, Linf(0.1)).clamp(0, 1)
    assert torch.allclose(model.seen, expected)
    SingleStep(epsilon=0.1, warm_up=0, noise=2.0)(model, one)
    assert (model.seen - one.images).abs().max() > 0.1  # not projected back: noise 2, step 1


def test_warm_start_follows_the_attack_across_epochs() -> None:
    model = Spy().train()
    objective = WarmStart(epsilon=0.1, warm_up=0, step=0.5, horizontal_flip=False)
    distances = []
    for epoch in range(3):
        objective(model, batch(epoch=epoch))
        distances.append((model.seen - batch().images).abs().mean().item())
    assert distances[0] == pytest.approx(0.05, abs=1e-3)
    assert distances[1] == pytest.approx(0.1, abs=2e-3)  # a linear model: the same direction again
    assert distances[2] <= 0.1 + 1e-6


def test_warm_start_remembers_each_image_in_its_own_orientation() -> None:
    model = Spy().train()
    objective = WarmStart(epsilon=0.1, warm_up=0, horizontal_flip=True)
    plain = WarmStart(epsilon=0.1, warm_up=0, horizontal_flip=False)
    flipped = {epoch: batch(epoch=epoch).draws.child("flip").uniform() < 0.5 for epoch in range(20)}
    epoch = next(epoch for epoch, which in flipped.items() if which.any() and not which.all())
    flips = flipped[epoch]
    objective(model, batch(epoch=epoch))
    mirrored = torch.where(flips[:, None, None, None], batch().images.flip(3), batch().images)
    moved = model.seen
    plain(model, batch(epoch=epoch)._replace(images=mirrored))
    assert torch.equal(moved, model.seen)
    kept, there = objective.memory["perturbations"][batch().ids], plain.memory["perturbations"][batch().ids]
    assert torch.equal(torch.where(flips[:, None, None, None], kept.flip(3), kept), there)


def test_warm_start_state_round_trip_and_growth() -> None:
    model, one, other = Spy().train(), WarmStart(epsilon=0.1, warm_up=0), WarmStart(epsilon=0.1, warm_up=0)
    one(model, batch())
    assert len(one.memory["perturbations"]) == 5
    other.restore({name: tensor.clone() for name, tensor in one.state().items()})
    for objective in (one, other):
        objective(model, batch(epoch=1, ids=(9, 0, 2)))
        assert len(objective.memory["perturbations"]) == 10
    assert torch.equal(one.memory["perturbations"], other.memory["perturbations"])
    assert one == other  # memory is state, not configuration


def test_the_radius_grows() -> None:
    objective = SingleStep(epsilon=0.2, warm_up=0.5)
    assert [objective.radius(progress) for progress in (0, 0.25, 0.5, 1)] == pytest.approx([0, 0.1, 0.2, 0.2])


@pytest.mark.parametrize("make", [lambda: SingleStep(epsilon=8), lambda: SingleStep(warm_up=2)])
def test_bad_values(make) -> None:
    with pytest.raises(ValueError):
        make()


def test_warm_start_is_for_linf() -> None:
    with pytest.raises(ValueError, match="linf"):
        WarmStart(norm="l2", epsilon=1.0)
