"""Runs and records below the folders given, found by listing them, never by joining what a page sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from memory_defense.checks import nearest
from memory_defense.run_directory import RECORD, RunDirectory
from memory_defense.zoo import PREFIX

DEPTH = 3
"""Levels of directories below the root that are looked into."""

MOST = 200
"""Runs that are listed, and entries that are looked at in one directory."""

_SKIPPED = ("stages", "__pycache__")
_START = 1 << 12
_MARKS = (b'"schema"', b'"defense"', b'"dataset"', b'"images"', b'"clean"')
"""What a record says at its start, by which it is told from other JSON files."""


@dataclass(frozen=True)
class Run:
    """A run directory below the root."""

    name: str
    """Its path below the root, the root itself by its own name; ``zoo:`` and a name for what is shipped."""
    directory: RunDirectory

    @property
    def shipped(self) -> bool:
        """Whether it comes with the package."""
        return self.name.startswith(PREFIX)

    def fault(self) -> str:
        """Return the reason why the run cannot be used, or an empty string."""
        try:
            manifest = self.directory.read()
        except (ValueError, OSError) as error:
            return str(error)
        if not manifest.get("complete"):
            return f"{self.name} is not finished; continue it with 'memdef train --resume'"
        return ""


@dataclass(frozen=True)
class Evaluated:
    """A record: a run's, or one that `memdef evaluate` wrote of any other classifier."""

    name: str
    """The run's name, or the file's path below the root."""
    record: Path
    gallery: Path | None
    """Images for the report, where there are some."""
    run: bool
    """Whether it is a run's."""


@dataclass(frozen=True)
class _Place:
    """A folder that is listed."""

    path: Path
    depth: int
    prefix: str
    """Put before every name."""
    own: str
    """Name of the folder itself."""

    def name(self, path: Path) -> str:
        return self.prefix + path.relative_to(self.path).as_posix() if path != self.path else self.own


class Runs:
    """The runs and records below root directories.

    Parameters
    ----------
    roots
        Nothing outside them is ever read, not even through symbolic links. With several, names begin with the
        root's.
    shipped
        Root of what comes with the package, listed last under the names that commands know it by; None for none.
    flat
        A folder whose own files are looked at for records, and nothing below it, where nobody named a folder; None
        where somebody did.

    Raises
    ------
    ValueError
        If a root is no directory.
    """

    def __init__(self, *roots: Path, shipped: Path | None = None, flat: Path | None = None) -> None:
        for root in roots:
            if not root.is_dir():
                raise ValueError(
                    f"{root} is not a directory; give one that holds runs, such as the --out of 'memdef train', "
                    "or make one with 'memdef demo'"
                )
        self._own = _places(roots)
        self._shipped = [_Place(shipped.resolve(), DEPTH, PREFIX, PREFIX)] if shipped is not None else []
        self._flat = [_Place(flat.resolve(), 0, "./", ".")] if flat is not None else []
        self.named = flat is None
        """Whether somebody named the folders."""
        self.looked = [f"{root} (with the folders in it, {DEPTH} levels down)" for root in roots]
        self.looked += [f"{flat.resolve()} (its own files alone)"] if flat is not None else []
        self.looked += ["what comes with the package"] if shipped is not None else []

    def all(self) -> dict[str, Run]:
        """Return the runs by name, in alphabetical order, at most `MOST`; what is shipped comes last."""
        return self._runs(self._own) | self._runs(self._shipped)

    def find(self, name: str) -> Run:
        """Return the run of this name; raise ValueError when there is none, naming the known ones."""
        known = self.all()
        if name not in known:
            raise nearest(name[:100], known, "run")
        return known[name]

    def evaluated(self) -> dict[str, Evaluated]:
        """Return the records by name: those of no run first, then the runs', then the shipped."""
        alone: dict[str, Evaluated] = {}
        for place in (*self._flat, *self._own):
            for path in self._directories(place.path, place.depth):
                for record in _records_in(path, place.path):
                    name = place.name(record)
                    alone.setdefault(name, Evaluated(name, record, None, run=False))
        own, shipped = (self._runs(places) for places in (self._own, self._shipped))
        seen = {run.directory.record.resolve() for run in own.values()}
        kept = {name: one for name, one in sorted(alone.items())[:MOST] if one.record.resolve() not in seen}
        return kept | _of_runs(own) | _of_runs(shipped)

    def evaluation(self, name: str) -> Evaluated:
        """Return the record of this name; raise ValueError when there is none, naming the known ones."""
        known = self.evaluated()
        run = self.all().get(name)
        if name not in known and run is not None:
            raise ValueError(f"{name} has no record; make one with: memdef evaluate {run.directory.path}")
        if name not in known:
            raise nearest(name[:100], known, "record")
        return known[name]

    def _runs(self, places: Sequence[_Place]) -> dict[str, Run]:
        found: dict[str, Run] = {}
        for place in places:
            for path in self._directories(place.path, place.depth):
                if len(found) == MOST:
                    break
                if (path / "manifest.json").is_file() and _holds(path, place.path):
                    found.setdefault(place.name(path), Run(place.name(path), RunDirectory(path)))
        return dict(sorted(found.items()))

    def _directories(self, path: Path, depth: int) -> Iterator[Path]:
        yield path
        if depth == 0:
            return
        try:
            entries = sorted(path.iterdir())[:MOST]
        except OSError:
            return
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _SKIPPED or entry.is_symlink() or not entry.is_dir():
                continue
            yield from self._directories(entry, depth - 1)


def _places(roots: Sequence[Path]) -> list[_Place]:
    """Return the folders given; with several, each name begins with its folder's, or path where two share it."""
    resolved = list(dict.fromkeys(root.resolve() for root in roots))
    names = [root.name or "/" for root in resolved]
    several = len(resolved) > 1
    places: list[_Place] = []
    for root, name in zip(resolved, names, strict=True):
        called = name if names.count(name) == 1 else root.as_posix()
        places.append(_Place(root, DEPTH, f"{called}/" if several else "", called if several else name))
    return places


def _holds(path: Path, root: Path) -> bool:
    """Return whether every file of a run lies below the root, links followed."""
    try:
        return all(entry.resolve().is_relative_to(root) for entry in path.iterdir())
    except (OSError, RuntimeError):  # a loop of links
        return False


def _records_in(path: Path, root: Path) -> Iterator[Path]:
    """Yield the files of a folder that begin as a record does; links out of the root are left alone."""
    try:
        entries = sorted(path.glob("*.json"))[:MOST]
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            if not entry.resolve().is_relative_to(root) or not entry.is_file():
                continue
            with entry.open("rb") as opened:
                start = opened.read(_START)
        except (OSError, RuntimeError):
            continue
        if all(mark in start for mark in _MARKS) or entry.name == RECORD:
            yield entry


def _of_runs(runs: dict[str, Run]) -> dict[str, Evaluated]:
    found: dict[str, Evaluated] = {}
    for name, run in runs.items():
        directory = run.directory
        if directory.record.is_file():
            gallery = directory.gallery if directory.gallery.is_file() else None
            found[name] = Evaluated(name, directory.record, gallery, run=True)
    return found
