"""DDN's own rules; what it shares with other minimum-norm attacks is tested in test_closest."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from attacks import victims
from memory_defense.attacks import Ddn
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf


def one_by_one(settings: Ddn, model: nn.Module, clean: Tensor, label: int) -> Tensor:
    """The published algorithm for one image, with the cross-entropy itself; the last iterate is judged too."""
    change, norm, best, shortest = torch.zeros_like(clean), settings.initial_norm, clean, math.inf
    for step in range(settings.steps + 1):
        image = (clean + change).requires_grad_()
        logits = model(image[None])
        loss = nn.functional.cross_entropy(logits, torch.tensor([label]))
        (gradient,) = torch.autograd.grad(loss, image)
        fooled = int(logits.argmax()) != label
        if fooled and change.norm().item() < shortest:
            best, shortest = (clean + change).detach(), change.norm().item()
        size = 0.01 + 0.99 * (1 + math.cos(math.pi * step / settings.steps)) / 2
        change = change + size * gradient / gradient.norm()
        norm *= 1 - settings.gamma if fooled else 1 + settings.gamma
        change = (clean + norm * change / change.norm()).clamp(0, 1) - clean
    return best


@pytest.mark.parametrize("settings", [Ddn(steps=30), Ddn(steps=30, gamma=0.2, initial_norm=0.4)])
def test_it_is_the_published_algorithm_image_by_image(settings: Ddn) -> None:
    model, clean = victims.mlp(), victims.images(5)
    model.requires_grad_(False)
    labels = victims.right_answers(model, clean)
    result = settings(model, clean, labels, L2(math.inf), ImageDraws.of(0, "a", 5))
    expected = torch.stack(
        [one_by_one(settings, model, image, int(label)) for image, label in zip(clean, labels, strict=True)]
    )
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


class Plateau(nn.Module):
    """Constant, with a zero gradient, around white images; linear in the mean away from them."""

    def forward(self, images: Tensor) -> Tensor:
        darkness = (1 - images).flatten(1).sum(1, keepdim=True)
        away = nn.functional.relu(darkness - 0.5)
        return torch.cat([torch.full_like(away, 0.1), away], 1)


def test_a_flat_start_is_left_in_a_drawn_direction() -> None:
    clean, labels = torch.ones(6, 1, 6, 6), torch.zeros(6, dtype=torch.int64)
    draws = ImageDraws.of(0, "a", 6)
    result = Ddn()(Plateau(), clean, labels, L2(math.inf), draws)
    assert bool((Plateau()(result).argmax(1) == 1).all())
    assert bool((L2(0).distance(result, clean) <= 1.05 * 0.6 / 6).all()), "0.6 of darkness, spread over 36 pixels"
    alone = Ddn()(Plateau(), clean[2:3], labels[2:3], L2(math.inf), draws.rows(torch.tensor([2])))
    torch.testing.assert_close(alone, result[2:3], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"gamma": 0.0}, "gamma is 0.0"),
        ({"gamma": 1.0}, "gamma is 1.0"),
        ({"initial_norm": 0.0}, "initial_norm is 0"),
        ({"loss": "marign"}, "did you mean 'margin'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Ddn(**settings)  # pyright: ignore


def test_another_norm_is_refused() -> None:
    clean, labels = victims.images(2), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"the ball is linf; use threat\.L2"):
        Ddn()(victims.mlp(), clean, labels, Linf(0.1), ImageDraws.of(0, "a", 2))
