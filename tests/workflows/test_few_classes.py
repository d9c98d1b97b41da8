"""Every suite and every attack on models with few and with many classes, at every door.

The victims are affine, so that for two classes the worst case in an L-inf ball is known: no perturbation adds more
to the lead of the wrong class than the ball's corner along the signs of its gradient, cut at the walls of [0, 1].
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import memory_defense
from memory_defense.attacks import ATTACKS, NORMS_OF, ApgdTargeted, CarliniWagner
from memory_defense.attacks.suites import SUITES, parts_of
from memory_defense.contracts import Attack, least_classes, parts_of_attack
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.robustness import evaluate as attack_all
from memory_defense.losses import suited
from memory_defense.passes import GRANULE
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.workflows.evaluate import cascade_cases

COUNT, SIZE = 8, 4
"""Images, and pixels a side."""

FEW, MANY = (2, 3), (5, 11, 101)
"""Numbers of classes: with the few every name is tried, with the many those that aim at classes."""

NAMES = (*SUITES, *ATTACKS)
AIMED = ("standard", "fast", "apgd-t", "fab-t", "pgd-t", "autoattack")
EPSILON = {"linf": 0.15, "l2": 0.8}


def affine(classes: int, seed: int = 0) -> nn.Module:
    random = torch.Generator().manual_seed(seed)
    linear = nn.Linear(SIZE * SIZE, classes)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(classes, SIZE * SIZE, generator=random))
        linear.bias.copy_(-linear.weight.sum(1) / 2)
    return nn.Sequential(nn.Flatten(), linear)


def problem(classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    model = affine(classes)
    images = torch.rand(COUNT, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model, images, model(images).argmax(1)


def exact(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> float:
    """Return the share of images that a two-class affine model answers rightly all over their L-inf balls."""
    linear = model[1]
    direction = (linear.weight[1 - labels] - linear.weight[labels]).detach()  # (N, D)
    corner = (images.flatten(1) + epsilon * direction.sign()).clamp(0, 1)
    with torch.no_grad():
        return float((linear(corner).argmax(1) == labels).float().mean())


def cascade(model: nn.Module, names: str, norm: str = "linf") -> list[Case]:
    ball = {"linf": Linf, "l2": L2}[norm](EPSILON[norm])
    return cascade_cases(Undefended(model), parts_of(names), [ball])


def norm_for(name: str) -> str:
    return NORMS_OF.get(name, ("linf",))[0]


@pytest.mark.parametrize(
    ("name", "classes"),
    [*((name, few) for name in NAMES for few in FEW), *((name, many) for name in AIMED for many in MANY)],
)
def test_every_name_runs_on_any_number_of_classes(name: str, classes: int) -> None:
    model, images, labels = problem(classes)
    found = attack_all(Undefended(model), images, labels, cascade(model, name, norm_for(name)))
    (worst,) = found.worst_cases()
    assert worst.tried == COUNT
    assert worst.accuracy is not None
    assert worst.accuracy < 1
    for case, asked in zip(found.cases, cascade(model, name, norm_for(name)), strict=True):
        changed = least(asked.attack) > classes
        assert bool(case.note) == changed, "what suits the model is left as it was"
        assert (case.attack == asked.attack) == (not changed)
        assert least(case.attack) <= classes


def least(attack: Attack) -> int:
    return max(map(least_classes, parts_of_attack(attack, "linf").values()))


@pytest.mark.parametrize(
    "name", ["fast", "standard", "rand", "brief", "glimpse", "apgd-t", "gama,fmn", "autoattack,fgsm"]
)
def test_two_classes_lose_exactly_what_their_worst_case_loses(name: str) -> None:
    model, images, labels = problem(2)
    epsilon = 0.1
    expected = exact(model, images, labels, epsilon)
    assert 0 < expected < 1, "some images can be moved across the boundary and others cannot"
    record = memory_defense.evaluate(model, images, labels, epsilon=epsilon, attacks=name)
    assert record.worst_case[0].accuracy == expected


def test_what_was_put_in_place_is_said_in_the_record_and_while_it_runs(tmp_path) -> None:
    model, images, labels = problem(3)
    heard: list[str] = []
    record = memory_defense.evaluate(
        model, images, labels, epsilon=0.02, attacks="rand,apgd-t", out=tmp_path / "r.json",
        options=Options(progress=Listening(heard)),
    )  # fmt: skip
    notes = {stage.attack: stage.note for stage in record.cascades[0].stages}
    said = "the margin in place of DLR, which needs 4 classes and there are 3"
    assert notes == {"apgd-ce": "", "apgd-dlr": "", "apgd-t": said}
    assert {stage.attack: stage.parameters["loss"] for stage in record.cascades[0].stages} == {
        "apgd-ce": "cross-entropy", "apgd-dlr": "dlr", "apgd-t": "margin",
    }  # fmt: skip
    assert f"apgd-t: {said}" in heard
    assert f"apgd-t: {said}" in record.notes
    assert Record.read(tmp_path / "r.json") == record
    assert all(line.verdict != "fail" for line in record.audit if line.check == "classes suit the losses")


class Listening:
    """A display that keeps what it is told."""

    def __init__(self, heard: list[str]) -> None:
        self.heard = heard

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int, text: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        self.heard.append(text)


@pytest.mark.parametrize("answer", [0, 1])
def test_one_logit_is_refused_and_the_advice_is_right(answer: int) -> None:
    """A sigmoid's model is refused at every door before an attack; two logits made as it says answer as it did."""
    two, images, _ = problem(2)
    linear = two[1]

    def score(points: Tensor) -> Tensor:  # of class 1
        both = points.flatten(1) @ linear.weight.T + linear.bias
        return (both[:, 1] - both[:, 0]).reshape(-1, 1)

    labels = torch.full((COUNT,), answer)
    with pytest.raises(ValueError, match="answers with 1 logit") as refused:
        memory_defense.evaluate(score, images, labels, epsilon=0.1)
    flat = "one score for two classes becomes logits by"
    for model, said in ((score, "answers with 1 logit"), (lambda points: score(points).squeeze(1), flat)):
        with pytest.raises(ValueError, match=said):
            attack_all(Undefended(model), images, labels, cascade(two, "pgd"))
    advice = str(refused.value).split("answer with ")[-1].split(", whose")[0]

    def mended(points: Tensor) -> Tensor:
        return eval(advice, {"torch": torch, "z": score(points).reshape(-1, 1)})

    truth = (score(images) > 0).long().squeeze(1)
    assert torch.equal(mended(images).argmax(1), truth)
    assert torch.allclose(mended(images).softmax(1)[:, 1:], score(images).sigmoid())
    record = memory_defense.evaluate(mended, images, truth, epsilon=0.1)
    assert record.clean.accuracy == 1
    assert record.worst_case[0].accuracy == exact(two, images, truth, 0.1)


