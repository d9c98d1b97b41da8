"""The runs below one root directory, found by listing it, never by joining what a page sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memory_defense.checks import nearest
from memory_defense.run_directory import RunDirectory

DEPTH = 3
"""Levels of directories below the root that are looked into."""

MOST = 200
"""Runs that are listed, and entries that are looked at in one directory."""

_SKIPPED = ("stages", "__pycache__")


@dataclass(frozen=True)
class Run:
    """A run directory below the root."""

    name: str
    """Its path below the root; the root itself is called by its own name."""
    directory: RunDirectory

    def fault(self) -> str:
        """Return the reason why the run cannot be used, or an empty string."""
        try:
            manifest = self.directory.read()
        except (ValueError, OSError) as error:
            return str(error)
        if not manifest.get("complete"):
            return f"{self.name} is not finished; continue it with 'memdef train --resume'"
        return ""


class Runs:
    """The runs below a root directory.

    Parameters
    ----------
    root
        Nothing outside it is ever read, not even through symbolic links.

    Raises
    ------
    ValueError
        If the root is no directory.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ValueError(
                f"{root} is no directory; give one that holds runs, such as the --out of 'memdef train', "
                "or make one with 'memdef demo'"
            )
        self.root = root.resolve()

    def all(self) -> dict[str, Run]:
        """Return the runs by name, in alphabetical order, at most `MOST`."""
        found: dict[str, Run] = {}
        for path in self._directories(self.root, DEPTH):
            if len(found) == MOST:
                break
            if (path / "manifest.json").is_file() and self._holds(path):
                name = path.relative_to(self.root).as_posix() if path != self.root else self.root.name or "/"
                found[name] = Run(name, RunDirectory(path))
        return dict(sorted(found.items()))

    def find(self, name: str) -> Run:
        """Return the run of this name; raise ValueError when there is none, naming the known ones."""
        known = self.all()
        if name not in known:
            raise nearest(name[:100], known, "run")
        return known[name]

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

    def _holds(self, path: Path) -> bool:
        """Return whether every file of a run lies below the root, links followed."""
        try:
            return all(entry.resolve().is_relative_to(self.root) for entry in path.iterdir())
        except (OSError, RuntimeError):  # a loop of links
            return False
