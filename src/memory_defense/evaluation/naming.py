"""What a record is called where people read it: by the name it was given, so that no two are called the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from memory_defense.evaluation.record import Record
from memory_defense.names import RECIPES


def name_of(record: Record) -> str:
    """Return the name that the defense was given; a run that was given none is called by its recipe.

    A run without a name says what it is built of (``memory-defense/sound``), which many runs have in common.
    """
    built_of = record.defense.partition("/")[0] in set(RECIPES.values())
    return record.recipe if built_of and record.recipe.partition(" on ")[0] in RECIPES else record.defense


def names_of(records: Sequence[Record], places: Sequence[Path | None] | None = None) -> tuple[str, ...]:
    """Return what each record is called, all of them different: what two share is followed by what they do not.

    Parameters
    ----------
    records
        The records, in the order of reading.
    places
        Their files, or None for those without one.
    """
    files = places or [record.place for record in records]
    further = (
        [record.recipe for record in records],
        [str(file or "") for file in files],
        [f"no. {place + 1}" for place in range(len(records))],
    )
    names = [name_of(record) for record in records]
    for added in further:
        shared = Counter(names)
        names = [
            f"{name}, {added[place]}" if shared[name] > 1 and added[place] and _tells(names, added, place) else name
            for place, name in enumerate(names)
        ]
    return tuple(names)


def _tells(names: Sequence[str], added: Sequence[str], place: int) -> bool:
    """Return whether this addition differs among those who share the name."""
    return len({text for name, text in zip(names, added, strict=True) if name == names[place]}) > 1
