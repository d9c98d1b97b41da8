"""Attacks on an affine classifier, whose best perturbation is known in closed form.

With two classes the lead of the wrong one is ``lead + d . x``, so an L-inf ball adds at most
``epsilon * ||d||_1`` and an L2 ball ``epsilon * ||d||_2``; where the [0, 1] box cuts in, the best point is
``clip(x + t * sign(d))`` and ``clip(x + t * d)``, with t found by bisection.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks import victims
from memory_defense.attacks import (
    Apgd,
    ApgdTargeted,
    AutoAttack,
    Bim,
    CarliniWagner,
    Fgsm,
    Gama,
    HopSkipJump,
    Nes,
    Pgd,
    PgdTargeted,
)
from memory_defense.attacks.engine import input_gradient, log_odds
from memory_defense.contracts import Attack, Ball
from memory_defense.losses import LOSSES, margin
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf

ONE_STEP = {"fgsm": Fgsm(stop_when_fooled=False)}
MANY_STEPS = {
    "bim": Bim(stop_when_fooled=False),
    "bim, constant steps": Bim(steps=10, step_size=0.1, stop_when_fooled=False),
    "pgd": Pgd(steps=20, stop_when_fooled=False),
    "pgd, constant steps": Pgd(steps=40, step_size=0.1, stop_when_fooled=False),
    "pgd, margin": Pgd(steps=20, loss="margin", stop_when_fooled=False),
    "pgd, restarts": Pgd(steps=20, restarts=2, stop_when_fooled=False, micro_batch=5),
    "apgd": Apgd(steps=40, stop_when_fooled=False),
    "apgd, margin": Apgd(steps=40, loss="margin", stop_when_fooled=False, micro_batch=5),
    "apgd-t, margin": ApgdTargeted(steps=40, loss="margin", stop_when_fooled=False),
    "pgd-t": PgdTargeted(steps=20, stop_when_fooled=False, micro_batch=5),
    "gama": Gama(steps=40, stop_when_fooled=False),
}
EXACT = {**ONE_STEP, **MANY_STEPS}


def call(attack: Attack, model: victims.Affine, clean: Tensor, labels: Tensor, ball: Ball) -> Tensor:
    result = attack(model, clean, labels, ball, ImageDraws.of(3, "oracle", len(clean)))
    assert bool(ball.contains(result, clean).all())
    return result


def direction(model: victims.Affine, labels: Tensor) -> Tensor:
    """Return (B, D) the gradient of the wrong class's lead, for two classes."""
    return model.weight[1 - labels] - model.weight[labels]


def lead(model: victims.Affine, points: Tensor, labels: Tensor) -> Tensor:
    return margin(model(points), labels).detach()


def clipped(clean: Tensor, offset: Tensor) -> Tensor:
    """Return the offset (B, D) that is left inside the [0, 1] box."""
    flat = clean.flatten(1).double()
    return (flat + offset).clamp(0, 1) - flat


def best_gain(clean: Tensor, d: Tensor, ball: Ball) -> Tensor:
    """Return (B,) the most that any point of the ball and the box adds to the lead."""
    if ball.norm == "linf":
        return (clipped(clean, ball.epsilon * d.sign()) * d).sum(1)
    low, high = torch.zeros(len(d), 1).double(), torch.full((len(d), 1), 1e3).double()
    for _ in range(80):
        middle = (low + high) / 2
        short = clipped(clean, middle * d).norm(dim=1, keepdim=True) < ball.epsilon
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return (clipped(clean, low * d) * d).sum(1)


def least_distance(clean: Tensor, d: Tensor, needed: Tensor) -> Tensor:
    """Return (B,) the shortest L2 step inside the box that adds `needed` to the lead; inf if none does."""
    low, high = torch.zeros(len(d), 1).double(), torch.full((len(d), 1), 1e3).double()
    possible = (clipped(clean, high * d) * d).sum(1) >= needed
    for _ in range(80):
        middle = (low + high) / 2
        short = (clipped(clean, middle * d) * d).sum(1, keepdim=True) < needed[:, None]
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return torch.where(possible, clipped(clean, high * d).norm(dim=1), torch.inf)


