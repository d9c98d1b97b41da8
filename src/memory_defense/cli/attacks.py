"""``memdef attacks``."""

from __future__ import annotations

import typer

from memory_defense.attacks import ATTACKS, NORMS_OF
from memory_defense.attacks.words import ATTACKS_IN_WORDS, FEW_CLASSES, SUITES_IN_WORDS

_IN_WORDS = {"linf": "L-inf", "l2": "L2"}


def attacks() -> None:
    """List the suites and attacks for the option ``--attacks``, which takes several, joined by commas."""
    known = {name: ATTACKS_IN_WORDS.get(name) or _said_by_itself(name) for name in ATTACKS}
    width = max(map(len, (*SUITES_IN_WORDS, *known))) + 2
    typer.echo("Suites (a suite runs several attacks, each on the images that the earlier ones did not break):")
    for name, said in SUITES_IN_WORDS.items():
        typer.echo(f"  {name:<{width}}{said}")
    typer.echo("\nAttacks, at their default settings:")
    for name, said in known.items():
        norms = NORMS_OF.get(name)
        only = f"; in {' and '.join(_IN_WORDS[norm] for norm in norms)} balls only" if norms else ""
        typer.echo(f"  {name:<{width}}{said}{only}")
    typer.echo(
        "\nAttacks run in the order given, such as fast,fab-t,hop-skip-jump; repeated names run "
        f"once.\n{FEW_CLASSES}"
    )


def _said_by_itself(name: str) -> str:
    """Return the first line of a plug-in's attack."""
    lines = (ATTACKS[name].__doc__ or "of a plug-in").strip().splitlines()
    return lines[0].rstrip(".")
