"""Auto-PGD against its algorithm box, image by image; its optimum is tested in the oracle."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks import victims
from memory_defense.attacks import Apgd, ApgdTargeted
from memory_defense.attacks.apgd import checkpoints, targeted_difference_of_logits_ratio
from memory_defense.attacks.engine import Victim
from memory_defense.attacks.targets import likeliest_others, nearest_if_linear
from memory_defense.contracts import Attack, Ball, Classifier
from memory_defense.losses import LOSSES, difference_of_logits_ratio
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.wrappers import CountingPasses

COUNT = 12
BALLS = pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5)], ids=["linf", "l2"])


class Watched:
    """Keeps every batch the model is called with, without the images that only fill it up."""

    def __init__(self, model: Classifier, count: int = COUNT) -> None:
        self.model, self.count, self.calls = model, count, list[Tensor]()

    def __call__(self, images: Tensor) -> Tensor:
        self.calls.append(images[: self.count].detach().clone())
        return self.model(images)


def problem() -> tuple[CountingPasses, Tensor, Tensor, ImageDraws]:
    model, clean = victims.mlp(), victims.images(COUNT)
    return CountingPasses(model), clean, victims.right_answers(model, clean), ImageDraws.of(0, "a", COUNT)


def test_the_checkpoints_are_the_papers() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(40) == [8, 15, 21, 26, 30, 33, 35, 37, 39]
    assert checkpoints(3) == [1, 2]
    assert checkpoints(1) == []


def one_by_one(
    model: Classifier, clean: Tensor, label: Tensor, start: Tensor, ball: Ball, settings: Apgd
) -> tuple[list[Tensor], int]:
    """The algorithm box for one image: every iterate, and how often the step was halved.

    It rounds where the attack does, as decisions compare losses that may differ in the last bit.
    """

    def project(point: Tensor) -> Tensor:
        return ball.project(point[None], clean[None])[0]

    def evaluate(point: Tensor) -> tuple[float, Tensor]:
        leaf = point.clone().requires_grad_()
        loss = LOSSES[settings.loss](model(leaf[None]), label[None]).sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        return float(loss.detach().float()), ball.ascent(gradient[None])[0]

    iterates, values = [start], list[float]()
    x, before, eta = start, start, 2 * ball.epsilon
    x_max, f_max, up_max = start, -math.inf, start
    last_mark, last_max, last_eta, halvings = 0, -math.inf, math.inf, 0
    for k in range(settings.steps):
        value, up = evaluate(x)
        values.append(value)
        if value > f_max:
            x_max, f_max, up_max = x, value, up
        if k in checkpoints(settings.steps):
            rises = sum(values[i + 1] > values[i] for i in range(last_mark, k))
            rarely = rises <= settings.rho * (k - last_mark)
            in_vain = last_eta == eta and f_max == last_max
            last_mark, last_max, last_eta = k, f_max, eta
            if rarely or in_vain:
                eta, x, up, halvings = eta / 2, x_max, up_max, halvings + 1
        z = project(x + eta * up)
        after = z if k == 0 else project(x + 0.75 * (z - x) + 0.25 * (x - before))
        before, x = x, after
        iterates.append(x)
    return iterates, halvings


@BALLS
@pytest.mark.parametrize(("loss", "rho"), [("cross-entropy", 0.75), ("dlr", 0.75), ("margin", 0.2)])
def test_every_iterate_is_the_one_of_the_algorithm_box(ball: Ball, loss: str, rho: float) -> None:
    counting, clean, labels, draws = problem()
    model, settings = Watched(counting.model), Apgd(steps=45, loss=loss, rho=rho, stop_when_fooled=False)
    settings(model, clean, labels, ball, draws)
    assert len(model.calls) == 1 + 46
    totals = set[int]()
    for image in range(COUNT):
        expected, halvings = one_by_one(
            counting.model, clean[image], labels[image], model.calls[1][image], ball, settings
        )
        seen = torch.stack([call[image] for call in model.calls[1:]])
        torch.testing.assert_close(seen, torch.stack(expected), atol=1e-5, rtol=0)
        totals.add(halvings)
    assert max(totals) >= 3, "the fixture must reach its checkpoints' branches"


@BALLS
def test_it_starts_on_the_surface_and_elsewhere_in_every_restart(ball: Ball) -> None:
    model, clean = Watched(victims.mlp()), victims.images(COUNT, low=0.5, high=0.5)
    labels = victims.right_answers(model, clean)
    small = type(ball)(0.01)  # pyright: ignore
    Apgd(steps=2, restarts=2, stop_when_fooled=False)(model, clean, labels, small, ImageDraws.of(0, "a", COUNT))
    first, second = model.calls[2], model.calls[5]
    for start in (first, second):
        torch.testing.assert_close(ball.distance(start, clean), torch.full((COUNT,), 0.01), atol=1e-6, rtol=0)
    assert len(first.flatten(1).unique(dim=0)) == COUNT
    assert not torch.isclose(first, second).flatten(1).all(1).any()


def test_robust_images_cost_a_pass_a_step_and_a_judgement_for_each_start() -> None:
    model, clean, labels, draws = problem()
    Apgd(steps=7, restarts=2)(model, clean, labels, Linf(1e-4), draws)
    assert (model.passes.forward, model.passes.backward) == ((1 + 2 * 8) * COUNT, 2 * 7 * COUNT)
    model.passes.forward = model.passes.backward = 0
    ApgdTargeted(steps=7, targets=9)(model, clean, labels, Linf(1e-4), draws)
    assert (model.passes.forward, model.passes.backward) == ((1 + 3 * 8) * COUNT, 3 * 7 * COUNT)


@BALLS
@pytest.mark.parametrize("attack", [Apgd(steps=30, restarts=2), ApgdTargeted(steps=30)], ids=["apgd", "apgd-t"])
def test_packing_changes_neither_result_nor_cost(attack: Attack, ball: Ball) -> None:
    model, clean, labels, draws = problem()
    labels[3] = (labels[3] + 1) % victims.CLASSES
    whole = attack(model, clean, labels, ball, draws)
    spent = dataclasses.replace(model.passes)
    model.passes.forward = model.passes.backward = 0
    costs = list[int]()
    for row in torch.arange(COUNT).split(1):
        alone = attack(model, clean[row], labels[row], ball, draws.rows(row))
        torch.testing.assert_close(alone, whole[row], atol=1e-6, rtol=0)
        costs.append(model.passes.backward - sum(costs))
    assert model.passes == spent
    assert costs[3] == 0
    assert len(set(costs)) > 3, "images must leave at different steps"
    fooled = model(whole).argmax(1) != labels
    assert 4 < fooled.sum() < COUNT


def test_without_early_stops_the_highest_loss_of_every_run_comes_back() -> None:
    counting, clean, labels, draws = problem()
    model = Watched(counting.model)
    result = Apgd(steps=20, restarts=2, loss="margin").for_transfer()(model, clean, labels, Linf(0.1), draws)
    seen = torch.stack([LOSSES["margin"](counting.model(call), labels) for call in model.calls[1:]])
    assert len(seen) == 2 * 21
    torch.testing.assert_close(LOSSES["margin"](counting.model(result), labels), seen.amax(0), atol=1e-6, rtol=0)


def test_the_targeted_ratio_is_the_one_done_by_hand() -> None:
    logits = torch.tensor([[5.0, 3.0, 1.0, -1.0, -9.0], [0.0, 4.0, 2.0, 1.0, 3.0]], dtype=torch.float64)
    labels, targets = torch.tensor([0, 1]), torch.tensor([1, 0])
    # (3 - 5) / (5 - (1 - 1) / 2) and (0 - 4) / (4 - (2 + 1) / 2)
    expected = torch.tensor([-2 / 5, -4 / 2.5], dtype=torch.float64)
    torch.testing.assert_close(targeted_difference_of_logits_ratio(logits, labels, targets), expected)
    torch.testing.assert_close(targeted_difference_of_logits_ratio(7 * logits + 3, labels, targets), expected)
    swapped = targeted_difference_of_logits_ratio(logits, targets, labels)
    torch.testing.assert_close(swapped, -expected)


def best_lead(model: victims.Affine, clean: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Return (B,) the largest lead that any wrong class can have in an L-inf ball and the box."""
    scores, flat = model(clean).detach(), clean.flatten(1).double()
    leads = list[Tensor]()
    for k in range(scores.shape[1]):
        d = model.weight[k] - model.weight[labels]
        gain = (((flat + epsilon * d.sign()).clamp(0, 1) - flat) * d).sum(1)
        leads.append(scores[:, k] - scores.gather(1, labels[:, None])[:, 0] + gain)
    return torch.stack(leads, 1).scatter(1, labels[:, None], -torch.inf).amax(1)


