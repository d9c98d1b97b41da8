"""What comes back from a rented machine: one directory as a few flat files, none larger than a pipe lets through.

A tar archive, cut: ``cat NAME-*.part | tar -x`` puts it together again, as `read_parts` does.
"""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

from memory_defense.files import remove

PART_BYTES = 15 << 20
"""Bytes in a file, at most: 15 MiB, where 16 are let through."""

MOST_PARTS, MOST_BYTES = 8, 60 << 20
"""Files, and bytes in all of them, at most: 64 MiB are let through."""

_NAME = re.compile(r"(.+)-([0-9]+)-of-([0-9]+)\.part")


def write_parts(source: Path, place: Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """Write a directory as parts ``NAME-1-of-n.part`` and return them; NAME is the directory's own.

    The same files give the same bytes. Older parts of this name are removed.

    Parameters
    ----------
    source
        Directory of any depth.
    place
        Created if needed.
    part_bytes
        Bytes in a file, at most.

    Raises
    ------
    ValueError
        For more than may come back.
    """
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(str(Path(source.name) / path.relative_to(source)))
            content = path.read_bytes()
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    content = whole.getvalue()
    pieces = [content[start : start + part_bytes] for start in range(0, len(content), part_bytes)]
    if len(pieces) > MOST_PARTS or len(content) > MOST_BYTES:
        raise ValueError(
            f"{source} has {len(content):,} bytes, but {MOST_PARTS} files and {MOST_BYTES:,} bytes come back; keep "
            "fewer weights in this entry (QueueEntry.weights)"
        )
    place.mkdir(parents=True, exist_ok=True)
    paths = [place / f"{source.name}-{number}-of-{len(pieces)}.part" for number in range(1, len(pieces) + 1)]
    for path, piece in zip(paths, pieces, strict=True):
        path.write_bytes(piece)
    for path in place.glob(f"{source.name}-*.part"):
        found = _NAME.fullmatch(path.name)
        if found is not None and found[1] == source.name and path not in paths:
            remove(path)
    return paths


def read_parts(place: Path, into: Path) -> list[str]:
    """Put together everything that `write_parts` wrote to `place`, under `into`; return the names.

    Raises
    ------
    ValueError
        If there are no parts, some are missing, or they hold no archive.
    """
    sets: dict[tuple[str, int], dict[int, Path]] = {}
    for path in sorted(place.glob("*.part")):
        if (found := _NAME.fullmatch(path.name)) is not None:
            sets.setdefault((found[1], int(found[3])), {})[int(found[2])] = path
    if not sets:
        raise ValueError(f"{place} has no parts, NAME-1-of-n.part; give the directory in which they came back")
    for (name, count), parts in sets.items():
        missing = [number for number in range(1, count + 1) if number not in parts]
        if missing:
            raise ValueError(f"{place / f'{name}-{missing[0]}-of-{count}.part'} is missing; bring it back as well")
        content = b"".join(parts[number].read_bytes() for number in range(1, count + 1))
        try:
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                archive.extractall(into, filter="data")
        except tarfile.TarError as error:
            raise ValueError(
                f"the parts of {name} in {place} are not an archive ({error}); bring them back again"
            ) from error
    return [name for name, _ in sets]