def test_what_does_not_work_in_a_norm_is_refused_before_anything_is_attacked() -> None:
    model, images, labels = problem(5)
    asked: list[int] = []

    def counted(points: Tensor) -> Tensor:
        asked.append(len(points))
        return model(points)

    with pytest.raises(ValueError, match="cw works in l2 balls only, and none is evaluated here") as refused:
        memory_defense.evaluate(counted, images, labels, epsilon=0.1, attacks="pgd,cw")
    assert asked == []
    for name in str(refused.value).split("such as ")[1].split(", "):
        parts_of(name)("linf")
    cases = [
        *cascade(model, "pgd"),
        Case(name="cw", attack=CarliniWagner(), knowledge="end-to-end", ball=Linf(0.1)),
    ]
    with pytest.raises(ValueError, match="cw does not work in linf balls"):
        attack_all(Undefended(counted), images, labels, cases)
    assert sum(asked) <= GRANULE, "its classes were counted at most"


def test_an_attack_that_cannot_be_changed_is_refused_by_name() -> None:
    class Own:
        loss = "dlr"

        def __call__(self, model, images, labels, ball, draws):
            return images

        def for_transfer(self):
            return self

    with pytest.raises(ValueError, match="mine needs 3 classes, and the model has 2; leave it out"):
        suited("mine", Own(), 2)
    assert suited("mine", kept := Own(), 3) == (kept, "")


@pytest.mark.parametrize("targets", [1, 4, 9])
def test_more_targets_than_wrong_classes_are_all_of_them(targets: int) -> None:
    model, images, labels = problem(5)
    draws = ImageDraws.of(0, "targets", COUNT)
    few = ApgdTargeted(steps=5, targets=min(targets, 4))(model, images, labels, Linf(0.02), draws)
    assert torch.equal(ApgdTargeted(steps=5, targets=targets)(model, images, labels, Linf(0.02), draws), few)
