"""The adaptive set: the defense's own values bit for bit, and the gradient that each name promises."""

from __future__ import annotations

import pytest
import torch

from memory_defense.contracts import Binding, RowBound
from memory_defense.defenses.memory.evidence import SCORES
from memory_defense.defenses.memory.surrogates import Joint

NAMES = ["steering", "joint"]


def gradient(model, images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    images = images.clone().requires_grad_()
    return torch.autograd.grad((model(images) * weight).sum(), images)[0]


def test_the_set_is_published_and_the_flag_adds_to_it(build) -> None:
    defense = build()
    assert list(defense.adaptive()) == NAMES
    assert defense.adaptive()["steering"].towards_each_class
    assert not defense.adaptive()["joint"].towards_each_class
    defense.flag_threshold = 0.1
    assert list(defense.adaptive()) == [*NAMES, "silent", "crossing"]


@pytest.mark.parametrize("name", NAMES)
def test_the_value_is_the_defenses(build, batch, name) -> None:
    defense, images = build(), batch(12).images
    surrogate = defense.adaptive()[name].surrogate
    with torch.no_grad():
        expected = defense(images)
        assert torch.equal(surrogate(images), expected)
    assert torch.equal(surrogate(images.clone().requires_grad_()).detach(), expected)


def test_steering_has_the_selectors_gradient_alone(build, batch) -> None:
    defense, images = build(), batch(6).images
    weight = torch.randn(6, defense.classes)
    expected = gradient(lambda points: defense.selector(points).log_softmax(1), images, weight)
    torch.testing.assert_close(gradient(defense.adaptive()["steering"].surrogate, images, weight), expected)


def test_joint_adds_classifier_b_by_its_weight(build, batch) -> None:
    defense, images = build(), batch(6).images
    weight = torch.randn(6, defense.classes)
    selector = gradient(lambda points: defense.selector(points).log_softmax(1), images, weight)
    whole = gradient(lambda points: defense.surrogates()["end-to-end"](points).log_softmax(1), images, weight)
    for share in (0.1, 1.0):
        found = gradient(Joint(defense, weight=share), images, weight)
        torch.testing.assert_close(found, selector + share * whole, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="at least 0"):
        Joint(defense, weight=-1.0)


@pytest.mark.parametrize("score", SCORES)
def test_silent_counts_a_flagged_image_as_right_and_pulls_the_score_down(build, batch, score) -> None:
    defense, images = build(), batch(10).images
    defense.flag_score = score
    defense.flag_threshold = float(defense.scores(images)[score].detach().median()) + 1e-6
    published = defense.adaptive()
    assert [name for name, one in published.items() if one.fights_flag] == ["silent", "crossing"]
    binder = published["silent"].surrogate
    assert isinstance(binder, Binding)
    bound = binder.bind(images)
    assert isinstance(bound, RowBound)
    right = defense(images).argmax(1)
    other = batch(10).images
    logits, flagged = bound(other), defense.suspicious(other)
    assert flagged.any()
    assert torch.equal(logits.argmax(1)[flagged], right[flagged])
    assert torch.equal(logits[~flagged], defense(other)[~flagged])
    # A step against the right class lowers the score of a flagged image.
    rows = flagged.nonzero().squeeze(1)
    some = other[rows].clone().requires_grad_()
    lead = bound.rows(rows)(some).gather(1, right[rows, None]).sum()
    (slope,) = torch.autograd.grad(lead, some)
    stepped = (other[rows] - 1e-4 * slope / slope.flatten(1).norm(dim=1)[:, None, None, None]).clamp(0, 1)
    assert (defense.scores(stepped)[score] <= defense.scores(other[rows])[score] + 1e-6).float().mean() > 0.7


def test_silent_bears_a_threshold_of_nothing(build, batch) -> None:
    defense, images = build(), batch(6).images
    defense.flag_score, defense.flag_threshold = "disagreement", 0.0
    bound = defense.adaptive()["silent"].surrogate.bind(images)
    assert torch.isfinite(bound(batch(6).images)).all()


def test_without_a_threshold_nothing_is_flagged(build, batch) -> None:
    with pytest.raises(ValueError, match="flag_threshold"):
        build().suspicious(batch(2).images)
