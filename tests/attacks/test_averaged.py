"""Averaged gradients: the mean of the losses' gradients, not the gradient of a mean answer's loss."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks import victims
from memory_defense.attacks import Apgd
from memory_defense.attacks.engine import Averaged, attacked
from memory_defense.losses import cross_entropy
from memory_defense.randomness import ImageDraws
from memory_defense.threat import Linf


class Alternating:
    """Answers with the weights of one affine model and the next in turn; 8 images, so that no pass is padded."""

    def __init__(self) -> None:
        self.models = [victims.affine(seed=seed) for seed in (1, 2, 3)]
        self.calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.models[(self.calls - 1) % 3](images)


def test_the_gradient_is_the_mean_of_the_losses_gradients() -> None:
    model, clean = Alternating(), victims.images(8)
    labels = torch.arange(8) % victims.CLASSES
    expected = torch.zeros_like(clean)
    for one in model.models:
        leaf = clean.clone().requires_grad_()
        expected += torch.autograd.grad(cross_entropy(one(leaf), labels).sum(), leaf)[0] / 3
    with attacked(model, clean, labels) as victim:
        rows = victim.all_rows()
        seen = Averaged(victim, 3).gradient(clean, rows, cross_entropy)
    torch.testing.assert_close(seen.gradient, expected, atol=1e-6, rtol=1e-5)
    last = model.models[2](clean)
    torch.testing.assert_close(seen.logits, last)
    torch.testing.assert_close(seen.losses.double(), cross_entropy(last, labels), atol=1e-6, rtol=1e-6)


def test_apgd_asks_for_every_gradient_so_often() -> None:
    model, clean = Alternating(), victims.images(8)
    labels = torch.zeros(8, dtype=torch.int64)
    Apgd(steps=4, samples=3).for_transfer()(model, clean, labels, Linf(0.1), ImageDraws.of(0, "a", 8))
    assert model.calls == 1 + 4 * 3 + 1  # the clean images and the last iterates are judged by one pass each


def test_on_a_model_without_randomness_samples_change_nothing() -> None:
    model, clean = victims.mlp(), victims.images(8)
    labels, draws = victims.right_answers(model, clean), ImageDraws.of(0, "a", 8)
    one, many = (Apgd(steps=10, samples=count)(model, clean, labels, Linf(0.1), draws) for count in (1, 4))
    torch.testing.assert_close(one, many, atol=1e-6, rtol=0)
