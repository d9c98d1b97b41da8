"""Consistency: on a linear classifier the inner attack reaches the corner, so score and flag are known exactly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memory_defense.attacks import ApgdTargeted, Pgd
from memory_defense.contracts import Flagging
from memory_defense.defenses.consistent import CONSISTENCY, PRESETS, Consistent, InnerAttack, build_consistent
from memory_defense.randomness import ImageDraws
from memory_defense.threat import Linf

RADIUS = 0.1


class Plane(nn.Module):
    """Two classes on both sides of a plane."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(9))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = (images.flatten(1) - 0.5) @ self.weight
        return torch.stack([score, -score], 1)


def images_of(count: int, seed: int = 0) -> torch.Tensor:
    """Inside [0.2, 0.8], where no wall stops an inner attack."""
    return 0.2 + 0.6 * torch.rand(count, 1, 3, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def flag() -> Consistent:
    return Consistent(Plane(), InnerAttack(radius=RADIUS, steps=6, step=0.25)).eval()


def lead(plane: Plane, images: torch.Tensor) -> torch.Tensor:
    """Return the best lead of the other class in the ball: Hoelder's inequality, with equality."""
    score = (images.flatten(1) - 0.5) @ plane.weight
    return 2 * (RADIUS * plane.weight.abs().sum() - score.abs())


def test_the_score_is_the_lead_at_the_corner_and_the_flag_its_sign(flag) -> None:
    images = images_of(200)
    assert isinstance(flag, Flagging)
    expected = lead(flag.classifier, images).detach()
    torch.testing.assert_close(flag.scores(images)[CONSISTENCY], expected, atol=1e-5, rtol=1e-5)
    flagged = flag.suspicious(images)
    assert torch.equal(flagged, expected > 0)
    assert 0 < int(flagged.sum()) < 200
    assert torch.equal(flag(images), flag.classifier(images))
    assert torch.equal(flag.surrogates()["end-to-end"](images), flag(images))


def test_too_short_an_inner_attack_finds_less() -> None:
    images = images_of(100)
    plane = Plane()
    short = Consistent(plane, InnerAttack(radius=RADIUS, steps=2, step=0.25))
    assert bool((short.scores(images)[CONSISTENCY] < lead(plane, images) - 1e-3).all())


def test_the_score_has_the_gradient_of_the_lead_at_the_inner_point(flag) -> None:
    leaf = images_of(10).requires_grad_()
    (found,) = torch.autograd.grad(flag.scores(leaf)[CONSISTENCY].sum(), leaf)
    (expected,) = torch.autograd.grad(lead(flag.classifier, leaf).sum(), leaf)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(flag.scores(leaf)[CONSISTENCY], flag.scores(leaf.detach())[CONSISTENCY])


def test_no_image_s_score_depends_on_its_batch_or_on_chance(flag) -> None:
    images = images_of(24)
    whole = flag.scores(images)[CONSISTENCY]
    assert torch.equal(whole, flag.scores(images)[CONSISTENCY])
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(flag.scores(images[order])[CONSISTENCY], whole[order])
    torch.testing.assert_close(flag.scores(images[5:6])[CONSISTENCY], whole[5:6])


def test_parameters_are_left_alone_and_inference_mode_is_borne(flag) -> None:
    images = images_of(8)
    flag.train()
    with torch.inference_mode():
        inside = flag.scores(images.clone())[CONSISTENCY]
    torch.testing.assert_close(inside.clone(), flag.scores(images)[CONSISTENCY].detach())
    assert flag.classifier.weight.grad is None
    assert flag.classifier.weight.requires_grad
    assert flag.classifier.training


def test_an_accepted_image_has_no_accepted_neighbour_with_another_answer(flag) -> None:
    """The gate's argument: with half of epsilon, and where the inner attack is exact, no attack gets past."""
    images = images_of(100, seed=4)
    labels = flag(images).argmax(1)
    accepted = ~flag.suspicious(images)
    assert int(accepted.sum()) > 10
    draws = ImageDraws.of(0, "test", torch.arange(100), images.device)
    for name, one in flag.adaptive().items():
        targeted = ApgdTargeted(steps=10, targets=1, loss="margin")
        attack = targeted if one.towards_each_class else Pgd(steps=20, loss="margin")
        within, beyond = (
            attack(one.surrogate.bind(images), images, labels, Linf(epsilon), draws)
            for epsilon in (2 * RADIUS, 3.5 * RADIUS)
        )
        for found, passes in ((within, False), (beyond, True)):
            got_past = (flag(found).argmax(1) != labels) & ~flag.suspicious(found) & accepted
            assert bool(got_past.any()) == passes, name


def test_what_fights_the_flag_is_published(flag) -> None:
    published = flag.adaptive()
    assert list(published) == ["silent", "crossing", "confident", "consistent"]
    assert all(one.fights_flag for one in published.values())
    assert [name for name, one in published.items() if one.towards_each_class] == ["confident", "consistent"]
    flag.flag_threshold = None
    assert not flag.adaptive()
    with pytest.raises(ValueError, match="before flag_threshold is set"):
        flag.suspicious(images_of(2))


def test_consistent_follows_the_image_and_the_inner_point_alike(flag) -> None:
    leaf = images_of(5).requires_grad_()
    worst = flag.inner.worst(flag.classifier, leaf)[0]
    here = torch.autograd.grad(flag.classifier(leaf).log_softmax(1)[:, 0].sum(), leaf)[0]
    there = worst.clone().requires_grad_()
    (there,) = torch.autograd.grad(flag.classifier(there).log_softmax(1)[:, 0].sum(), there)
    found = torch.autograd.grad(flag.look_around(leaf).confidence[:, 0].sum(), leaf)[0]
    torch.testing.assert_close(found, (here + there) / 2)
    alone = torch.autograd.grad(flag.look(leaf).confidence[:, 0].sum(), leaf)[0]
    torch.testing.assert_close(alone, here)


def test_a_threshold_and_the_inner_attack_travel_with_the_state(flag) -> None:
    assert flag.flag_threshold == 0
    flag.flag_threshold = -0.5
    torch.testing.assert_close(flag.excess(images_of(4)), flag.scores(images_of(4))[CONSISTENCY] + 0.5)
    other = Consistent(Plane(), InnerAttack(radius=0.05))
    assert not torch.equal(other.inner_settings, flag.inner_settings)
    other.load_state_dict(flag.state_dict())
    assert other.flag_threshold == -0.5


@pytest.mark.parametrize("bad", [{"radius": 0.0}, {"radius": 3.0}, {"steps": 0}, {"step": 0.0}, {"norm": "l1"}])
def test_bad_inner_attacks_are_refused(bad) -> None:
    with pytest.raises(ValueError, match=r"radius|steps|step|norm"):
        InnerAttack(**{"radius": 0.1, **bad})


def test_presets_are_built_by_name() -> None:
    for name, inner in PRESETS.items():
        assert build_consistent(classifier=Plane(), preset=name).inner == inner
    with pytest.raises(ValueError, match="preset of consistency"):
        build_consistent(classifier=Plane(), preset="paper")