def test_all_targets_together_fool_whatever_can_be_fooled() -> None:
    model, clean = victims.affine(classes=5), victims.images(64)
    labels, draws = victims.right_answers(model, clean), ImageDraws.of(0, "a", 64)
    possible = best_lead(model, clean, labels, 0.06) > 0
    assert 20 < possible.sum() < 60
    fooled = {
        count: model(ApgdTargeted(steps=20, targets=count)(model, clean, labels, Linf(0.06), draws)).argmax(1)
        != labels
        for count in (1, 4, 9)
    }
    assert torch.equal(fooled[9], possible)
    assert torch.equal(fooled[4], possible)
    assert fooled[1].sum() < possible.sum()


def test_the_margin_aims_at_each_class_from_two_classes_on() -> None:
    model, clean = victims.affine(classes=2), victims.images(64)
    labels, draws = victims.right_answers(model, clean), ImageDraws.of(0, "a", 64)
    possible = best_lead(model, clean, labels, 0.04) > 0
    assert 10 < possible.sum() < 54
    attack = ApgdTargeted(steps=20, loss="margin")
    assert torch.equal(model(attack(model, clean, labels, Linf(0.04), draws)).argmax(1) != labels, possible)
    model = victims.affine(classes=5)
    labels = victims.right_answers(model, clean)
    possible = best_lead(model, clean, labels, 0.06) > 0
    assert torch.equal(model(attack(model, clean, labels, Linf(0.06), draws)).argmax(1) != labels, possible)


