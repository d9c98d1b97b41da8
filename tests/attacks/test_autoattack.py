"""AutoAttack: its published parts, its order, and that each part sees only what the earlier ones left."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks import victims
from memory_defense.attacks import Apgd, ApgdTargeted, AutoAttack, FabTargeted, Square
from memory_defense.attacks.autoattack import VERSIONS
from memory_defense.contracts import least_classes
from memory_defense.losses import margin
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.wrappers import CountingPasses

COUNT = 24
DRAWS = ImageDraws.of(0, "a", COUNT)
QUICK = AutoAttack(steps=5, targets=3, queries=20)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_parts_are_the_published_ones(norm: str) -> None:
    standard = AutoAttack().parts(norm)
    assert list(standard) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert standard["apgd-ce"] == Apgd(steps=100, restarts=1, loss="cross-entropy", rho=0.75)
    assert standard["apgd-t"] == ApgdTargeted(steps=100, targets=9, loss="dlr", rho=0.75)
    fab = FabTargeted(steps=100, targets=9, alpha_max=0.1, eta=1.05, beta=0.9, stop_when_fooled=True)
    assert standard["fab-t"] == fab
    assert standard["square"] == Square(queries=5000, p_init=0.8)
    rand = AutoAttack(version="rand").parts(norm)
    assert list(rand) == ["apgd-ce", "apgd-dlr"]
    assert rand["apgd-ce"] == Apgd(steps=100, loss="cross-entropy", samples=20)
    assert rand["apgd-dlr"] == Apgd(steps=100, loss="dlr", samples=20)


def test_every_part_takes_the_budgets_it_has() -> None:
    parts = AutoAttack(steps=7, targets=2, queries=30, micro_batch=5).parts("linf")
    values = {name: dataclasses.asdict(part) for name, part in parts.items()}  # pyright: ignore
    assert {name: value.get("steps") for name, value in values.items()} == {
        **dict.fromkeys(("apgd-ce", "apgd-t", "fab-t"), 7),
        "square": None,
    }
    assert [values[name]["targets"] for name in ("apgd-t", "fab-t")] == [2, 2]
    assert values["square"]["queries"] == 30
    assert {value["micro_batch"] for value in values.values()} == {5}


@pytest.mark.parametrize("ball", [Linf(0.06), L2(0.5)], ids=["linf", "l2"])
def test_it_is_its_parts_one_after_the_other_on_the_survivors(ball: Linf | L2) -> None:
    model, clean = victims.mlp(), victims.images(COUNT)
    labels = victims.right_answers(model, clean)
    labels[3] = (labels[3] + 1) % victims.CLASSES
    result = QUICK(model, clean, labels, ball, DRAWS)
    alive = model(clean).argmax(1) == labels
    expected = clean.clone()
    for name, part in QUICK.parts(ball.norm).items():
        for row in alive.nonzero():
            tried = part(model, clean[row], labels[row], ball, DRAWS.rows(row).child(name))
            if model(tried).argmax(1) != labels[row]:
                expected[row], alive[row] = tried, False
    assert torch.equal(model(result).argmax(1) == labels, alive)
    assert 0 < alive.sum() < COUNT - 1
    torch.testing.assert_close(result[~alive], expected[~alive], atol=1e-6, rtol=0)
    assert bool((margin(model(result), labels) >= margin(model(clean), labels)).all())


def test_images_that_are_done_cost_nothing_more() -> None:
    model, clean = CountingPasses(victims.mlp()), victims.images(COUNT)
    labels = victims.right_answers(model, clean)
    model.passes.forward = 0
    QUICK(model, clean, (labels + 1) % victims.CLASSES, Linf(0.1), DRAWS)
    assert (model.passes.forward, model.passes.backward) == (COUNT, 0)
    model.passes.forward = 0
    AutoAttack()(model, clean, labels, Linf(0.9), DRAWS)
    assert model.passes.forward < 12 * COUNT


def test_without_early_stops_the_largest_margin_of_all_parts_comes_back() -> None:
    model, clean = victims.mlp(), victims.images(COUNT)
    labels, ball = victims.right_answers(model, clean), Linf(0.06)
    bold = QUICK.for_transfer()
    assert bold == dataclasses.replace(QUICK, stop_when_fooled=False)
    alone = [
        margin(model(part.for_transfer()(model, clean, labels, ball, DRAWS.child(name))), labels)
        for name, part in QUICK.parts("linf").items()
    ]
    best = torch.stack([margin(model(clean), labels), *alone]).amax(0)
    torch.testing.assert_close(margin(model(bold(model, clean, labels, ball, DRAWS)), labels), best)


class Coin:
    """A fair coin decides at every call whether the answer is that of a robust or of a fragile model."""

    def __init__(self) -> None:
        self.robust = victims.Affine(torch.zeros(3, victims.SIZE**2), torch.tensor([1.0, 0.0, -1.0]))
        weight = torch.zeros(3, victims.SIZE**2)
        weight[1] = 1.0
        self.fragile = victims.Affine(weight, torch.tensor([18.5, 0.0, -1.0]))
        self.random = victims.generator()
        self.calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        heads = bool(torch.rand((), generator=self.random) < 0.5)
        return (self.robust if heads else self.fragile)(images)


def test_rand_finds_what_one_draw_mistakes() -> None:
    """A part's success counts if the draw that judges it errs too: with two parts, three times out of four."""
    model, clean = Coin(), victims.images(8, low=0.4, high=0.5)
    labels, attack = torch.zeros(8, dtype=torch.int64), AutoAttack(version="rand", steps=6)
    won = list[bool]()
    for seed in range(12):
        result = attack(model, clean, labels, Linf(0.2), ImageDraws.of(seed, "a", 8))
        mistaken = model.fragile(result).argmax(1) == 1
        won.append(bool(mistaken.all()))
        assert won[-1] or not bool(mistaken.any())
        assert bool((model.robust(result).argmax(1) == 0).all())
    assert 6 <= sum(won) <= 12


