"""Rectified rejection: the target of A, the score, the threshold, both losses and what they train."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from memory_defense.attacks import ApgdTargeted, Pgd
from memory_defense.contracts import Batch, Flagging, Stateful
from memory_defense.defenses.rectified import (
    FALSE_ALARMS,
    MISTRUST,
    PRESETS,
    UNSURE,
    Rectified,
    RectifiedObjective,
    build_rectified,
    trust_target,
)
from memory_defense.networks.classifiers import Linear
from memory_defense.randomness import ImageDraws
from memory_defense.threat import Linf
from memory_defense.training.adversarial import Online, WarmStart

SHAPE = {"channels": 1, "size": 8, "classes": 3, "mean": (0.5,), "std": (0.25,)}


@pytest.fixture
def model() -> Rectified:
    torch.manual_seed(0)
    return build_rectified(preset="tiny", **SHAPE).eval()


def images_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def batch_of(count: int, progress: float = 0.5) -> Batch:
    images = images_of(count)
    labels = (images[:, 0, 0, 0] * 3).long()
    ids = torch.arange(count)
    return Batch(images, labels, ids, ImageDraws.of(0, "test", ids, images.device), progress)


def test_the_target_is_the_ratio_of_two_probabilities() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    assert trust_target(logits, torch.tensor([0, 1])).tolist() == pytest.approx([1.0, math.exp(-1)])
    wide = 50 * torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(100) % 3
    target, probabilities = trust_target(wide, labels), wide.double().softmax(1)
    expected = probabilities.gather(1, labels[:, None]).squeeze(1) / probabilities.amax(1)
    torch.testing.assert_close(target.double(), expected, atol=1e-6, rtol=1e-4)


def test_a_perfect_second_head_leaves_no_wrong_answer_more_than_half() -> None:
    """p(y^) p(y) / p(y^) = p(y), which a wrong answer's class outweighs: at most 1/2 (Pang et al., section 3)."""
    logits = 3 * torch.randn(500, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(500) % 4
    certain = logits.softmax(1).amax(1) * trust_target(logits, labels)
    wrong = logits.argmax(1) != labels
    assert wrong.any()
    assert bool((certain[wrong] <= 0.5).all())
    torch.testing.assert_close(certain, logits.softmax(1).gather(1, labels[:, None]).squeeze(1))


def test_the_scores_are_what_the_heads_say(model) -> None:
    images = images_of(20)
    logits, trust = model.both(images)
    assert torch.equal(logits, model(images))
    scores = model.scores(images)
    assert isinstance(model, Flagging)
    torch.testing.assert_close(scores[MISTRUST], 1 - logits.softmax(1).amax(1) * trust.sigmoid())
    torch.testing.assert_close(scores[UNSURE], 1 - logits.softmax(1).amax(1))
    assert torch.equal(model.surrogates()["end-to-end"](images), model(images))


def test_the_threshold_flags_the_stated_share_of_held_out_images_and_travels(model) -> None:
    with pytest.raises(ValueError, match="before flag_threshold is set"):
        model.suspicious(images_of(2))
    assert not model.adaptive()
    held_out = images_of(199)
    model.fit_threshold(held_out)
    assert int(model.suspicious(held_out).sum()) == int(FALSE_ALARMS * 200) - 1  # all above the tenth largest
    other = build_rectified(preset="tiny", **SHAPE)
    other.load_state_dict(model.state_dict())
    assert other.flag_threshold == model.flag_threshold


def test_what_fights_the_flag_gets_further_than_what_ignores_it(model) -> None:
    """Of the images that attacks on the answer alone leave flagged, fighters get some accepted."""
    images = images_of(60, seed=3)
    labels, draws = model(images).argmax(1), ImageDraws.of(0, "test", torch.arange(60), images.device)
    model.fit_threshold(images, 0.5)
    published = model.adaptive()
    assert [name for name, one in published.items() if one.fights_flag] == ["silent", "crossing", "confident"]
    assert [name for name, one in published.items() if one.towards_each_class] == ["confident"]

    def passed(found: torch.Tensor) -> int:
        return int(((model(found).argmax(1) != labels) & ~model.suspicious(found)).sum())

    attacks = dict.fromkeys(("silent", "crossing"), Pgd(steps=20, loss="margin"))
    attacks["confident"] = ApgdTargeted(steps=10, targets=2, loss="margin")
    ball = Linf(0.3)
    ignoring = passed(Pgd(steps=20, loss="margin")(model, images, labels, ball, draws))
    fought = {
        name: passed(attack(published[name].surrogate.bind(images), images, labels, ball, draws))
        for name, attack in attacks.items()
    }
    assert min(fought.values()) > ignoring, fought


def test_the_losses_are_their_formulas_and_train_trunk_and_both_heads(model) -> None:
    batch = batch_of(12)
    objective = RectifiedObjective(crafting=Online(epsilon=0.1, warm_up=0, attack=Pgd(steps=2)), trust=0.7)
    crafted = objective.craft(model, batch)
    assert bool(Linf(0.1).contains(crafted, batch.images).all())
    losses = objective.losses(model, crafted, batch)
    logits, trust = model.both(crafted)
    chance, goal = trust.sigmoid(), trust_target(logits, batch.labels)
    expected = -(goal * chance.log() + (1 - goal) * (1 - chance).log()).mean()
    torch.testing.assert_close(losses.trust, expected)
    torch.testing.assert_close(losses.answer, F.cross_entropy(logits, batch.labels))
    torch.testing.assert_close(losses.total, losses.answer + 0.7 * losses.trust)
    grown = torch.autograd.grad(losses.trust, list(model.parameters()), allow_unused=True)
    named = {name for (name, _), one in zip(model.named_parameters(), grown, strict=True) if one is not None}
    assert {name.split(".")[0] for name in named} == {"network", "trust_head"}
    last = {"network.head.2.weight", "network.head.2.bias"}
    assert not named & last, "the target has no gradient, so the answers' layer learns nothing from the trust"


def test_what_the_crafting_remembers_is_passed_on(model) -> None:
    objective = RectifiedObjective(crafting=WarmStart(epsilon=0.1, warm_up=0))
    assert isinstance(objective, Stateful)
    batch = batch_of(12)
    objective(model, batch)
    kept = {name: one.clone() for name, one in objective.state().items()}
    assert kept["perturbations"].any()
    torch.testing.assert_close(objective.recall(batch.ids)["perturbations"], kept["perturbations"])
    objective.restore({})
    assert not objective.state()
    objective.restore(kept)
    objective.remember(batch.ids[:2], {"perturbations": torch.zeros_like(kept["perturbations"][:2])})
    assert not objective.state()["perturbations"][:2].any()
    plain = RectifiedObjective(crafting=Online(attack=Pgd(steps=1)))
    assert plain.state() == plain.recall(batch.ids) == {}


def test_training_makes_the_second_head_tell_right_from_wrong() -> None:
    """Labels that are drawn by a coin where the image is dark: nothing but distrust can be learnt there."""
    torch.manual_seed(0)
    model = build_rectified(preset="tiny", **SHAPE)
    objective = RectifiedObjective(crafting=Online(epsilon=0.0, attack=Pgd(steps=1)))
    images = images_of(256)
    coin = torch.randint(0, 3, (256,), generator=torch.Generator().manual_seed(5))
    dark = torch.arange(256) % 2 == 0
    images = torch.where(dark[:, None, None, None], images * 0.3, 0.7 + images * 0.3)
    labels = torch.where(dark, coin, 0)
    ids = torch.arange(256)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        batch = Batch(images, labels, ids, ImageDraws.of(0, "test", ids, images.device), 0.5)
        optimizer.zero_grad()
        objective(model, batch).total.backward()
        optimizer.step()
    with torch.no_grad():
        score = model.eval().scores(images)[MISTRUST]
    assert float(score[dark].mean()) > float(score[~dark].mean()) + 0.3


def test_bad_settings_are_refused_and_the_presets_are_built() -> None:
    with pytest.raises(ValueError, match="trust"):
        RectifiedObjective(crafting=Online(attack=Pgd(steps=1)), trust=-1)
    with pytest.raises(ValueError, match="no head that ends in a linear layer"):
        Rectified(Linear(**SHAPE))
    with pytest.raises(ValueError, match="did you mean 'small'"):
        build_rectified(preset="smal", **SHAPE)
    for preset in PRESETS:
        built = build_rectified(preset=preset, **SHAPE)
        assert built(images_of(2)).shape == (2, 3)
        assert isinstance(built.trust_head, nn.Sequential)