def test_targets_are_taken_in_the_order_of_the_clean_logits() -> None:
    """Only the class of rank 6 listens to the image, and no ratio towards ranks 2 to 5 contains it."""
    weight = torch.zeros(6, victims.SIZE**2)
    weight[3] = 1.0
    model = victims.Affine(weight, torch.tensor([1.0, 5.0, 2.0, -18.0, 4.0, 3.0]))
    clean = victims.images(4, low=0.4, high=0.6)  # class 3 has about 0
    labels, draws = victims.right_answers(model, clean), ImageDraws.of(0, "a", 4)
    assert labels.tolist() == [1] * 4
    for count, fooled in ((4, False), (5, True)):
        result = ApgdTargeted(steps=5, targets=count)(model, clean, labels, Linf(0.3), draws)
        assert (model(result).argmax(1) == 3).tolist() == [fooled] * 4


def test_targets_are_those_that_a_linear_model_would_reach_first() -> None:
    """The class of rank 6 is the only one that moves, so it is nearest wherever it is looked at."""
    weight = torch.zeros(6, victims.SIZE**2)
    weight[3] = 1.0
    model = victims.Affine(weight, torch.tensor([1.0, 5.0, 2.0, -18.0, 4.0, 3.0]))
    clean = victims.images(4, low=0.4, high=0.6)
    labels, draws = victims.right_answers(model, clean), ImageDraws.of(0, "a", 4)
    for among, fooled in ((4, False), (5, True)):
        counting = CountingPasses(model)
        result = ApgdTargeted(steps=5, targets=1, among=among)(counting, clean, labels, Linf(0.3), draws)
        assert (model(result).argmax(1) == 3).tolist() == [fooled] * 4
        alone = CountingPasses(model)
        ApgdTargeted(steps=5, targets=1)(alone, clean, labels, Linf(0.3), draws)
        if not fooled:
            assert counting.passes.backward - alone.passes.backward == 4 * among, "one pass for each class"


