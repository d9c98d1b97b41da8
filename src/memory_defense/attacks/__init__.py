"""Attacks: frozen settings that are called with a classifier, images, labels, a ball and draws."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from memory_defense.attacks.carlini_wagner import PAPER_CW, CarliniWagner
from memory_defense.attacks.gradient import PAPER_BIM, PAPER_FGSM, PAPER_PGD, Bim, Fgsm, Pgd
from memory_defense.checks import nearest
from memory_defense.contracts import Attack

ATTACKS: dict[str, type[Fgsm | Bim | Pgd | CarliniWagner]] = {
    "fgsm": Fgsm,
    "bim": Bim,
    "pgd": Pgd,
    "cw": CarliniWagner,
}
"""Every attack by the name that records and the command line use."""

__all__ = [
    "ATTACKS",
    "PAPER_BIM",
    "PAPER_CW",
    "PAPER_FGSM",
    "PAPER_PGD",
    "Bim",
    "CarliniWagner",
    "Fgsm",
    "Pgd",
    "attack",
]


def attack(name: str, **options: Any) -> Attack:
    """Return the attack of this name with these settings.

    Raises
    ------
    ValueError
        For an unknown name or option, naming the known ones, or a value out of range.
    """
    if name not in ATTACKS:
        raise nearest(name, ATTACKS, "attack")
    known = [field.name for field in fields(ATTACKS[name])]
    for option in options:
        if option not in known:
            raise nearest(option, known, f"option of the attack {name}")
    return ATTACKS[name](**options)
