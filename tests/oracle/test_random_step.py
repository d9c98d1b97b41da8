"""RAND+FGSM on an affine classifier gains what two known steps gain: one along the draws, one the best there is."""

from __future__ import annotations

import pytest
import torch

from attacks import victims
from memory_defense.attacks import RandFgsm
from memory_defense.contracts import Ball
from memory_defense.losses import margin
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf


@pytest.mark.parametrize("ball", [Linf(0.08), L2(0.2)], ids=["linf", "l2"])
@pytest.mark.parametrize("alpha", [None, 0.05])
@pytest.mark.parametrize("count", [1, 7, 64])
def test_what_the_random_step_leaves_gains_its_dual_norm(ball: Ball, alpha: float | None, count: int) -> None:
    model, clean = victims.affine(classes=2), victims.images(count, low=0.3, high=0.7)
    labels, draws = victims.right_answers(model, clean), ImageDraws.of(3, "oracle", count)
    d = model.weight[1 - labels] - model.weight[labels]
    noise = draws.child("random step").normal(*clean.shape[1:]).flatten(1).double()
    chance = noise.sign() if ball.norm == "linf" else noise / noise.norm(dim=1, keepdim=True)
    dual = d.abs().sum(1) if ball.norm == "linf" else d.norm(dim=1)
    first = ball.epsilon / 2 if alpha is None else alpha

    attack = RandFgsm(alpha=alpha, stop_when_fooled=False, micro_batch=9)
    result = attack(model, clean, labels, ball, draws)

    assert bool(ball.contains(result, clean).all())
    gain = (margin(model(result), labels) - margin(model(clean), labels)).detach()
    expected = first * (chance * d).sum(1) + (ball.epsilon - first) * dual
    torch.testing.assert_close(gain, expected, atol=1e-4, rtol=0)
