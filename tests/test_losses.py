"""The losses against brute-force loops, and the meaning of their signs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memory_defense.losses import LOSSES, cross_entropy, difference_of_logits_ratio, margin, targeted
from memory_defense.randomness import generator


def problem(seed: int, classes: int = 5) -> tuple[Tensor, Tensor]:
    random = generator(seed, "logits")
    return 3 * torch.randn(20, classes, generator=random), torch.randint(0, classes, (20,), generator=random)


def by_hand(name: str, scores: list[float], label: int) -> float:
    others = [score for k, score in enumerate(scores) if k != label]
    if name == "cross-entropy":
        return math.log(sum(math.exp(score - scores[label]) for score in scores))
    if name == "margin":
        return max(others) - scores[label]
    ordered = sorted(scores, reverse=True)
    return (max(others) - scores[label]) / (ordered[0] - ordered[2] + 1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_its_formula(name: str) -> None:
    logits, labels = problem(0)
    expected = [by_hand(name, row.tolist(), int(label)) for row, label in zip(logits, labels, strict=True)]
    torch.testing.assert_close(LOSSES[name](logits, labels), torch.tensor(expected), atol=1e-5, rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_margin_and_dlr_are_positive_exactly_for_errors(seed: int) -> None:
    logits, labels = problem(seed)
    wrong = logits.argmax(1) != labels
    assert torch.equal(margin(logits, labels) > 0, wrong)
    assert torch.equal(difference_of_logits_ratio(logits, labels) > 0, wrong)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.floats(-5, 5), st.floats(0.1, 10))
def test_shifts_change_nothing_and_scales_not_the_dlr(seed: int, shift: float, scale: float) -> None:
    logits, labels = problem(seed)
    for loss in LOSSES.values():
        torch.testing.assert_close(loss(logits + shift, labels), loss(logits, labels), atol=1e-4, rtol=1e-3)
    scaled = difference_of_logits_ratio(logits * scale, labels)
    torch.testing.assert_close(scaled, difference_of_logits_ratio(logits, labels), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_one_number_for_each_image_with_a_gradient(name: str) -> None:
    logits, labels = problem(1)
    logits.requires_grad_()
    losses = LOSSES[name](logits, labels)
    assert losses.shape == (20,)
    (gradient,) = torch.autograd.grad(losses[3], logits)
    assert gradient[3].abs().sum() > 0
    assert gradient[torch.arange(20) != 3].abs().sum() == 0
    assert gradient[3, labels[3]] < 0, "less of the label is more loss"


@pytest.mark.parametrize("name", LOSSES)
def test_targeted_losses_rise_towards_the_target(name: str) -> None:
    logits, labels = problem(2)
    nearer = logits + 0.1 * torch.nn.functional.one_hot(labels, 5)
    towards = targeted(LOSSES[name])
    rise = towards(nearer, labels) - towards(logits, labels)
    assert bool((rise >= 0).all()), "the DLR alone is flat, where the target leads already"
    assert (rise > 0).double().mean() > 0.7


def test_two_classes_suffice_for_all_but_the_dlr() -> None:
    logits, labels = problem(3, classes=2)
    torch.testing.assert_close(cross_entropy(logits, labels), torch.nn.functional.softplus(margin(logits, labels)))
    with pytest.raises(ValueError, match="at least 3 classes, the model has 2"):
        difference_of_logits_ratio(logits, labels)
