"""Attacks: frozen settings that are called with a classifier, images, labels, a ball and draws."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from memory_defense.attacks.apgd import Apgd, ApgdTargeted
from memory_defense.attacks.autoattack import AutoAttack
from memory_defense.attacks.carlini_wagner import PAPER_CW, CarliniWagner
from memory_defense.attacks.ddn import Ddn
from memory_defense.attacks.fab import FabTargeted
from memory_defense.attacks.fmn import Fmn
from memory_defense.attacks.gama import Gama
from memory_defense.attacks.gradient import (
    PAPER_BIM,
    PAPER_FGSM,
    PAPER_PGD,
    PAPER_RAND_FGSM,
    Bim,
    Fgsm,
    Pgd,
    RandFgsm,
)
from memory_defense.attacks.hop_skip_jump import HopSkipJump
from memory_defense.attacks.pgd_targeted import PgdTargeted
from memory_defense.attacks.square import Square
from memory_defense.checks import nearest
from memory_defense.contracts import Attack

ATTACKS: dict[
    str,
    type[Fgsm | RandFgsm | Bim | Pgd | PgdTargeted | Gama]
    | type[CarliniWagner | Ddn | Fmn | FabTargeted]
    | type[Apgd | ApgdTargeted | Square | HopSkipJump | AutoAttack],
] = {
    "fgsm": Fgsm,
    "rand-fgsm": RandFgsm,
    "bim": Bim,
    "pgd": Pgd,
    "pgd-t": PgdTargeted,
    "gama": Gama,
    "cw": CarliniWagner,
    "ddn": Ddn,
    "fmn": Fmn,
    "fab-t": FabTargeted,
    "apgd": Apgd,
    "apgd-t": ApgdTargeted,
    "square": Square,
    "hop-skip-jump": HopSkipJump,
    "autoattack": AutoAttack,
}
"""Every attack by the name that records and the command line use."""

__all__ = [
    "ATTACKS",
    "PAPER_BIM",
    "PAPER_CW",
    "PAPER_FGSM",
    "PAPER_PGD",
    "PAPER_RAND_FGSM",
    "Apgd",
    "ApgdTargeted",
    "AutoAttack",
    "Bim",
    "CarliniWagner",
    "Ddn",
    "FabTargeted",
    "Fgsm",
    "Fmn",
    "Gama",
    "HopSkipJump",
    "Pgd",
    "PgdTargeted",
    "RandFgsm",
    "Square",
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
