"""APGD, FAB-T and Square beside the code of AutoAttack's authors: the same iterates, the same robust images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attacks import victims
from memory_defense.attacks import Apgd, ApgdTargeted, FabTargeted, Square
from memory_defense.contracts import Ball
from memory_defense.losses import cross_entropy
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf

theirs: Any = pytest.importorskip("pyautoattack.autopgd_base", reason="install the extra: pip install '.[parity]'")
fab: Any = pytest.importorskip("pyautoattack.fab_pt")
square: Any = pytest.importorskip("pyautoattack.square")

COUNT = 64
STEPS = 40
NORMS = {"linf": "Linf", "l2": "L2"}


class Watched:
    """Keeps every batch the model is called with."""

    def __init__(self, model: Any) -> None:
        self.model, self.calls = model, list[Tensor]()

    def __call__(self, images: Tensor) -> Tensor:
        self.calls.append(images.detach().float().clone())
        return self.model(images).float()


def problem() -> tuple[Watched, Tensor, Tensor]:
    model, clean = victims.mlp(), victims.images(COUNT)
    return Watched(model), clean, victims.right_answers(model, clean)


def robust(model: Watched, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return model.model(images).argmax(1) == labels


@pytest.mark.parametrize("ball", [Linf(0.03), L2(0.2)], ids=["linf", "l2"])
@pytest.mark.parametrize("loss", ["cross-entropy", "dlr"])
def test_apgd_takes_the_same_steps(ball: Ball, loss: str) -> None:
    """From our start. Where the first step lowers the loss, their first checkpoint counts otherwise."""
    model, clean, labels = problem()
    attack = Apgd(steps=STEPS, loss=loss, stop_when_fooled=False)
    attack(model, clean, labels, ball, ImageDraws.of(0, "a", COUNT))
    ours = torch.stack(model.calls[1:])  # (1 + steps, B, C, H, W); the first call judges the clean images
    peer = Watched(model.model)
    run = theirs.APGDAttack(
        peer,
        n_iter=STEPS,
        norm=NORMS[ball.norm],
        eps=ball.epsilon,
        seed=0,
        loss={"cross-entropy": "ce", "dlr": "dlr"}[loss],
        rho=0.75,
        device="cpu",
    )
    run.init_hyperparam(clean)
    run.attack_single_run(clean, labels, x_init=ours[0].clone())
    other = torch.stack(peer.calls[-(STEPS + 1) :])
    assert ours.shape == other.shape == (STEPS + 1, *clean.shape)
    with torch.no_grad():
        values = torch.stack([cross_entropy(model.model(points), labels) for points in ours[:2]])
    rises = values[1] > values[0]
    # An iterate differs for good once a gradient of rounding size changes its sign: such images are few.
    apart = (ours - other).abs().flatten(2).amax(2).amax(0)  # (B,)
    same = apart[rises] < 1e-4
    assert len(same) > 0.8 * COUNT
    assert same.float().mean() > 0.9


@pytest.mark.parametrize("ball", [Linf(0.03), L2(0.2)], ids=["linf", "l2"])
def test_targeted_apgd_leaves_as_many_images_robust(ball: Ball) -> None:
    model, clean, labels = problem()
    mine = ApgdTargeted(steps=STEPS, targets=3)(model, clean, labels, ball, ImageDraws.of(0, "a", COUNT))
    run = theirs.APGDAttack_targeted(
        model.model, n_iter=STEPS, norm=NORMS[ball.norm], eps=ball.epsilon, seed=0, n_target_classes=3, device="cpu"
    )
    other = run.perturb(clean, labels)
    left, there = (int(robust(model, points, labels).sum()) for points in (mine, other))
    assert 4 < there < COUNT - 4
    assert abs(left - there) <= 1


@pytest.mark.parametrize("ball", [Linf(0.03), L2(0.2)], ids=["linf", "l2"])
def test_fab_leaves_as_many_images_robust(ball: Ball) -> None:
    model, clean, labels = problem()
    attack = FabTargeted(steps=STEPS, targets=3, stop_when_fooled=True)
    mine = attack(model, clean, labels, ball, ImageDraws.of(0, "a", COUNT))
    run = fab.FABAttack_PT(
        Watched(model.model),
        norm=NORMS[ball.norm],
        n_iter=STEPS,
        eps=ball.epsilon,
        seed=0,
        targeted=True,
        n_target_classes=3,
        device="cpu",
    )
    other = run.perturb(clean, labels)
    there = robust(model, other, labels) | (ball.distance(other, clean) > ball.epsilon + 1e-5)
    left = robust(model, mine, labels)
    assert 4 < int(there.sum()) < COUNT - 4
    assert abs(int(left.sum()) - int(there.sum())) <= 1


@pytest.mark.parametrize("ball", [Linf(0.05), L2(0.4)], ids=["linf", "l2"])
def test_square_leaves_as_many_images_robust(ball: Ball) -> None:
    """Random searches differ image by image; on average they must not."""
    model, clean, labels = problem()
    mine = Square(queries=400)(model, clean, labels, ball, ImageDraws.of(0, "a", COUNT))
    run = square.SquareAttack(
        model.model, norm=NORMS[ball.norm], n_queries=400, eps=ball.epsilon, p_init=0.8, seed=0, device="cpu"
    )
    other = run.perturb(clean, labels)
    left, there = (int(robust(model, points, labels).sum()) for points in (mine, other))
    assert 4 < there < COUNT - 4
    assert left - there <= 4
