"""The registry: every attack by name, and helpful errors for what is not there."""

from __future__ import annotations

import pytest

from memory_defense.attacks import ATTACKS, Pgd, attack


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
