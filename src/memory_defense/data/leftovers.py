"""What lies among people's images and is none: files of systems and archives, and documents about the images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from memory_defense.data.places import shown

_SYSTEM = {
    "$recycle.bin",
    "#recycle",
    "@eadir",
    "__macosx",
    "__pycache__",
    "desktop.ini",
    "ehthumbs.db",
    "icon\r",
    "lost+found",
    "system volume information",
    "thumbs.db",
}
"""Names, in any case, of what Windows, macOS and network drives leave in folders and archives."""
_DOCUMENTS = (
    *(".csv", ".htm", ".html", ".json", ".log", ".md", ".md5", ".pdf", ".rst", ".sfv", ".sha1", ".sha256"),
    *(".sha512", ".tsv", ".txt", ".url", ".xml", ".yaml", ".yml"),
)
_DOCUMENT_NAMES = ("changelog", "checksums", "copying", "licence", "license", "manifest", "md5sums", "readme")
_NAMED = 5
"""Names that one note lists."""


def is_leftover(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or left behind by a system or an archive."""
    return name.startswith(".") or name.casefold() in _SYSTEM


def is_document(path: Path) -> bool:
    """Return whether a file is about images rather than one, by its name: notes, tables, checksums."""
    return path.suffix.casefold() in _DOCUMENTS or path.name.casefold() in (*_DOCUMENT_NAMES, "sha256sums")


def listed(names: list[str]) -> str:
    """Return the first few names for a message, and how many more there are; unshowable ones as escapes."""
    return ", ".join(map(shown, names[:_NAMED])) + f" and {len(names) - _NAMED:,} more" * (len(names) > _NAMED)


class LeftOut:
    """Counts what is left out of a folder."""

    def __init__(self) -> None:
        self._names: Counter[str] = Counter()

    def add(self, path: Path) -> None:
        """Count one file or folder."""
        self._names[path.name] += 1

    def note(self, root: object) -> str | None:
        """Return a line about all of them, or None where there is none."""
        if not self._names:
            return None
        total = self._names.total()
        several = [f"{name} ({count} times)" if count > 1 else name for name, count in sorted(self._names.items())]
        return f"left out in {root}: {total:,} hidden, system or text file{'s' * (total > 1)}: {listed(several)}"
