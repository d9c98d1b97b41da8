"""Suites: which attacks, in which order, find the worst case in a ball. Data only; the evaluator runs and judges.

`standard` and `rand` are AutoAttack (Croce & Hein 2020, arXiv 2003.01690) with the published budgets. `fast` is
ours. Twenty steps on the margin break nearly everything that can be broken, and they put the rest in order: an
image that falls to a hundred times the effort is one whose margin they almost closed. So the expensive attacks
begin with the nearest survivors and go on outward while they still break some. Where gradients are masked, a short
Square breaks on the pilot what they do not, and a long one on its sample; then it is carried to every survivor.
`brief` is `fast` with a tenth of the queries and fewer targets, for a demonstration; `glimpse` is for defenses that
take seconds for every pass.

Nothing here imports torch before the parts of a suite are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from memory_defense.attacks import ATTACKS, attack
from memory_defense.names import nearest

if TYPE_CHECKING:
    from memory_defense.contracts import Attack

Role = Literal["scout", "main", "outward"]


class SuitePart(NamedTuple):
    """One attack of a suite."""

    name: str
    attack: Attack
    role: Role = "main"
    """Place in the cascade; see `evaluation.cases.Case`."""


Suite = Callable[[str], tuple[SuitePart, ...]]
"""A norm (``linf`` or ``l2``) to the parts of a suite, in order."""


def _published(version: str) -> Suite:
    return lambda norm: tuple(SuitePart(*one) for one in ATTACKS["autoattack"](version=version).parts(norm).items())


def _ours(queries: int, **targeted: Any) -> Suite:
    return lambda _: (
        SuitePart("pgd-margin", attack("pgd", steps=20, loss="margin"), "scout"),
        SuitePart("square-100", attack("square", queries=100, p_init=0.3), "scout"),
        SuitePart("apgd-t", attack("apgd-t", **targeted), "outward"),
        SuitePart("pgd-restarts", attack("pgd", steps=50, loss="margin", restarts=4), "outward"),
        SuitePart("square", attack("square", queries=queries), "outward"),
    )


SUITES: dict[str, Suite] = {
    "standard": _published("standard"),
    "rand": _published("rand"),
    "fast": _ours(5000, steps=20, targets=9),
    "brief": _ours(500, steps=40, targets=4),
    "glimpse": lambda _: (SuitePart("pgd-margin", attack("pgd", steps=10, loss="margin")),),
}
"""Every suite by name."""

ALIASES = {"autoattack": "standard"}
"""Other names of suites."""


def check_attacks(names: str) -> None:
    """Raise ValueError unless this is a suite, or names of attacks joined by commas."""
    if names in (*SUITES, *ALIASES):
        return
    for one in names.split(","):
        if one.strip() not in ATTACKS:
            raise nearest(one.strip(), [*SUITES, *ALIASES, *ATTACKS], "attack or suite")


def parts_of(names: str) -> Suite:
    """Return a suite, or attacks with their default settings, joined by commas.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    check_attacks(names)
    name = ALIASES.get(names, names)
    if name in SUITES:
        return SUITES[name]
    return lambda _: tuple(SuitePart(one.strip(), attack(one.strip())) for one in names.split(","))