@pytest.mark.parametrize("count", [1, 7, 64])
@pytest.mark.parametrize("attack", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("ball", [Linf(0.08), L2(0.2)], ids=["linf", "l2"])
def test_far_from_the_box_the_gain_is_epsilon_times_the_dual_norm(attack: Attack, ball: Ball, count: int) -> None:
    model, clean = victims.affine(classes=2), victims.images(count, low=0.3, high=0.7)
    labels = victims.right_answers(model, clean)
    d = direction(model, labels)
    dual = d.abs().sum(1) if ball.norm == "linf" else d.norm(dim=1)
    gain = lead(model, call(attack, model, clean, labels, ball), labels) - lead(model, clean, labels)
    torch.testing.assert_close(gain, ball.epsilon * dual, atol=1e-4, rtol=0)


@pytest.mark.parametrize("attack", EXACT.values(), ids=EXACT)
def test_linf_stays_exact_where_the_box_cuts_in(attack: Attack) -> None:
    model, clean, ball = victims.affine(classes=2), victims.images(16), Linf(0.3)
    labels = victims.right_answers(model, clean)
    best = best_gain(clean, direction(model, labels), ball)
    assert (best < 0.9 * ball.epsilon * direction(model, labels).abs().sum(1)).any()
    gain = lead(model, call(attack, model, clean, labels, ball), labels) - lead(model, clean, labels)
    torch.testing.assert_close(gain, best, atol=1e-4, rtol=0)


@pytest.mark.parametrize("attack", MANY_STEPS.values(), ids=MANY_STEPS)
def test_l2_comes_close_where_the_box_cuts_in(attack: Attack) -> None:
    model, clean, ball = victims.affine(classes=2), victims.images(16), L2(0.7)
    labels = victims.right_answers(model, clean)
    best = best_gain(clean, direction(model, labels), ball)
    gain = lead(model, call(attack, model, clean, labels, ball), labels) - lead(model, clean, labels)
    assert bool((gain <= best + 1e-4).all())
    assert bool((gain >= 0.95 * best).all())


@pytest.mark.parametrize("norm", [Linf, L2])
@pytest.mark.parametrize("targeted", [False, True])
def test_an_image_is_fooled_exactly_when_it_can_be(norm: type[Linf | L2], targeted: bool) -> None:
    model, clean = victims.affine(classes=2), victims.images(64)
    labels = victims.right_answers(model, clean)
    ball = norm(0.04 if norm is Linf else 0.3)
    possible = lead(model, clean, labels) + best_gain(clean, direction(model, labels), ball) > 0
    assert 10 < possible.sum() < 54
    attack = Pgd(steps=20, targeted=targeted)
    result = call(attack, model, clean, 1 - labels if targeted else labels, ball)
    assert torch.equal(lead(model, result, labels) > 0, possible)


def best_lead(model: victims.Affine, clean: Tensor, labels: Tensor, ball: Ball) -> Tensor:
    """Return (B,) the largest lead that any wrong class can have in the ball and the box."""
    scores = model(clean).detach()
    offers = [
        scores[:, k]
        - scores.gather(1, labels[:, None])[:, 0]
        + best_gain(clean, model.weight[k] - model.weight[labels], ball)
        for k in range(scores.shape[1])
    ]
    return torch.stack(offers, 1).scatter(1, labels[:, None], -torch.inf).amax(1)


ALL_CLASSES = {
    "pgd-t": PgdTargeted(steps=20),
    "apgd-t": ApgdTargeted(steps=20),
    "apgd-t, margin": ApgdTargeted(steps=20, loss="margin"),
    "autoattack": AutoAttack(steps=20, queries=20),
}


@pytest.mark.parametrize("attack", ALL_CLASSES.values(), ids=ALL_CLASSES)
@pytest.mark.parametrize("ball", [Linf(0.06), L2(0.25)], ids=["linf", "l2"])
def test_attacks_on_every_class_fool_exactly_what_any_class_can_reach(attack: Attack, ball: Ball) -> None:
    model, clean = victims.affine(classes=5), victims.images(64)
    labels = victims.right_answers(model, clean)
    best = best_lead(model, clean, labels, ball)
    clear = best.abs() > 0.01 * best.abs().median()  # closer than that, 20 steps need not be enough
    assert 15 < (best > 0)[clear].sum() < 55
    assert torch.equal(
        (lead(model, call(attack, model, clean, labels, ball), labels) > 0)[clear], (best > 0)[clear]
    )


@pytest.mark.parametrize("norm", [Linf, L2])
def test_labels_alone_fool_what_can_be_fooled_with_something_to_spare(norm: type[Linf | L2]) -> None:
    model, clean = victims.affine(classes=2), victims.images(32)
    labels = victims.right_answers(model, clean)
    ball = norm(0.05 if norm is Linf else 0.35)
    attack = HopSkipJump(queries=1500)
    fooled = lead(model, call(attack, model, clean, labels, ball), labels) > 0
    smaller = norm(0.8 * ball.epsilon)
    d, before = direction(model, labels), lead(model, clean, labels)
    surely = before + best_gain(clean, d, smaller) > 0
    possible = before + best_gain(clean, d, ball) > 0
    assert 5 < surely.sum() <= possible.sum() < 30
    assert bool(fooled[surely].all())
    assert not bool(fooled[~possible].any())


@pytest.mark.parametrize("ball", [Linf(0.05), L2(0.35)], ids=["linf", "l2"])
def test_scores_alone_come_near_the_best_there_is(ball: Ball) -> None:
    model, clean = victims.affine(classes=2), victims.images(32)
    labels = victims.right_answers(model, clean)
    attack = Nes(stop_when_fooled=False)
    gain = lead(model, call(attack, model, clean, labels, ball), labels) - lead(model, clean, labels)
    best = best_gain(clean, direction(model, labels), ball)
    assert bool((gain <= best + 1e-4).all())
    assert bool((gain >= 0.95 * best).all())


@pytest.mark.parametrize("loss", LOSSES)
def test_more_classes_reach_the_best_of_all_targets(loss: str) -> None:
    model, clean, ball = victims.affine(classes=4), victims.images(64), Linf(0.1)
    labels = victims.right_answers(model, clean)
    best = best_lead(model, clean, labels, ball)
    result = call(Pgd(steps=20, restarts=3, loss=loss, stop_when_fooled=False), model, clean, labels, ball)
    reached = lead(model, result, labels)
    assert bool((reached <= best + 1e-4).all())
    if loss != "dlr":  # which is not monotone in the lead
        assert (reached >= best - 0.05 * best.abs()).double().mean() > 0.7
    fooled = call(Pgd(steps=20, restarts=3, loss=loss), model, clean, labels, ball)
    assert ((lead(model, fooled, labels) > 0) == (best > 0)).double().mean() > 0.9


@pytest.mark.parametrize("count", [1, 7, 64])
@pytest.mark.parametrize(
    ("attack", "slack"),
    [
        (CarliniWagner(), 0.01),
        (CarliniWagner(micro_batch=20), 0.01),
        (CarliniWagner(initial_const=None), 0.01),
        (CarliniWagner(variant="tanh", learning_rate=0.02, search_steps=8), 0.03),
        (CarliniWagner(variant="tanh", learning_rate=0.02, search_steps=8, abort_early=True), 0.05),
    ],
    ids=["projected", "projected, small batches", "projected, automatic constant", "tanh", "tanh, early stop"],
)
def test_carlini_wagner_finds_the_shortest_step(attack: CarliniWagner, slack: float, count: int) -> None:
    model, clean = victims.affine(classes=2), victims.images(count, low=0.3, high=0.7)
    labels = victims.right_answers(model, clean)
    least = -lead(model, clean, labels) / direction(model, labels).norm(dim=1)
    result = call(attack, model, clean, labels, L2(torch.inf))
    assert bool((lead(model, result, labels) > 0).all())
    distance = L2(0).distance(result, clean)
    assert bool((distance >= least - 1e-6).all())
    assert (distance / least).median() <= 1 + slack / 2
    assert bool((distance <= (1 + slack) * least.clamp(min=0.05) + 2e-3).all())


@pytest.mark.parametrize("confidence", [0.0, 2.0])
def test_carlini_wagner_respects_the_box_and_the_confidence(confidence: float) -> None:
    model, clean = victims.affine(classes=2), victims.images(32)
    labels = victims.right_answers(model, clean)
    needed = confidence - lead(model, clean, labels)
    least = least_distance(clean, direction(model, labels), needed)
    result = call(CarliniWagner(confidence=confidence), model, clean, labels, L2(torch.inf))
    distance = L2(0).distance(result, clean).double()
    found = lead(model, result, labels) > confidence
    assert torch.equal(found, least.isfinite())
    assert bool((distance[found] >= least[found] - 1e-5).all())
    assert bool((distance[found] <= 1.03 * least[found] + 1e-3).all())
    assert torch.equal(result[~found], clean[~found])


def test_carlini_wagner_returns_only_what_lies_inside_the_ball() -> None:
    model, clean = victims.affine(classes=2), victims.images(32)
    labels = victims.right_answers(model, clean)
    least = least_distance(clean, direction(model, labels), -lead(model, clean, labels))
    epsilon = float(least.median()) + 1e-3
    result = call(CarliniWagner(), model, clean, labels, L2(epsilon))
    fooled = lead(model, result, labels) > 0
    assert bool(fooled[least < 0.97 * epsilon].all())
    assert not bool(fooled[least > epsilon].any())
    assert torch.equal(result[~fooled], clean[~fooled])


def test_targeted_carlini_wagner_reaches_the_plane_of_its_target() -> None:
    model, clean = victims.affine(classes=3), victims.images(32, low=0.3, high=0.7)
    targets = (victims.right_answers(model, clean) + 1) % 3
    scores = model(clean).detach()
    others = [(targets + shift) % 3 for shift in (1, 2)]
    planes = torch.stack(
        [
            (scores.gather(1, k[:, None]) - scores.gather(1, targets[:, None])).squeeze(1)
            / (model.weight[k] - model.weight[targets]).norm(dim=1)
            for k in others
        ]
    )
    result = call(CarliniWagner(targeted=True), model, clean, targets, L2(torch.inf))
    assert torch.equal(model(result).argmax(1), targets)
    distance = L2(0).distance(result, clean)
    assert bool((distance >= planes.amax(0) - 1e-5).all())
    alone = (planes.amax(0) > 2 * planes.amin(0)) & (distance < 1.02 * planes.amax(0) + 1e-3)
    assert alone.sum() > 10


def test_the_gradient_of_each_image_is_its_own() -> None:
    model, clean = victims.affine(classes=4), victims.images(9)
    labels = victims.right_answers(model, clean)
    gradient, logits = input_gradient(model, clean, labels, log_odds, micro_batch=4)
    others = logits.scatter(1, labels[:, None], -torch.inf).softmax(1)
    expected = others @ model.weight - model.weight[labels]
    torch.testing.assert_close(gradient.flatten(1), expected.float(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(logits, model(clean).detach())


def test_a_confident_model_hides_nothing_from_the_cross_entropy() -> None:
    """At logits of 1e4 the float32 cross-entropy is exactly 0 with a zero gradient."""
    model, clean = victims.affine(classes=2), victims.images(16, low=0.3, high=0.7)
    sharp = victims.Affine(model.weight * 1e4, model.bias * 1e4)
    labels = victims.right_answers(model, clean)
    plain, _ = input_gradient(sharp, clean, labels, LOSSES["cross-entropy"])
    assert (plain == 0).flatten(1).all(1).double().mean() > 0.7
    ball = Linf(0.08)
    gain = lead(model, call(ONE_STEP["fgsm"], sharp, clean, labels, ball), labels) - lead(model, clean, labels)
    torch.testing.assert_close(gain, 0.08 * direction(model, labels).abs().sum(1), atol=1e-4, rtol=0)
