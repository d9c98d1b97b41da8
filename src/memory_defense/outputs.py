"""Whether a result can be written where it is wanted, asked before the work that makes it.

Nothing is written here: a file without a name is made where the result is to be, so that whatever the system
refuses is refused now.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

_HIDDEN = len("..12345678.part")
"""Bytes that the name of a file has more while it is written."""
_LONGEST_NAME = 255
"""Bytes in a name, where the system does not say."""
_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
_ANY_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def beside(path: Path, ending: str) -> Path:
    """Return the file that goes with `path`: its name, without ``.json``, and ``.ending``.

    Only that ending is dropped, so that ``eps0.03`` and ``eps0.1`` have files of their own.
    """
    name = path.name.removesuffix(".json") if path.name != ".json" else path.name
    return path.with_name(f"{name}.{ending}")


def check_file(
    path: Path,
    *,
    example: str = "record.json",
    also: Iterable[Path] = (),
    inputs: Mapping[str, Path | None] | None = None,
) -> None:
    """Raise ValueError unless a file can be written at `path`.

    Parameters
    ----------
    path
        File to write; folders above it need not exist.
    example
        Name of such a file, for the message where `path` is a folder.
    also
        Files that are written beside it.
    inputs
        What is read, by the name that the user knows it by; none of it may be written to.
    """
    files = [path, *also]
    _check_names(path, files)
    try:
        for one in files:
            _check_not_read(one, inputs or {})
            if one.is_dir():
                raise ValueError(f"{one} is a folder; name the file to write, such as {one / example}")
            if os.path.lexists(one) and not one.is_symlink() and not one.is_file():
                raise ValueError(f"{one} is a device or the like, not a file; choose another name")
            if one.is_file() and not one.stat().st_mode & _ANY_WRITE:
                raise ValueError(f"{one} is read-only and stays as it is; choose another name, or make it writable")
        _try(path, path.parent)
    except OSError as error:
        raise _refused(path, error) from error


def check_folder(path: Path, *, inputs: Mapping[str, Path | None] | None = None) -> None:
    """Raise ValueError unless files can be written into a folder, which need not exist.

    Parameters
    ----------
    path
        The folder.
    inputs
        As in `check_file`.
    """
    _check_names(path, [path])
    try:
        _check_not_read(path, inputs or {})
        if os.path.lexists(path) and not path.is_dir():
            raise ValueError(f"{path} is a file; choose a folder")
        _try(path, path)
    except OSError as error:
        raise _refused(path, error) from error


def contents(place: Path) -> dict[Path, str]:
    """Return the SHA-256 of a file, or of every file in a folder; nothing where nothing is there."""
    files = [place] if place.is_file() else [path for path in sorted(place.rglob("*")) if path.is_file()]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def replaced(before: Mapping[Path, str], place: Path) -> list[Path]:
    """Return the files whose content is another than `contents` found before."""
    return [path for path, sha256 in contents(place).items() if before.get(path, sha256) != sha256]


def _check_not_read(path: Path, inputs: Mapping[str, Path | None]) -> None:
    for name, source in inputs.items():
        if source is not None and path.exists() and source.exists() and path.samefile(source):
            raise ValueError(f"{path} is read as well ({name}) and would be lost; choose another name to write to")


def _check_names(path: Path, files: Iterable[Path]) -> None:
    """Raise ValueError for a name that is too long for the system, the longest that will be needed included."""
    folder = _nearest(path.parent)
    try:
        limit = os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        limit = _LONGEST_NAME
    own = len(os.fsencode(path.name))
    most = max(len(os.fsencode(one.name)) for one in files) + _HIDDEN
    longest = max([most, *(len(os.fsencode(part)) for part in path.parent.parts)])
    if longest > limit:
        raise ValueError(
            f"{path}: its names are too long for this file system, which allows {limit} bytes ({path.name!r} has "
            f"{own}, and what is written beside it {most - own} more); choose a shorter one"
        )


def _try(path: Path, folder: Path) -> None:
    """Make a file in the folder, or in the nearest one above it that exists, and take it away."""
    there = _nearest(folder)
    if not there.is_dir():
        raise ValueError(f"{path} cannot be written: {there} is a file, not a folder; choose another place")
    if hasattr(os, "O_TMPFILE"):  # a file without a name: nothing to take away, even from a killed process
        try:
            os.close(os.open(there, os.O_TMPFILE | os.O_RDWR, 0o600))
            return
        except OSError as error:
            if error.errno not in _NO_NAMELESS:
                raise
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:99]}.", suffix=".part", dir=there)
    os.close(handle)
    Path(name).unlink()


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest place above it that exists."""
    return next((one for one in (folder, *folder.absolute().parents) if os.path.lexists(one)), Path())


def _refused(path: Path, error: OSError) -> ValueError:
    remedy = "choose a place that you may write to (out)"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space"
    return ValueError(f"{path} could not be written: {error.strerror or error}; nothing was begun: {remedy}")
