"""Trained defenses that come with the package, by name: ``zoo:fashion-mnist/sound``. Nothing here needs torch.

Each is a run directory below this one: half-precision weights, manifest, and the record of an evaluation of these
very weights. Commands read them and write their results elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from memory_defense.names import nearest

ROOT = Path(__file__).parent
PREFIX = "zoo:"


def entries() -> tuple[str, ...]:
    """Return the names of all entries, such as ``fashion-mnist/sound``, in alphabetical order."""
    return tuple(sorted(one.parent.relative_to(ROOT).as_posix() for one in ROOT.glob("*/*/manifest.json")))


def is_entry(target: str | Path) -> bool:
    """Return whether this asks for an entry, one that exists or not: ``zoo:`` and a name."""
    return str(target).startswith(PREFIX)


def is_shipped(path: Path) -> bool:
    """Return whether a run is one that comes with the package, which nothing is written to."""
    return ROOT.resolve() in path.resolve().parents


def located(target: str | Path) -> Path:
    """Return the directory of the entry that a target names; the path itself for every other target.

    Raises ValueError for an entry that does not exist, with the nearest name.
    """
    if not is_entry(target):
        return Path(target)
    name, known = str(target).removeprefix(PREFIX), entries()
    if name not in known:
        raise nearest(name, known, "zoo entry")
    return ROOT / name
