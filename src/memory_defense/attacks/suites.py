"""Suites: which attacks, in which order, find the worst case in a ball. Data only; the evaluator runs and judges.

`standard` and `rand` are AutoAttack (Croce & Hein 2020, arXiv 2003.01690) with the published budgets. `fast` is
ours. Twenty steps on the margin break nearly everything that can be broken, and twelve on the cross-entropy, which
goes another way, most of the rest. Together they put what stands in order: an image that falls to a hundred times
the effort is one whose margin one of them almost closed. So the expensive attacks
begin with the nearest survivors and go on outward while they still break some. Where gradients are masked, a short
Square breaks on the pilot what they do not, and a long one on its sample; then it is carried to every survivor.
Queries and targets go where they can still find something: the long Square leaves images alone whose margin has
stopped rising (`Square.patience`), and of nine classes APGD-T aims at the four that a linear model would reach
first.
`brief` is `fast` with a tenth of the queries, for a demonstration; `glimpse` is for defenses that take seconds for
every pass.

Nothing here imports torch before the parts of a suite are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from memory_defense.attacks import ATTACKS, NORMS_OF, attack
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


def _ours(**search: Any) -> Suite:
    return lambda _: (
        SuitePart("pgd-margin", attack("pgd", steps=20, loss="margin"), "scout"),
        SuitePart("square-100", attack("square", queries=100, p_init=0.3), "scout"),
        SuitePart("pgd-ce", attack("pgd", steps=12)),
        SuitePart("apgd-t", attack("apgd-t", steps=40, targets=4, among=9), "outward"),
        SuitePart("pgd-restarts", attack("pgd", steps=50, loss="margin", restarts=4), "outward"),
        SuitePart("square", attack("square", **search), "outward"),
    )


SUITES: dict[str, Suite] = {
    "standard": _published("standard"),
    "rand": _published("rand"),
    "fast": _ours(queries=5000, patience=1),
    "brief": _ours(queries=500),
    "glimpse": lambda _: (SuitePart("pgd-margin", attack("pgd", steps=10, loss="margin")),),
}
"""Every suite by name."""

FAST = "fast"
"""The suite that is taken where none is named."""

ALIASES = {"autoattack": "standard"}
"""Other names of suites. In a list with others, ``autoattack`` is one attack that runs its own parts."""


def names_in(attacks: object) -> tuple[str, ...]:
    """Return the names of suites and attacks in a text or a list, in order and in lower case, each once.

    Parameters
    ----------
    attacks
        ``"fast"``, ``"fast, fab-t"`` or ``["fast", "fab-t"]``.

    Raises
    ------
    ValueError
        For anything else than text, a list or a tuple of texts; for no name at all, or an empty one.
    """
    known: dict[str, str] = {}
    for name in _listed(attacks):
        known.setdefault(ALIASES.get(name, name), name)
    return tuple(known.values())


def _listed(attacks: object) -> list[str]:
    given = [attacks] if isinstance(attacks, str) else attacks
    if not isinstance(given, (list, tuple)):
        raise ValueError(
            f"attacks is {attacks!r}, expected names of suites and attacks, such as 'fast' or ['pgd', 'square']"
        )
    if not given:
        raise ValueError(f"attacks is {attacks!r}, which names none; give 'fast', or others joined by commas")
    names: list[str] = []
    for one in cast("list[object] | tuple[object, ...]", given):
        if not isinstance(one, str):
            raise ValueError(f"attacks holds {one!r}, expected names, such as ['pgd', 'square'] or 'fast'")
        names += [name.strip().lower() for name in one.split(",")]
    if "" in names:
        left = ",".join(name for name in names if name) or "fast"
        raise ValueError(f"a name in attacks is empty: {attacks!r}; write {left!r}")
    return names


def written(attacks: object) -> str:
    """Return the names as one text: as it was given, or a list joined by commas; raises what `names_in` does."""
    return attacks if isinstance(attacks, str) else ",".join(names_in(attacks))


def check_attacks(attacks: object, also: Iterable[str] = (), norms: Iterable[str] = ()) -> None:
    """Raise ValueError unless these are suites and attacks, and each attack works in one of the norms.

    Parameters
    ----------
    attacks
        See `names_in`.
    also
        Other names that are known, such as those of a plan; nothing is checked about them.
    norms
        ``linf``, ``l2`` or both; none leaves that open.
    """
    others, wanted = tuple(also), tuple(norms)
    for name in names_in(attacks):
        if name in others:
            continue
        if name not in (*SUITES, *ALIASES, *ATTACKS):
            from memory_defense.plugins import load_plugins  # few callers need it

            load_plugins()
        if name not in (*SUITES, *ALIASES, *ATTACKS):
            raise nearest(name, [*SUITES, *ALIASES, *ATTACKS, *others], "attack or suite")
        if wanted and not set(wanted) & set(NORMS_OF.get(name, wanted)):
            raise ValueError(
                f"{name} works in {'/'.join(NORMS_OF[name])} balls only, and none is evaluated here; leave it out, "
                f"or give others, such as {', '.join(one for one in ATTACKS if one not in NORMS_OF)}"
            )


def left_out(attacks: object, norms: Iterable[str]) -> tuple[str, ...]:
    """Return one line for each named attack that does not work in all of these norms."""
    given = sorted(set(norms))
    return tuple(
        f"{name}: not in {norm} balls, as it works in {'/'.join(NORMS_OF[name])} only"
        for name in names_in(attacks)
        for norm in given
        if norm not in NORMS_OF.get(name, (norm,))
    )


def parts_of(attacks: object) -> Suite:
    """Return a suite; or several suites, and attacks with their default settings, as one: joined in order.

    Parts that are equal come once; asked for by its own name, such a part attacks whatever stands. One that has the
    name of another but other settings is numbered: ``apgd-t (2)``. Parts that do not work in a norm are left out
    of it (`attacks.NORMS_OF`).

    Raises
    ------
    ValueError
        For what `names_in` refuses, or an unknown name.
    """
    check_attacks(attacks)
    names = names_in(attacks)
    if len(names) == 1 and (name := ALIASES.get(names[0], names[0])) in SUITES:
        return SUITES[name]
    return lambda norm: joined(
        part
        for name in names
        if norm in NORMS_OF.get(name, (norm,))
        for part in (SUITES[name](norm) if name in SUITES else (SuitePart(name, attack(name)),))
    )


def joined(parts: Iterable[SuitePart]) -> tuple[SuitePart, ...]:
    """Return parts in order, each once; one with another's name but not its settings is numbered."""
    kept: dict[str, SuitePart] = {}
    for part in parts:
        number, name = 1, part.name
        while name in kept and kept[name].attack != part.attack:
            number += 1
            name = f"{part.name} ({number})"
        role: Role = "main" if "main" in (part.role, kept.get(name, part).role) else part.role
        kept[name] = part._replace(name=name, role=role)
    return tuple(kept.values())
