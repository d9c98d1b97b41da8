"""What every attack that looks for the closest image promises, against closed forms and a peer of another kind."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from attacks import victims
from attacks.minimum import lead, least_distance
from memory_defense.attacks import CarliniWagner, Ddn, FabTargeted, Fmn
from memory_defense.attacks.closest import TRANSFER_CONFIDENCE
from memory_defense.contracts import Ball
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.wrappers import CountingPasses

Minimum = Ddn | Fmn | FabTargeted
CASES = [
    pytest.param(Ddn(), L2, id="ddn"),
    pytest.param(Fmn(), L2, id="fmn-l2"),
    pytest.param(Fmn(), Linf, id="fmn-linf"),
    pytest.param(FabTargeted(steps=60), L2, id="fab-l2"),
    pytest.param(FabTargeted(steps=60), Linf, id="fab-linf"),
]
ONE_EACH = [pytest.param(attack, id=type(attack).__name__) for attack in (Ddn(), Fmn(), FabTargeted())]


def largest(norm: type[L2 | Linf]) -> Ball:
    """Return the ball that only the box limits."""
    return norm(math.inf if norm is L2 else 1.0)


def call(attack: Minimum | CarliniWagner, model: object, clean: Tensor, labels: Tensor, ball: Ball) -> Tensor:
    result = attack(model, clean, labels, ball, ImageDraws.of(3, "a", len(clean)))  # pyright: ignore
    assert bool(ball.contains(result, clean).all())
    return result


def two_classes(count: int, low: float = 0.0, high: float = 1.0) -> tuple[victims.Affine, Tensor, Tensor]:
    model, clean = victims.affine(classes=2), victims.images(count, low=low, high=high)
    return model, clean, victims.right_answers(model, clean)


@pytest.mark.parametrize("count", [1, 7, 64])
@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_the_shortest_step_to_a_plane_is_found(attack: Minimum, norm: type[L2 | Linf], count: int) -> None:
    model, clean, labels = two_classes(count, low=0.3, high=0.7)
    d = model.weight[1 - labels] - model.weight[labels]
    dual = d.abs().sum(1) if norm is Linf else d.norm(dim=1)
    least = -lead(model, clean, labels) / dual
    torch.testing.assert_close(least_distance(model, clean, labels, norm.norm), least)
    result = call(attack, model, clean, labels, largest(norm))
    assert bool((lead(model, result, labels) > 0).all())
    distance = largest(norm).distance(result, clean)
    assert bool((distance >= least - 1e-6).all())
    assert bool((distance <= 1.01 * least + 1e-5 + 0.006 * isinstance(attack, Ddn)).all())
    assert (distance / least).median() <= 1.006


@pytest.mark.parametrize("confidence", [0.0, 2.0])
@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_the_box_and_the_confidence_are_respected(
    attack: Minimum, norm: type[L2 | Linf], confidence: float
) -> None:
    model, clean, labels = two_classes(48)
    least = least_distance(model, clean, labels, norm.norm, confidence)
    result = call(dataclasses.replace(attack, confidence=confidence), model, clean, labels, largest(norm))
    distance = largest(norm).distance(result, clean).double()
    found = lead(model, result, labels) > confidence
    assert torch.equal(found, least.isfinite())
    assert bool((distance >= least - 1e-5)[found].all())
    assert bool((distance <= 1.03 * least + 2e-3)[found].all())
    assert torch.equal(result[~found], clean[~found])


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_pixels_that_saturate_on_the_way_do_not_stop_it(attack: Minimum, norm: type[L2 | Linf]) -> None:
    """Of pixels near 0 or 1 only half can go far along the gradient, and a strong pull saturates those too."""
    model = victims.affine(classes=2)
    clean = 0.02 + 0.96 * (victims.images(32) > 0.5)
    labels = victims.right_answers(model, clean)
    least = least_distance(model, clean, labels, norm.norm, 20.0)
    d = model.weight[1 - labels] - model.weight[labels]
    dual = d.abs().sum(1) if norm is Linf else d.norm(dim=1)
    possible = least.isfinite()
    boxless = (20 - lead(model, clean, labels)) / dual
    assert (least > 1.2 * boxless)[possible].double().mean() > 0.9, "the box must matter"
    result = call(dataclasses.replace(attack, confidence=20.0), model, clean, labels, largest(norm))
    found = lead(model, result, labels) > 20
    assert not bool(found[~possible].any())
    reachable = least < 0.9 * (1 if norm is Linf else math.sqrt(clean[0].numel()))
    assert found[possible & reachable].double().mean() > 0.9
    distance = largest(norm).distance(result, clean).double()
    assert bool((distance <= 1.03 * least + 2e-3)[found].all())


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_only_what_lies_inside_the_ball_is_returned(attack: Minimum, norm: type[L2 | Linf]) -> None:
    model, clean, labels = two_classes(32)
    least = least_distance(model, clean, labels, norm.norm)
    epsilon = float(least.median())
    result = call(attack, model, clean, labels, norm(epsilon))
    fooled = lead(model, result, labels) > 0
    assert bool(fooled[least < 0.97 * epsilon].all())
    assert not bool(fooled[least > 1.001 * epsilon].any())
    assert torch.equal(result[~fooled], clean[~fooled])


@pytest.mark.parametrize(("attack", "norm"), [case for case in CASES if case.values[1] is L2])
def test_distances_are_as_small_as_carlini_wagners_for_as_many_passes(attack: Minimum, norm: type[L2]) -> None:
    model, clean = victims.mlp(), victims.images(48)
    labels = victims.right_answers(model, clean)
    peer = CountingPasses(model)
    theirs = call(CarliniWagner(), peer, clean, labels, norm(math.inf))
    counted = CountingPasses(model)
    settings = attack if isinstance(attack, FabTargeted) else dataclasses.replace(attack, steps=500)
    if isinstance(settings, Ddn):  # the victim is untrained: the cross-entropy pulls towards all classes at once
        settings = dataclasses.replace(settings, loss="margin")
    result = call(settings, counted, clean, labels, norm(math.inf))
    assert counted.passes.backward <= peer.passes.backward
    assert bool((lead(model, result, labels) > 0).all())
    medians = [L2(0).distance(points, clean).median() for points in (result, theirs)]
    assert medians[0] <= 1.1 * medians[1]


@pytest.mark.parametrize("attack", ONE_EACH)
def test_for_transfer_takes_the_largest_lead_where_the_confidence_is_out_of_reach(attack: Minimum) -> None:
    model, clean = victims.mlp(), victims.images(12)
    labels, ball = victims.right_answers(model, clean), L2(0.9)
    bold = attack.for_transfer()
    assert (bold.confidence, bold.best_effort) == (TRANSFER_CONFIDENCE, True)
    assert dataclasses.replace(attack, confidence=50.0).for_transfer().confidence == 50.0
    shy = dataclasses.replace(attack, confidence=TRANSFER_CONFIDENCE)
    assert torch.equal(call(shy, model, clean, labels, ball), clean)
    plain = lead(model, call(attack, model, clean, labels, ball), labels)
    leads = lead(model, call(bold, model, clean, labels, ball), labels)
    assert (leads > 0).sum() >= (plain > 0).sum() - 1 > 0
    assert leads[plain > 0].mean() > 5 * plain[plain > 0].mean()


@pytest.mark.parametrize("attack", ONE_EACH)
def test_stopping_at_the_first_success_saves_passes_and_fools_the_same_images(attack: Minimum) -> None:
    model, clean = victims.mlp(), victims.images(12)
    labels, ball = victims.right_answers(model, clean), L2(0.8)
    whole, short = CountingPasses(model), CountingPasses(model)
    full = call(attack, whole, clean, labels, ball)
    brief = call(dataclasses.replace(attack, stop_when_fooled=True, micro_batch=5), short, clean, labels, ball)
    fooled = lead(model, full, labels) > 0
    assert 0 < fooled.sum() < len(clean)
    assert torch.equal(lead(model, brief, labels) > 0, fooled)
    distances = [ball.distance(points, clean)[fooled].mean() for points in (full, brief)]
    assert distances[0] < distances[1] <= ball.epsilon
    assert short.passes.backward < whole.passes.backward * (1 - 0.5 * fooled.double().mean())


@pytest.mark.parametrize("attack", ONE_EACH)
def test_stopping_at_the_first_success_waits_for_one_in_an_unbounded_ball(attack: Minimum) -> None:
    model, clean = victims.mlp(), victims.images(12)
    labels = victims.right_answers(model, clean)
    result = call(dataclasses.replace(attack, stop_when_fooled=True), model, clean, labels, L2(math.inf))
    assert bool((lead(model, result, labels) > 0).all())


@pytest.mark.parametrize("attack", ONE_EACH)
def test_mistaken_images_are_not_searched(attack: Minimum) -> None:
    clean = victims.images(6)
    model = CountingPasses(victims.mlp())
    wrong = (victims.right_answers(model, clean) + 1) % victims.CLASSES
    assert torch.equal(call(attack, model, clean, wrong, L2(1.0)), clean)
    assert model.passes.backward == 0


class Fickle:
    """Errs at every call but the first and, from the given one on, the last: the attack's own judgement."""

    def __init__(self, honest_from: int) -> None:
        self.calls, self.honest_from = 0, honest_from

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        errs = 1 < self.calls < self.honest_from
        return images.flatten(1)[:, :2] * 1e-3 + torch.tensor([0.0, 1.0 if errs else -1.0])


@pytest.mark.parametrize(
    ("attack", "last"),
    [(Ddn(steps=8), 11), (Fmn(steps=8), 11), (FabTargeted(steps=8), 18)],
    ids=["ddn", "fmn", "fab"],
)
def test_what_fails_the_last_judgement_is_not_returned(attack: Minimum, last: int) -> None:
    clean, labels = victims.images(3), torch.zeros(3, dtype=torch.int64)
    model = Fickle(math.inf)  # pyright: ignore
    attack(model, clean, labels, L2(math.inf), ImageDraws.of(0, "a", 3))
    assert model.calls == last, "the last call judges the result"
    refused = attack(Fickle(last), clean, labels, L2(math.inf), ImageDraws.of(0, "a", 3))
    assert torch.equal(refused, clean)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"confidence": -1.0}, "confidence is -1.0"),
        ({"confidence": math.inf}, "confidence is inf"),
        ({"micro_batch": 0}, "micro_batch is 0"),
    ],
)
@pytest.mark.parametrize("kind", [Ddn, Fmn, FabTargeted])
def test_settings_out_of_range_are_refused(kind: type[Minimum], settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        kind(**settings)  # pyright: ignore
