"""Our own copy of decoded datasets, so that the second load is fast; it is verified on every load."""

from __future__ import annotations

import os
from pathlib import Path

import pooch

from memory_defense.data.decode import REMEDY, Arrays, DamagedDataError
from memory_defense.data.layouts import AbsentDataError
from memory_defense.data.spec import DatasetSpec
from memory_defense.tensorfiles import read_tensors, write_tensors

CACHE_VARIABLE = "MEMDEF_CACHE"
_FIELDS = ("train_images", "train_labels", "test_images", "test_labels")


def cache_path(spec: DatasetSpec) -> Path:
    """Return the file of a dataset, in the directory MEMDEF_CACHE names or else the user's cache directory."""
    named = os.environ.get(CACHE_VARIABLE)
    root = Path(named).expanduser() if named else pooch.os_cache("memory-defense")
    return root / "datasets" / f"{spec.name}.safetensors"


def read_cache(spec: DatasetSpec) -> Arrays:
    """Return the cached dataset; raise AbsentDataError or DamagedDataError."""
    path = cache_path(spec)
    if not path.is_file():
        raise AbsentDataError(f"{path} does not exist yet")
    try:
        tensors, _ = read_tensors(path)
        arrays = Arrays(*(tensors[name] for name in _FIELDS))
    except (ValueError, KeyError, OSError) as error:
        raise DamagedDataError(f"{path} is damaged ({error}); {REMEDY}") from error
    return arrays.verify(spec, str(path))


def write_cache(arrays: Arrays, spec: DatasetSpec) -> None:
    """Write a dataset to the cache, whole or not at all; raise OSError where that is impossible."""
    write_tensors(cache_path(spec), {name: getattr(arrays, name) for name in _FIELDS})
