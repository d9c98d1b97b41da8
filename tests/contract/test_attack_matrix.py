"""Every attack in the registry x tiny victims x norms: what an attack owes its caller.

An attack added to ``ATTACKS`` is tested here without touching this file; a quicker setting may be listed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from torch import Tensor, nn

from attacks import victims
from memory_defense.attacks import ATTACKS, attack
from memory_defense.contracts import Attack, Ball, Classifier
from memory_defense.losses import margin
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.wrappers import frozen, modules_of, rows_of

COUNT = 13

QUICK: dict[str, dict[str, int]] = {
    "bim": {"steps": 5},
    "pgd": {"steps": 5, "restarts": 2},
    "pgd-t": {"steps": 5, "targets": 3},
    "gama": {"steps": 8},
    "cw": {"steps": 25, "search_steps": 3},
    "ddn": {"steps": 25},
    "fmn": {"steps": 25},
    "fab-t": {"steps": 8, "targets": 3},
    "apgd": {"steps": 5, "restarts": 2},
    "apgd-t": {"steps": 5, "targets": 3},
    "square": {"queries": 50},
    "nes": {"queries": 105, "pairs": 10},
    "hop-skip-jump": {"queries": 250, "evaluations": 20, "starts": 10},
    "autoattack": {"steps": 5, "targets": 3, "queries": 30},
}

ONE_NORM = {"cw": "l2", "ddn": "l2"}
"""Attacks made for one norm only; they must refuse every other."""

BLACK_BOX = {"square", "nes", "hop-skip-jump"}
"""Attacks that never ask for a gradient: none can be useless to them, and a few queries are worth less than one."""

CHANCE = {"rand-fgsm"}
"""Attacks that spend part of the budget at random: where the gradient is no lie, one whole step beats them."""

VICTIMS: dict[str, tuple[Callable[[], Classifier], int]] = {
    "affine": (victims.affine, 1),
    "mlp": (victims.mlp, 1),
    "colour conv": (victims.conv, 3),
    "view": (victims.Viewing, 3),
    "zero gradient": (victims.Flat, 1),
    "training mode": (victims.training, 1),
    "row-bound": (lambda: victims.row_bound(COUNT), 1),
}

BALLS: dict[str, Ball] = {"linf": Linf(0.1), "l2": L2(0.8)}

CASES = [
    pytest.param(name, victim, norm, id=f"{name}-{victim}-{norm}")
    for name, victim, norm in itertools.product(ATTACKS, VICTIMS, BALLS)
    if ONE_NORM.get(name, norm) == norm
]
GRADIENT_CASES = [case for case in CASES if case.values[0] not in BLACK_BOX | CHANCE]


def quick(name: str, **options: object) -> Attack:
    return attack(name, **QUICK.get(name, {}), **options)


def problem(victim: str) -> tuple[Classifier, Tensor, Tensor, ImageDraws]:
    """Return a victim, images, labels of which two are wrong from the start, and draws."""
    make, channels = VICTIMS[victim]
    model, clean = make(), victims.images(COUNT, channels)
    labels = victims.right_answers(model, clean)
    labels[[2, 7]] = (labels[[2, 7]] + 1) % victims.CLASSES
    return model, clean, labels, ImageDraws.of(0, "attack", COUNT)


def answers(model: Classifier, images: Tensor) -> Tensor:
    with frozen(model), torch.no_grad():
        return model(images)


@pytest.mark.parametrize(("name", "victim", "norm"), CASES)
def test_the_result_is_an_admissible_image(name: str, victim: str, norm: str) -> None:
    model, clean, labels, draws = problem(victim)
    before = clean.clone(), labels.clone(), draws.keys.clone()
    for settings in (quick(name), quick(name).for_transfer()):
        result = settings(model, clean, labels, BALLS[norm], draws)
        assert bool(BALLS[norm].contains(result, clean).all())
        assert result.dtype == clean.dtype
        assert result.shape == clean.shape
        assert result.is_contiguous()
        assert not result.requires_grad
        assert result.data_ptr() != clean.data_ptr()
    assert torch.equal(clean, before[0])
    assert torch.equal(labels, before[1])
    assert torch.equal(draws.keys, before[2])


@pytest.mark.parametrize(("name", "victim", "norm"), CASES)
def test_epsilon_zero_is_the_identity(name: str, victim: str, norm: str) -> None:
    model, clean, labels, draws = problem(victim)
    ball = type(BALLS[norm])(0.0)  # pyright: ignore
    assert torch.equal(quick(name)(model, clean, labels, ball, draws), clean)


@pytest.mark.parametrize(("name", "victim", "norm"), CASES)
def test_images_already_mistaken_stay_as_they_are(name: str, victim: str, norm: str) -> None:
    model, clean, labels, draws = problem(victim)
    result = quick(name)(model, clean, labels, BALLS[norm], draws)
    assert torch.equal(result[[2, 7]], clean[[2, 7]])


@pytest.mark.parametrize(("name", "victim", "norm"), CASES)
def test_no_image_depends_on_its_batch(name: str, victim: str, norm: str) -> None:
    model, clean, labels, draws = problem(victim)
    ball = BALLS[norm]
    whole = quick(name)(model, clean, labels, ball, draws)
    assert torch.equal(whole, quick(name)(model, clean, labels, ball, draws)), "two runs differ"
    small = quick(name, micro_batch=3)(model, clean, labels, ball, draws)
    torch.testing.assert_close(small, whole, atol=1e-6, rtol=0)
    for rows in torch.randperm(COUNT, generator=victims.generator(9)).split(5):
        alone = quick(name)(rows_of(model, rows), clean[rows], labels[rows], ball, draws.rows(rows))
        torch.testing.assert_close(alone, whole[rows], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "victim", "norm"), CASES)
def test_the_model_is_left_exactly_as_it_was(name: str, victim: str, norm: str) -> None:
    model, clean, labels, draws = problem(victim)
    modules = list(modules_of(model))
    parameters = [parameter for module in modules for parameter in module.parameters(recurse=False)]
    for parameter in parameters[::2]:
        parameter.grad = torch.ones_like(parameter)

    def state() -> list[object]:
        tensors = [tensor for module in modules for tensor in module.state_dict().values()]
        gradients = [None if parameter.grad is None else parameter.grad.clone() for parameter in parameters]
        flags = [module.training for module in modules] + [parameter.requires_grad for parameter in parameters]
        return [*(tensor.clone() for tensor in tensors), *gradients, *flags]

    before, modes = state(), torch.is_grad_enabled()
    quick(name)(model, clean, labels, BALLS[norm], draws)
    for was, now in zip(before, state(), strict=True):
        assert torch.equal(was, now) if isinstance(was, Tensor) else was is now
    assert torch.is_grad_enabled() == modes


@pytest.mark.parametrize(("name", "victim", "norm"), GRADIENT_CASES)
def test_it_is_no_weaker_than_one_step(name: str, victim: str, norm: str) -> None:
    model, clean, labels, draws = problem(victim)
    once = attack("fgsm")(model, clean, labels, BALLS[norm], draws)
    more = quick(name)(model, clean, labels, BALLS[norm], draws)
    fooled = [(answers(model, result).argmax(1) != labels).sum() for result in (once, more)]
    assert fooled[1] >= fooled[0]


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("norm", BALLS)
def test_it_fools_a_victim_that_can_be_fooled(name: str, norm: str) -> None:
    model, clean, labels, draws = problem("mlp")
    if ONE_NORM.get(name, norm) != norm:
        with pytest.raises(ValueError, match="ball is"):
            quick(name)(model, clean, labels, BALLS[norm], draws)
        return
    ball = type(BALLS[norm])(0.3 if norm == "linf" else 2.0)  # pyright: ignore
    logits = answers(model, quick(name)(model, clean, labels, ball, draws))
    assert (logits.argmax(1) != labels).sum() >= COUNT - 2
    pushed = answers(model, quick(name).for_transfer()(model, clean, labels, ball, draws))
    assert margin(pushed, labels).mean() > margin(logits, labels).mean()


@pytest.mark.parametrize("name", ATTACKS)
def test_targeted_attacks_reach_their_targets(name: str) -> None:
    if "targeted" not in {field.name for field in fields(ATTACKS[name])}:
        pytest.skip("has no targeted form")
    model, clean, _labels, draws = problem("affine")
    targets = (victims.right_answers(model, clean) + 1) % victims.CLASSES
    ball = BALLS["l2"].__class__(8.0) if ONE_NORM.get(name) == "l2" else Linf(0.4)  # pyright: ignore
    result = quick(name, targeted=True)(model, clean, targets, ball, draws)
    assert (answers(model, result).argmax(1) == targets).float().mean() > 0.8


@pytest.mark.parametrize("name", ATTACKS)
def test_bad_inputs_are_refused(name: str) -> None:
    model, clean, labels, draws = problem("mlp")
    ball = BALLS[ONE_NORM.get(name, "linf")]
    with pytest.raises(ValueError, match=r"x / 255"):
        quick(name)(model, clean * 255, labels, ball, draws)
    with pytest.raises(ValueError, match=r"expected \(13,\)"):
        quick(name)(model, clean, labels[:-1], ball, draws)


class _Steps(nn.Module):
    """Rounds its input, which cuts the gradient."""

    def forward(self, images: Tensor) -> Tensor:
        return images.detach().round().flatten(1)[:, : victims.CLASSES]


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in BLACK_BOX])
def test_a_useless_gradient_is_an_error(name: str) -> None:
    model, clean = _Steps(), victims.images(5)
    labels = victims.right_answers(model, clean)
    with pytest.raises(ValueError, match="differentiably"):
        quick(name)(model, clean, labels, BALLS[ONE_NORM.get(name, "linf")], ImageDraws.of(0, "attack", 5))
