"""Suites: which attacks, in which order, find the worst case in a ball. Data only; whoever runs them judges.

`standard` and `rand` are AutoAttack (Croce & Hein 2020, arXiv 2003.01690) with the published budgets. `fast` is
ours. Twenty steps on the margin break nearly everything that can be broken, and they put the rest in order: an
image that falls to a hundred times the effort is one whose margin they almost closed. So the dear attacks begin
with the nearest survivors and go on outward while they still break some. Where gradients are masked, a short Square
breaks on the pilot what they do not, and a long one on its sample; then it is carried to every survivor. `brief` is
`fast` with a tenth of the queries and fewer targets, for a demonstration;
`glimpse` is for defenses whose every pass takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from memory_defense.attacks.apgd import ApgdTargeted
from memory_defense.attacks.autoattack import AutoAttack
from memory_defense.attacks.gradient import Pgd
from memory_defense.attacks.square import Square
from memory_defense.checks import nearest
from memory_defense.contracts import Attack

Suite = Callable[[str], "tuple[Part, ...]"]
"""A norm (``linf`` or ``l2``) to the parts of a suite, in order."""


class Part(NamedTuple):
    """One attack of a suite; the roles are those of `evaluation.cases.Case`."""

    name: str
    attack: Attack
    role: Literal["scout", "main", "outward"] = "main"


def _published(version: Literal["standard", "rand"]) -> Callable[[str], tuple[Part, ...]]:
    return lambda norm: tuple(Part(name, one) for name, one in AutoAttack(version=version).parts(norm).items())


def _ours(queries: int, targeted: ApgdTargeted) -> tuple[Part, ...]:
    return (
        Part("pgd-margin", Pgd(steps=20, loss="margin"), "scout"),
        Part("square-100", Square(queries=100, p_init=0.3), "scout"),
        Part("apgd-t", targeted, "outward"),
        Part("pgd-restarts", Pgd(steps=50, loss="margin", restarts=4), "outward"),
        Part("square", Square(queries=queries), "outward"),
    )


SUITES: dict[str, Callable[[str], tuple[Part, ...]]] = {
    "standard": _published("standard"),
    "rand": _published("rand"),
    "fast": lambda _: _ours(5000, ApgdTargeted(steps=20, targets=9)),
    "brief": lambda _: _ours(500, ApgdTargeted(steps=40, targets=4)),
    "glimpse": lambda _: (Part("pgd-margin", Pgd(steps=10, loss="margin")),),
}
"""Every suite by name: norm (``linf`` or ``l2``) to its parts, in order."""


ALIASES = {"autoattack": "standard"}


def parts_of(names: str) -> Callable[[str], tuple[Part, ...]]:
    """Return the parts for a norm of a suite, or of attacks with their default settings, joined by commas.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    name = ALIASES.get(names, names)
    if name in SUITES:
        return SUITES[name]
    from memory_defense.attacks import ATTACKS

    wanted = [one.strip() for one in names.split(",")]
    for one in wanted:
        if one not in ATTACKS:
            raise nearest(one, [*SUITES, *ALIASES, *ATTACKS], "attack or suite")
    return lambda _: tuple(Part(one, ATTACKS[one]()) for one in wanted)
