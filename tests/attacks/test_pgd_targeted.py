"""Multi-targeted PGD: which classes it aims at, what it spends, and that its climbs are PGD's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attacks import victims
from memory_defense.attacks import Pgd, PgdTargeted
from memory_defense.attacks.targets import lead_of, likeliest_others
from memory_defense.losses import margin
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.wrappers import CountingPasses

COUNT = 16
DRAWS = ImageDraws.of(0, "a", COUNT)


def test_leads_and_targets_are_the_ones_done_by_hand() -> None:
    logits = torch.tensor([[5.0, 3.0, 1.0, -1.0], [0.0, 4.0, 2.0, 1.0]])
    labels, targets = torch.tensor([0, 3]), torch.tensor([2, 1])
    assert lead_of(logits, labels, targets).tolist() == [-4.0, 3.0]
    assert likeliest_others(logits, labels, 2).tolist() == [[1, 2], [1, 2]]
    assert likeliest_others(logits, labels, 9).tolist() == [[1, 2, 3], [1, 2, 0]]


def test_it_aims_at_a_class_that_the_margin_does_not_see() -> None:
    """Only the last class listens to the image; the margin is that of another one until it has caught up."""
    weight = torch.zeros(5, victims.SIZE**2)
    weight[3] = 1.0
    model = victims.Affine(weight, torch.tensor([1.0, 5.0, 4.0, -18.0, 3.0]))
    clean = victims.images(COUNT, low=0.4, high=0.6)  # class 3 has about 0
    labels = victims.right_answers(model, clean)
    assert labels.tolist() == [1] * COUNT
    plain = Pgd(steps=10, restarts=4, loss="margin")(model, clean, labels, Linf(0.3), DRAWS)
    assert not bool((model(plain).argmax(1) == 3).any())
    for targets, reached in ((3, False), (4, True)):
        result = PgdTargeted(steps=10, targets=targets)(model, clean, labels, Linf(0.3), DRAWS)
        assert (model(result).argmax(1) == 3).tolist() == [reached] * COUNT


def test_with_two_classes_it_is_pgd_on_the_margin() -> None:
    model, clean = victims.affine(classes=2), victims.images(COUNT)
    labels = victims.right_answers(model, clean)
    for ball in (Linf(0.05), L2(0.4)):
        ours = PgdTargeted(steps=20)(model, clean, labels, ball, DRAWS)
        theirs = Pgd(steps=20, loss="margin")(model, clean, labels, ball, DRAWS)
        assert torch.equal(model(ours).argmax(1) == labels, model(theirs).argmax(1) == labels)


def test_each_target_costs_a_climb_of_the_survivors_only() -> None:
    model, clean = CountingPasses(victims.mlp()), victims.images(COUNT)
    labels = victims.right_answers(model, clean)
    PgdTargeted(steps=6, restarts=2)(model, clean, labels, Linf(1e-4), DRAWS)
    assert model.passes.backward == 2 * 3 * 6 * COUNT
    model.passes.backward = 0
    PgdTargeted(steps=50)(model, clean, labels, Linf(0.8), DRAWS)
    assert model.passes.backward < 10 * COUNT


def test_without_early_stops_no_target_is_left_out() -> None:
    model, clean = victims.mlp(), victims.images(COUNT)
    labels = victims.right_answers(model, clean)
    leads = [
        margin(
            model(PgdTargeted(steps=10, targets=count).for_transfer()(model, clean, labels, Linf(0.1), DRAWS)),
            labels,
        )
        for count in (1, 2, 3)
    ]
    assert bool((leads[1] >= leads[0]).all())
    assert bool((leads[2] >= leads[1]).all())
    assert bool((leads[2] > leads[0]).any())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"targets": 0}, "targets is 0"),
        ({"restarts": 0}, "restarts is 0"),
        ({"step_size": -1.0}, "step_size is -1.0"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        PgdTargeted(**options)


def test_an_unbounded_ball_needs_a_step_size() -> None:
    model, clean = victims.mlp(), victims.images(COUNT)
    labels = victims.right_answers(model, clean)
    with pytest.raises(ValueError, match="give a step_size"):
        PgdTargeted()(model, clean, labels, L2(float("inf")), DRAWS)
    result = PgdTargeted(step_size=1.0, steps=5)(model, clean, labels, L2(float("inf")), DRAWS)
    assert bool((model(result).argmax(1) != labels).all())
