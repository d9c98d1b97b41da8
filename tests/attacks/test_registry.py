"""The registry: every attack by name, and helpful errors for what is not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from memory_defense import attacks
from memory_defense.attacks import ATTACKS, Pgd, attack
from memory_defense.attacks.suites import SUITES, check_attacks, parts_of


@pytest.mark.parametrize("name", ATTACKS)
def test_every_name_builds_its_attack(name: str) -> None:
    assert attack(name) == ATTACKS[name]()
    assert attack(name, micro_batch=7) == ATTACKS[name](micro_batch=7)
    assert attack(name) != attack(name, micro_batch=7)
    assert hash(attack(name)) == hash(attack(name))


def test_options_reach_the_attack() -> None:
    assert attack("pgd", steps=3, loss="margin") == Pgd(steps=3, loss="margin")


def test_unknown_names_and_options_name_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown attack 'pdg'.*'pgd'.*bim, cw, .*fgsm, .*pgd"):
        attack("pdg")
    with pytest.raises(ValueError, match=r"option of the attack pgd 'step'.*steps"):
        attack("pgd", step=3)
    with pytest.raises(ValueError, match="steps is 0"):
        attack("bim", steps=0)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_class_is_an_attribute_of_the_package(name: str) -> None:
    assert getattr(attacks, ATTACKS[name].__name__) is ATTACKS[name]


def test_an_unknown_attribute_is_none_of_the_package() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Pgdd'"):
        _ = attacks.Pgdd


def test_a_class_of_the_users_own_may_join_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS, "mine", Pgd)
    assert attack("mine", steps=2) == Pgd(steps=2)


def test_names_and_suites_are_read_without_torch() -> None:
    code = "import sys; from memory_defense.attacks.suites import ATTACKS, SUITES, check_attacks; "
    code += "check_attacks('pgd,square'); print(len(ATTACKS), len(SUITES), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(ATTACKS)), "5", "False"]


@pytest.mark.parametrize("given", ["pdg", "fast,pgd", "", "pgd,", "all"])
def test_what_is_neither_a_suite_nor_attacks_is_refused_in_the_same_words(given: str) -> None:
    with pytest.raises(ValueError, match="unknown attack or suite") as checked:
        check_attacks(given)
    with pytest.raises(ValueError) as asked:
        parts_of(given)
    assert str(checked.value) == str(asked.value)


@pytest.mark.parametrize("given", [*SUITES, "autoattack", "pgd", "pgd, square"])
def test_suites_and_attacks_joined_by_commas_are_taken(given: str) -> None:
    check_attacks(given)
    assert parts_of(given)("linf")
