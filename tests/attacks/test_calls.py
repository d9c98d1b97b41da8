"""An attack that is called with something else than it takes says so before it asks the model anything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attacks import victims
from generated import examples
from memory_defense.attacks import ATTACKS, attack
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.wrappers import OwnPrecision
from workflows.callers import IMAGES, LABELS, Problem
from workflows.test_call_signatures import told

COUNT = 5
QUICK: dict[str, dict[str, int]] = {
    "square": {"queries": 20},
    "nes": {"queries": 20, "pairs": 3},
    "hop-skip-jump": {"queries": 100, "evaluations": 10, "starts": 5},
    "autoattack": {"steps": 2, "targets": 1, "queries": 10},
    "cw": {"steps": 5, "search_steps": 1},
}
AS_THEY_ARE = (
    "tensor", "channels last in memory", "not contiguous", "asks for a gradient", "parameter", "expanded",
    "born in inference mode",
)  # fmt: skip
"""Forms of the images that an attack takes; everything else it leaves to the caller."""


def asked(names: list[str], model: nn.Module) -> nn.Module:
    """Return the model, which notes every call."""
    model.register_forward_hook(lambda *_: names.append("asked"))
    return model


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "net"}, "model is 'net', expected a module or a function"),
        ({"model": nn.Linear}, "model is a type|model is <class"),
        ({"images": [1, 2]}, r"images are a list, expected a tensor.*use torch.tensor\(images\)"),
        ({"labels": None}, "labels are None, expected a tensor"),
        ({"labels": torch.arange(COUNT)[:, None]}, r"use labels.squeeze\(1\)"),
        ({"ball": 0.1}, r"ball is 0.1, expected one such as threat.Linf"),
        ({"ball": Linf}, "ball is .*Linf.*, expected one such as"),
        ({"draws": 0}, r"draws is 0, expected such as randomness.ImageDraws.of"),
        (
            {"draws": ImageDraws.of(0, "", COUNT + 1)},
            f"draws has {COUNT + 1} streams, but there are {COUNT} images",
        ),
    ],
)
def test_what_cannot_be_attacked_is_refused_unasked(name: str, changed: dict[str, Any], said: str) -> None:
    calls: list[str] = []
    call: dict[str, Any] = {
        "model": asked(calls, victims.affine()),
        "images": victims.images(COUNT, 1),
        "labels": torch.zeros(COUNT, dtype=torch.int64),
        "ball": L2(0.5),
        "draws": ImageDraws.of(0, "", COUNT),
    }
    with pytest.raises(ValueError, match=said):
        attack(name, **QUICK.get(name, {}))(**(call | changed))
    assert not calls


@pytest.mark.parametrize("name", ["fgsm", "pgd", "cw", "square", "fab-t"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_precision_is_named_and_the_wrapper_attacks_it(name: str, dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).to(dtype)
    images, draws = victims.images(COUNT, 1), ImageDraws.of(0, "", COUNT)
    with torch.no_grad():
        labels = net(images.to(dtype)).argmax(1)
    made = attack(name, **QUICK.get(name, {}))
    with pytest.raises(ValueError, match=r"weights are torch\..*use model.float\(\), or wrappers.OwnPrecision"):
        made(net, images, labels, L2(2.0), draws)
    found = made(OwnPrecision(net, dtype), images, labels, L2(2.0), draws)

    def by_hand(points: Tensor) -> Tensor:
        logits = net(points.to(dtype))
        return logits if dtype == torch.float64 else logits.float()

    assert found.dtype == torch.float32
    assert torch.equal(found, made(by_hand, images, labels, L2(2.0), draws))


@pytest.mark.parametrize("name", ["pgd", "square"])
def test_inference_mode_around_an_attack_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    images, draws = victims.images(COUNT, 1), ImageDraws.of(0, "", COUNT)
    labels = net(images).argmax(1)
    made = attack(name, **QUICK.get(name, {}))
    plain = made(net, images, labels, Linf(0.3), draws)
    with torch.inference_mode():
        assert torch.equal(made(net, images.clone(), labels.clone(), Linf(0.3), draws), plain)
    assert (net(plain).argmax(1) != labels).any(), "something was attacked at all"


@settings(max_examples=examples(60), deadline=None)
@given(
    images=st.sampled_from(list(IMAGES)),
    labels=st.sampled_from(list(LABELS)),
    name=st.sampled_from(["fgsm", "square"]),
)
def test_a_call_gives_what_it_gives_for_plain_tensors_or_one_error(images: str, labels: str, name: str) -> None:
    problem, made = Problem.of(3), attack(name, **QUICK.get(name, {}))
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    ball, draws = Linf(0.1), ImageDraws.of(0, "", 3)
    pixels, truth = IMAGES[images].make(problem.images), LABELS[labels].make(problem.labels)
    if images in AS_THEY_ARE and labels == "int64":
        clean = IMAGES[images].same(problem.images) if IMAGES[images].same else problem.images
        found = made(net, pixels, truth, ball, draws)
        assert torch.equal(found, made(net, clean, problem.labels, ball, draws))
        return
    try:
        made(net, pixels, truth, ball, draws)
    except ValueError as error:
        if images != "too many channels":  # there the model's own error is told
            told(error)
    else:
        assert (IMAGES[images].taken, LABELS[labels].taken) == (True, True)
