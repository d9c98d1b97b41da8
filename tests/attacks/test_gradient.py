"""The loop behind FGSM, BIM and PGD: what it spends, what it keeps, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks import victims
from memory_defense.attacks import PAPER_BIM, PAPER_FGSM, PAPER_PGD, PAPER_RAND_FGSM, Bim, Fgsm, Pgd, RandFgsm
from memory_defense.attacks.ascent import cosine_steps
from memory_defense.attacks.engine import log_odds
from memory_defense.contracts import Classifier
from memory_defense.losses import LOSSES
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.wrappers import CountingPasses

COUNT = 12


def problem() -> tuple[CountingPasses, Tensor, Tensor, ImageDraws]:
    model, clean = victims.mlp(), victims.images(COUNT)
    return CountingPasses(model), clean, victims.right_answers(model, clean), ImageDraws.of(0, "a", COUNT)


class Watched:
    """Keeps every batch the model is called with, without the images that only fill it up."""

    def __init__(self, model: Classifier, count: int = COUNT) -> None:
        self.model, self.count, self.calls = model, count, list[Tensor]()

    def __call__(self, images: Tensor) -> Tensor:
        self.calls.append(images[: self.count].detach().clone())
        return self.model(images)


class Scripted:
    """Answers with one prepared row of logits after the other, whatever it is asked."""

    def __init__(self, *script: list[float]) -> None:
        self.script = [torch.tensor(row) for row in script]

    def __call__(self, images: Tensor) -> Tensor:
        return self.script.pop(0) + images.flatten(1)[:, :3] * torch.tensor([1e-4, 0, 0])


def test_fgsm_spends_one_pass_and_no_judge() -> None:
    model, clean, labels, draws = problem()
    result = Fgsm()(model, clean, labels, Linf(0.1), draws)
    assert (model.passes.forward, model.passes.backward) == (COUNT, COUNT)
    assert set((result - clean).abs()[(clean > 0.1) & (clean < 0.9)].sub(0.1).abs().lt(1e-6).tolist()) == {True}


def test_rand_fgsm_is_one_gradient_from_a_corner_of_a_smaller_cube() -> None:
    model, clean, labels, draws = problem()
    watched = Watched(model.model)
    result = RandFgsm(alpha=0.04, stop_when_fooled=False)(watched, clean, labels, Linf(0.1), draws)
    start, end = watched.calls
    inside = (clean > 0.1) & (clean < 0.9)
    torch.testing.assert_close((start - clean).abs()[inside], torch.full((int(inside.sum()),), 0.04))
    torch.testing.assert_close((end - start).abs()[inside], torch.full((int(inside.sum()),), 0.06))
    assert 0.4 < (start > clean)[inside].float().mean() < 0.6
    scores = torch.stack([LOSSES["cross-entropy"](model(seen), labels) for seen in watched.calls])
    torch.testing.assert_close(LOSSES["cross-entropy"](model(result), labels), scores.amax(0))


@pytest.mark.parametrize("settings", [RandFgsm(alpha=0.1), RandFgsm(alpha=0.2)])
def test_rand_fgsm_needs_something_left_for_the_gradient(settings: RandFgsm) -> None:
    model, clean, labels, draws = problem()
    with pytest.raises(ValueError, match=r"alpha is 0\.[12], .*radius 0\.1 .*None for half"):
        settings(model, clean, labels, Linf(0.1), draws)


def test_robust_images_cost_one_pass_a_step_and_two_judgements() -> None:
    model, clean, labels, draws = problem()
    Pgd(steps=6)(model, clean, labels, Linf(1e-4), draws)
    assert (model.passes.forward, model.passes.backward) == (8 * COUNT, 6 * COUNT)
    model.passes.forward = model.passes.backward = 0
    Bim(steps=6)(model, clean, labels, Linf(1e-4), draws)
    assert (model.passes.forward, model.passes.backward) == (7 * COUNT, 6 * COUNT)


def test_fooled_images_cost_nothing_more() -> None:
    model, clean, labels, draws = problem()
    Pgd(steps=50)(model, clean, labels, Linf(0.8), draws)
    assert model.passes.backward < 4 * COUNT
    model.passes.backward = 0
    wrong = (labels + 1) % victims.CLASSES
    assert torch.equal(Pgd(steps=50)(model, clean, wrong, Linf(0.8), draws), clean)
    assert model.passes.backward == 0


def test_for_transfer_takes_every_step_for_every_image() -> None:
    model, clean, labels, draws = problem()
    Pgd(steps=6, restarts=2).for_transfer()(model, clean, labels, Linf(0.8), draws)
    assert model.passes.backward == 12 * COUNT


@pytest.mark.parametrize("loss", LOSSES)
def test_the_iterate_of_highest_loss_is_returned(loss: str) -> None:
    """A step far beyond the ball makes the iterates jump between corners, so the last is not the best."""
    model, clean, labels, draws = problem()
    watched = Watched(model.model)
    settings = Bim(steps=7, step_size=1.0, loss=loss, stop_when_fooled=False)
    result = settings(watched, clean, labels, Linf(0.02), draws)
    assert len(watched.calls) == 8
    scores = torch.stack([LOSSES[loss](model(seen), labels) for seen in watched.calls])
    torch.testing.assert_close(LOSSES[loss](model(result), labels), scores.amax(0))


def test_the_first_fooling_iterate_is_kept() -> None:
    model, clean, labels, draws = problem()
    first, watched = torch.tensor([0]), Watched(model.model, 1)
    result = Pgd(steps=9)(watched, clean[:1], labels[:1], Linf(0.3), draws.rows(first))
    fooling = [bool((model(seen).argmax(1) != labels[:1]).all()) for seen in watched.calls]
    assert fooling == [False] * (len(fooling) - 1) + [True]
    assert torch.equal(result, watched.calls[-1])


def test_a_fooling_iterate_beats_a_higher_loss_that_does_not_fool() -> None:
    """Two runners-up together can outweigh the label in the cross-entropy without changing the answer."""
    model = Watched(Scripted([2.0, 1.9, 1.9], [2.0, 2.1, -9.0]), 1)
    clean = victims.images(1, low=0.3, high=0.7)
    result = Bim(steps=3)(model, clean, torch.tensor([0]), Linf(0.1), ImageDraws.of(0, "a", 1))
    assert len(model.calls) == 2
    assert torch.equal(result, model.calls[1])
    assert not torch.equal(result, clean)


def test_restarts_begin_at_different_points() -> None:
    model, clean, labels, draws = problem()
    watched = Watched(model.model)
    Pgd(steps=1, restarts=3)(watched, clean, labels, Linf(1e-4), draws)
    starts = [watched.calls[index] for index in (1, 3, 5)]  # clean, then (start, end) of each restart
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (starts[one] - starts[other]).abs().mean() > 2e-5


def test_cosine_steps_cross_the_ball_first_and_then_shrink() -> None:
    sizes = cosine_steps(0.1, 10)
    assert sizes[0] == pytest.approx(0.2)
    assert sizes[5] == pytest.approx(0.1)
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < sizes[-1] < 0.01


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5)])
def test_momentum_follows_the_sum_of_gradients_of_length_one(ball: Linf | L2) -> None:
    model, clean, labels, draws = problem()
    watched, size = Watched(model.model), 0.03
    settings = Pgd(steps=3, step_size=size, momentum=0.5, random_start=False, stop_when_fooled=False)
    settings(watched, clean, labels, ball, draws)
    total = torch.zeros_like(clean)
    for here, after in itertools.pairwise(watched.calls):
        leaf = here.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(log_odds(model(leaf), labels).sum(), leaf)
        total = 0.5 * total + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)
        torch.testing.assert_close(after, ball.project(here + size * ball.ascent(total), clean))
    assert len(watched.calls) == 4


def test_momentum_stays_with_its_image_when_others_leave() -> None:
    model, clean, labels, draws = problem()
    labels[::3] = (labels[::3] + 1) % victims.CLASSES  # these leave at once
    together = Pgd(steps=8, micro_batch=4)(model, clean, labels, Linf(0.02), draws)
    for row in range(COUNT):
        only = torch.tensor([row])
        alone = Pgd(steps=8)(model, clean[only], labels[only], Linf(0.02), draws.rows(only))
        assert torch.equal(together[only], alone)


def test_own_step_sizes_bring_momentum_and_a_given_one_does_not() -> None:
    def found(kind: type[Pgd] | type[Bim], **options: Any) -> Tensor:
        model, clean, labels, draws = problem()
        return kind(steps=8, stop_when_fooled=False, **options)(model, clean, labels, Linf(0.02), draws)

    assert torch.equal(found(Pgd), found(Pgd, momentum=0.5))
    assert not torch.equal(found(Pgd), found(Pgd, momentum=0))
    assert torch.equal(found(Pgd, step_size=0.005), found(Pgd, step_size=0.005, momentum=0))
    assert torch.equal(found(Bim), found(Pgd, momentum=0, random_start=False))


def test_a_gradient_of_zero_pushes_nowhere() -> None:
    clean = victims.images(3)
    settings = Pgd(steps=4, momentum=0.9, random_start=False, stop_when_fooled=False)
    labels = torch.zeros(3, dtype=torch.long)
    result = settings(victims.Flat(), clean, labels, Linf(0.1), ImageDraws.of(0, "a", 3))
    assert torch.equal(result, clean)


def test_the_papers_settings_are_the_papers() -> None:
    assert (PAPER_FGSM.loss, PAPER_FGSM.targeted) == ("cross-entropy", False)
    assert PAPER_RAND_FGSM.alpha == 0.05
    assert (PAPER_BIM.steps, PAPER_BIM.step_size) == (10, 0.05)
    assert (PAPER_PGD.steps, PAPER_PGD.step_size, PAPER_PGD.random_start) == (40, 0.0075, True)


@pytest.mark.parametrize("kind", [Fgsm, RandFgsm, Bim, Pgd])
def test_settings_are_frozen_keyword_only_and_print_themselves(kind: Any) -> None:
    with pytest.raises(TypeError):
        kind(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().loss = "margin"
    assert eval(repr(kind(loss="dlr"))) == kind(loss="dlr")
    assert kind().for_transfer() == kind(stop_when_fooled=False)


@pytest.mark.parametrize(
    ("kind", "options", "complaint"),
    [
        (Pgd, {"steps": 0}, "steps is 0"),
        (Bim, {"steps": -1}, "steps is -1"),
        (Pgd, {"restarts": 0}, "restarts is 0"),
        (Pgd, {"step_size": 0.0}, "step_size is 0.0"),
        (Bim, {"step_size": math.nan}, "step_size is nan"),
        (Pgd, {"momentum": -0.1}, "momentum is -0.1"),
        (Pgd, {"momentum": 1}, "momentum is 1"),
        (Pgd, {"momentum": math.nan}, "momentum is nan"),
        (Pgd, {"restarts": 2, "random_start": False}, "all of them are the same"),
        (Fgsm, {"loss": "hinge"}, "unknown loss 'hinge'"),
        (Bim, {"loss": "hinge"}, "unknown loss 'hinge'"),
        (Fgsm, {"micro_batch": 0}, "micro_batch is 0"),
        (RandFgsm, {"alpha": 0.0}, "alpha is 0.0"),
        (RandFgsm, {"alpha": math.nan}, "alpha is nan"),
        (RandFgsm, {"loss": "hinge"}, "unknown loss 'hinge'"),
    ],
)
def test_settings_without_meaning_are_refused(kind: Any, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        kind(**options)


@pytest.mark.parametrize(
    ("attack", "remedy"), [(Fgsm(), "finite epsilon"), (RandFgsm(), "finite epsilon"), (Pgd(), "step_size")]
)
def test_an_unbounded_ball_needs_a_step_size(attack: Any, remedy: str) -> None:
    model, clean, labels, draws = problem()
    with pytest.raises(ValueError, match=remedy):
        attack(model, clean, labels, L2(math.inf), draws)
    result = Pgd(steps=5, step_size=1.0)(model, clean, labels, L2(math.inf), draws)
    assert bool((model(result).argmax(1) != labels).all())


def test_pixels_a_rounding_error_outside_the_box_are_brought_back() -> None:
    model, clean, labels, draws = problem()
    clean = clean + 5e-7 * (clean == 1) - 5e-7 * (clean == 0)
    for ball in (Linf(0), Linf(1e-4)):
        result = Pgd(steps=2)(model, clean, labels, ball, draws)
        assert bool(ball.contains(result, clean).all())


@dataclasses.dataclass(frozen=True)
class UpperHalf(Linf):
    """A ball of its own kind: only the upper half of an image may change."""

    def project(self, points: Tensor, centre: Tensor) -> Tensor:
        inside = super().project(points, centre)
        half = centre.shape[2] // 2
        return torch.cat([inside[:, :, :half], centre[:, :, half:]], 2)


def test_a_ball_made_from_another_keeps_its_own_projection() -> None:
    model, images = victims.affine(), victims.images(8, 1)
    labels = model(images).argmax(1)
    found = Pgd(steps=5, random_start=False, stop_when_fooled=False)(
        model, images, labels, UpperHalf(0.1), ImageDraws.of(0, "half", 8)
    )
    half = images.shape[2] // 2
    assert torch.equal(found[:, :, half:], images[:, :, half:])
    assert not torch.equal(found[:, :, :half], images[:, :, :half])
