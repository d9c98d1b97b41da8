"""What attacks and defenses declare about themselves, and what holds for one that declares nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from memory_defense.attacks import attack
from memory_defense.contracts import (
    aims_at_a_class,
    least_classes,
    needs_gradient,
    parts_of_attack,
    sees_labels_only,
    targets_of,
    transfers_of,
)
from memory_defense.defenses.undefended import Undefended


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A user's own attack: it can be called and transferred, and says nothing else."""

    def __call__(self, model, images, labels, ball, draws):
        return images

    def for_transfer(self):
        return self


@dataclass(frozen=True, kw_only=True)
class Choosy(Plain):
    """One that declares with fields and class variables alike."""

    gradient_free: bool = False
    hard_label: ClassVar[bool] = True
    targets: int = 3
    loss: str = "dlr"

    def parts(self, norm):
        return {f"in {norm}": Plain()}


def test_an_attack_that_declares_nothing_is_a_plain_gradient_attack() -> None:
    for plain in (Plain(), lambda model, images, labels, ball, draws: images):
        assert needs_gradient(plain)
        assert not sees_labels_only(plain)
        assert not aims_at_a_class(plain)
        assert targets_of(plain) is None
        assert least_classes(plain) == 2
        assert parts_of_attack(plain, "linf") == {"": plain}


def test_declarations_are_read_as_values() -> None:
    assert needs_gradient(Choosy())
    assert not needs_gradient(Choosy(gradient_free=True))
    assert sees_labels_only(Choosy())
    assert targets_of(Choosy()) == 3
    assert least_classes(Choosy()) == 4
    assert parts_of_attack(Choosy(), "l2") == {"in l2": Plain()}


@pytest.mark.parametrize(
    ("name", "options", "gradient", "labels_only", "aimed", "classes"),
    [
        ("pgd", {}, True, False, False, 2),
        ("pgd", {"targeted": True, "loss": "dlr"}, True, False, True, 3),
        ("apgd-t", {}, True, False, True, 4),
        ("fab-t", {}, True, False, True, 2),
        ("square", {}, False, False, False, 2),
        ("nes", {}, False, False, False, 2),
        ("hop-skip-jump", {}, False, True, False, 2),
        ("autoattack", {}, True, False, True, 2),
    ],
)
def test_the_registered_attacks_declare_what_they_do(name, options, gradient, labels_only, aimed, classes) -> None:
    made = attack(name, **options)
    assert needs_gradient(made) == gradient
    assert sees_labels_only(made) == labels_only
    assert aims_at_a_class(made) == aimed
    assert least_classes(made) == classes


def test_autoattack_is_made_of_its_parts() -> None:
    assert list(parts_of_attack(attack("autoattack"), "linf")) == ["apgd-ce", "apgd-t", "fab-t", "square"]


def test_a_defense_without_the_declaration_transfers_nothing() -> None:
    assert transfers_of(Undefended(lambda images: images.flatten(1))) == frozenset()
    assert transfers_of(object()) == frozenset()
