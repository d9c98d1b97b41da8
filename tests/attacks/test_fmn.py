"""FMN's own rules; what it shares with other minimum-norm attacks is tested in test_closest."""

from __future__ import annotations

import math

import pytest
import torch

from attacks import victims
from attacks.minimum import lead
from memory_defense.attacks import Fmn
from memory_defense.attacks.fmn import dual_norm, shorten
from memory_defense.contracts import Ball
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.wrappers import CountingPasses


@pytest.mark.parametrize("ball", [Linf(1.0), L2(1.0)], ids=["linf", "l2"])
def test_a_radius_of_its_own_for_each_image_and_no_change_is_lengthened(ball: Ball) -> None:
    offset = (
        torch.randn(40, 3, 4, 4, generator=victims.generator()) * torch.linspace(0.01, 3, 40)[:, None, None, None]
    )
    zero = torch.zeros_like(offset)
    length = ball.distance(offset, zero)
    radius = length * torch.rand(40, generator=victims.generator(1)) * 2
    shorter = shorten(ball, offset, radius)
    inside = length <= radius
    assert 5 < inside.sum() < 35
    torch.testing.assert_close(shorter[inside], offset[inside], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ball.distance(shorter, zero), torch.minimum(length, radius))
    for index, size in enumerate(radius.tolist()):
        if ball.norm == "l2":
            nearest = offset[index] * min(1.0, size / float(length[index]))
        else:
            nearest = offset[index].clamp(-size, size)
        torch.testing.assert_close(shorter[index], nearest, atol=1e-6, rtol=1e-5)
    assert torch.equal(shorten(ball, zero, radius), zero)


def test_the_slope_is_the_dual_norm() -> None:
    gradient = torch.randn(5, 1, 3, 3, generator=victims.generator())
    torch.testing.assert_close(dual_norm(Linf(0.1), gradient), gradient.abs().flatten(1).sum(1))
    torch.testing.assert_close(dual_norm(L2(0.1), gradient), gradient.flatten(1).norm(dim=1))


@pytest.mark.parametrize("ball", [Linf(1.0), L2(math.inf)], ids=["linf", "l2"])
def test_one_step_crosses_a_plane(ball: Ball) -> None:
    """The first radius is the exact distance stretched by gamma, so one long step along the gradient fools."""
    model, clean = victims.affine(classes=2), victims.images(16, low=0.3, high=0.7)
    labels = victims.right_answers(model, clean)
    counted = CountingPasses(model)
    result = Fmn(steps=1, step_size=30.0)(counted, clean, labels, ball, ImageDraws.of(0, "a", 16))
    assert counted.passes.backward == 16
    d = model.weight[1 - labels] - model.weight[labels]
    least = -lead(model, clean, labels) / (d.abs().sum(1) if ball.norm == "linf" else d.norm(dim=1))
    assert bool((lead(model, result, labels) > 0).all())
    if ball.norm == "l2":
        torch.testing.assert_close(ball.distance(result, clean).double(), 1.05 * least, atol=1e-5, rtol=0)


@pytest.mark.parametrize("ball", [Linf(1.0), L2(math.inf)], ids=["linf", "l2"])
def test_more_steps_find_shorter_changes(ball: Ball) -> None:
    model, clean = victims.mlp(), victims.images(16)
    labels = victims.right_answers(model, clean)
    draws = ImageDraws.of(0, "a", 16)
    few, many = (ball.distance(Fmn(steps=steps)(model, clean, labels, ball, draws), clean) for steps in (8, 100))
    assert bool((many > 0).all())
    few = torch.where(few > 0, few, math.inf)
    assert (many <= 1.001 * few).double().mean() > 0.9
    assert (many < 0.97 * few).double().mean() > 0.2


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"gamma": 1.0}, "gamma is 1.0"),
        ({"gamma": 0.001}, "start above that"),
        ({"step_size": 0.0}, "step_size is 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Fmn(**settings)