@BALLS
def test_distances_of_a_linear_model_are_its_leads_over_the_slopes(ball: Ball) -> None:
    model, clean = victims.affine(classes=7), victims.images(9)
    labels = victims.right_answers(model, clean)
    likely = likeliest_others(model(clean), labels, 6)
    ordered = nearest_if_linear(Victim(model, labels, 4), clean, torch.arange(1, 9), likely, ball.norm)
    logits, power = model(clean), 1 if ball.norm == "linf" else 2
    gaps = logits.gather(1, labels[:, None]) - logits
    slopes = (model.weight[:, None] - model.weight[None]).norm(power, dim=2)[labels]
    nearest = (gaps / slopes).scatter(1, labels[:, None], math.inf).argsort(1)[:, :6]
    assert torch.equal(ordered[1:], nearest[1:])
    assert torch.equal(ordered[0], likely[0]), "not asked for"
    assert not torch.equal(nearest, likely)


def test_mistaken_images_still_run_from_their_label_when_nothing_stops() -> None:
    model, clean, _labels, draws = problem()
    wrong = model.model(clean).argsort(1, descending=True)[:, 1]  # the class of rank 2
    result = ApgdTargeted(steps=10).for_transfer()(model, clean, wrong, Linf(0.1), draws)
    loss = difference_of_logits_ratio
    assert bool((loss(model(result), wrong) >= loss(model(clean), wrong)).all())
    assert not (result == clean).flatten(1).all(1).any()


@pytest.mark.parametrize("kind", [Apgd, ApgdTargeted])
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"micro_batch": 0}, "micro_batch is 0"),
        ({"rho": -0.1}, "rho is -0.1"),
        ({"rho": math.nan}, "rho is nan"),
    ],
)
def test_settings_without_meaning_are_refused(kind: type, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        kind(**options)


def test_what_only_one_of_them_takes_is_refused_there() -> None:
    with pytest.raises(ValueError, match="restarts is 0"):
        Apgd(restarts=0)
    with pytest.raises(ValueError, match=r"unknown loss 'dlrr'.*'dlr'"):
        Apgd(loss="dlrr")
    with pytest.raises(ValueError, match="targets is 0"):
        ApgdTargeted(targets=0)
    with pytest.raises(ValueError, match="among is 3, but 4 targets are chosen"):
        ApgdTargeted(targets=4, among=3)
    with pytest.raises(ValueError, match=r"unknown targeted loss 'cross-entropy'.*dlr, margin"):
        ApgdTargeted(loss="cross-entropy")  # pyright: ignore
    with pytest.raises(ValueError, match="samples is 0"):
        Apgd(samples=0)


def test_balls_and_models_that_do_not_fit_are_refused() -> None:
    model, clean, labels, draws = problem()
    with pytest.raises(ValueError, match="give a finite epsilon"):
        Apgd()(model, clean, labels, L2(math.inf), draws)
    few = victims.affine(classes=3)
    labels = victims.right_answers(few, clean)
    with pytest.raises(ValueError, match="at least 4 classes, the model has 3; use loss='margin'"):
        ApgdTargeted()(few, clean, labels, Linf(0.1), draws)
    with pytest.raises(ValueError, match="at least 4 classes, the model has 3"):
        targeted_difference_of_logits_ratio(torch.zeros(2, 3), labels[:2], labels[:2])
