"""Every attack in the registry x one odd image: it is noticed, and the others fare as they do without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import victims
from contract.test_attack_matrix import ONE_NORM, QUICK
from memory_defense.attacks import ATTACKS, attack
from memory_defense.contracts import Attack, Ball, needs_gradient, parts_of_attack
from memory_defense.noticed import noticing
from memory_defense.passes import regular
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf

ODD = 4
"""The row of the bright image."""

COUNT = 9


class _Poisoned(torch.autograd.Function):
    """The images as they are; the gradient of the odd ones is `bad`."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, odd: Tensor, bad: float) -> Tensor:
        ctx.odd, ctx.bad = odd, bad
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.masked_fill(ctx.odd[:, None, None, None], ctx.bad), None, None


def bright(images: Tensor) -> Tensor:
    return images.flatten(1).mean(1) > 0.8


class Badly(nn.Module):
    """A network whose gradient at bright images is `gradient`, and whose logits for moved ones are `answer`."""

    def __init__(self, gradient: float | None = None, answer: float | None = None) -> None:
        super().__init__()
        self.network, self.gradient, self.answer = victims.mlp(), gradient, answer

    def forward(self, images: Tensor) -> Tensor:
        odd = bright(images)
        if self.gradient is not None and images.requires_grad:
            images = _Poisoned.apply(images, odd, self.gradient)  # pyright: ignore
        logits = self.network(images)
        if self.answer is not None:
            moved = (images.detach() - 0.9).flatten(1).abs().amax(1) > 0.01
            logits = torch.where((odd & moved)[:, None], self.answer, logits)
        return logits


def problem() -> tuple[Tensor, Tensor]:
    images = victims.images(COUNT).mul(0.5)
    images[ODD] = 0.9
    return images, victims.mlp()(images).argmax(1)


def cases() -> list[Any]:
    found: list[Any] = []
    for name in ATTACKS:
        # The smallest change is approached from outside, and a quick search comes no nearer.
        ball: Ball = L2(0.6) if ONE_NORM.get(name) == "l2" else Linf(0.3 if name == "fmn" else 0.08)
        found.append(pytest.param(attack(name, **QUICK.get(name, {})), ball, id=name))
    return found


def run(one: Attack, model: nn.Module, ball: Ball, rows: Tensor) -> tuple[Tensor, set[int]]:
    images, labels = problem()
    with noticing() as noticed:
        draws = ImageDraws.of(0, "odd", rows)
        found = one(regular(model), images[rows], labels[rows], ball, draws)
    return found, noticed.no_gradient


def follows(one: Attack, ball: Ball) -> bool:
    return any(map(needs_gradient, parts_of_attack(one, ball.norm).values()))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("one", "ball"), cases())
def test_a_gradient_that_is_not_finite_counts_as_0_for_its_image_alone(one, ball, bad) -> None:
    everyone, others = torch.arange(COUNT), torch.tensor([row for row in range(COUNT) if row != ODD])
    found, odd = run(one, Badly(gradient=bad), ball, everyone)
    without, none = run(one, Badly(gradient=bad), ball, others)
    assert odd == ({ODD} if follows(one, ball) else set())
    assert none == set()
    assert torch.equal(found[others], without)
    images, _ = problem()
    assert ball.contains(found, images).all()
    plain, _ = run(one, Badly(), ball, everyone)
    assert torch.equal(found[others], plain[others])
    if not follows(one, ball):
        assert torch.equal(found, plain), "an attack without gradients attacks the odd image as any other"


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(("one", "ball"), cases())
def test_an_image_that_loses_its_answer_is_handed_back_so(one, ball, bad) -> None:
    everyone, others = torch.arange(COUNT), torch.tensor([row for row in range(COUNT) if row != ODD])
    model = Badly(answer=bad)
    found, _ = run(one, model, ball, everyone)
    plain, _ = run(one, Badly(), ball, everyone)
    assert torch.equal(found[others], plain[others])
    images, _ = problem()
    assert ball.contains(found, images).all()
    if isinstance(one, ATTACKS["hop-skip-jump"]) and torch.equal(found[ODD], plain[ODD]):
        return  # it starts at random images, and met none that is bright
    assert not torch.equal(found[ODD], images[ODD]), "once an image is moved, this model has no answer"
    assert not model(found)[ODD].isfinite().any()