@pytest.mark.parametrize(
    ("version", "classes", "remedy"),
    [
        ("standard", 3, r"'standard' needs at least 4 classes, the model has 3; use version='standard-margin'"),
        ("standard", 2, r"'standard' needs at least 4 classes, the model has 2; use version='standard-margin'"),
        ("rand", 2, r"'rand' needs at least 3 classes, the model has 2; use version='rand-margin'"),
    ],
)
def test_too_few_classes_are_refused_before_anything_is_attacked(version: Any, classes: int, remedy: str) -> None:
    model, clean = CountingPasses(victims.affine(classes=classes)), victims.images(COUNT)
    labels = victims.right_answers(model, clean)
    model.passes.forward = 0
    with pytest.raises(ValueError, match=remedy):
        AutoAttack(version=version)(model, clean, labels, Linf(0.1), DRAWS)
    assert (model.passes.forward, model.passes.backward) == (COUNT, 0)


def test_the_table_of_needs_agrees_with_the_attacks() -> None:
    """A part runs on as many classes as it is said to need, and those with a DLR loss on no fewer."""
    for part in {part for parts in VERSIONS.values() for part in parts.values()}:
        quick = {"steps": 1, "queries": 1, "samples": 1}
        known = {field.name for field in dataclasses.fields(part)}
        small = dataclasses.replace(part, **{key: value for key, value in quick.items() if key in known})
        for classes in (2, 3, 4):
            model, clean = victims.affine(classes=classes), victims.images(4)
            labels, draws = victims.right_answers(model, clean), ImageDraws.of(0, "a", 4)
            if classes >= least_classes(part):
                small(model, clean, labels, Linf(0.1), draws)
            else:
                with pytest.raises(ValueError, match="classes"):
                    small(model, clean, labels, Linf(0.1), draws)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"version": "standrad"}, r"unknown version of AutoAttack 'standrad'; did you mean 'standard'"),
        ({"steps": 0}, "steps is 0"),
        ({"targets": 0}, "targets is 0"),
        ({"queries": 0}, "queries is 0"),
        ({"version": "rand", "queries": 10}, "queries is 10, but no part of version 'rand' has queries"),
        ({"micro_batch": 0}, "micro_batch is 0"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        AutoAttack(**options)


def test_balls_that_do_not_fit_are_refused() -> None:
    model, clean = victims.mlp(), victims.images(COUNT)
    labels = victims.right_answers(model, clean)
    with pytest.raises(ValueError, match="finite epsilon"):
        AutoAttack()(model, clean, labels, L2(math.inf), DRAWS)
    with pytest.raises(ValueError, match="the ball is l1"):
        AutoAttack().parts("l1")
