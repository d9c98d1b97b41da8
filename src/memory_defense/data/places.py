"""Checks of the places that users name for images, before anything is read and without torch."""

from __future__ import annotations

from pathlib import Path

from memory_defense.data.spec import DATASETS
from memory_defense.names import nearest

SUFFIXES = (".npz", ".safetensors")
"""Endings of the files of arrays that are read."""

SMALLEST_SIDE = 4
LARGEST_SIDE = 1024
"""Pixels a side of images that are evaluated or trained on; a network may take fewer, and says so."""

LARGEST_TRAINED_SIDE = 128
"""Pixels a side of images that recipes are adapted to, at most; a user's own network takes what it takes."""


class DataNotFoundError(ValueError):
    """No source has the dataset; the text lists each, why it failed and what to do."""


def shown(name: object) -> str:
    """Return a path or a name for a message: one that cannot be shown is written with escapes."""
    text = str(name)
    return text if text.isprintable() else ascii(text)


def check_size(size: int | None, largest: int = LARGEST_SIDE) -> None:
    """Raise ValueError unless images may be resized to this many pixels a side; None leaves them as they are."""
    if size is not None and not SMALLEST_SIDE <= size <= largest:
        raise ValueError(f"size is {size}, but it must be from {SMALLEST_SIDE} to {largest} pixels a side")


def check_trained_size(
    source: str | Path, size: int | None, geometry: object = None, *, largest: int = LARGEST_TRAINED_SIDE
) -> None:
    """Raise ValueError as `check_size` does, and for a known dataset that would not be trained on as it is."""
    check_size(size, largest)
    known = isinstance(source, str) and source in DATASETS
    if known and size not in (None, DATASETS[str(source)].size):
        raise ValueError(f"size is {size}, but {source} is trained on as it is; leave size out")
    if known and geometry is not None:
        raise ValueError(f"geometry is {geometry}, but {source} is trained on as it is; leave geometry out")


def check_directory(directory: Path, by: str) -> None:
    """Raise ValueError unless the directory of a known dataset's files is there; `by` is what named it."""
    if not directory.is_dir():
        raise ValueError(f"{by} is {directory}, which is not a directory; name one that exists, or none")


def place_of(source: str | Path, data_dir: Path | str | None = None) -> Path:
    """Return the path of a source that is no key of `DATASETS`: a folder, or a file of arrays.

    Raises
    ------
    ValueError
        For another kind of file, or a `data_dir`, which is for known datasets; `DataNotFoundError`, a ValueError,
        when nothing is there.
    """
    path = Path(source).expanduser()
    if not path.exists():
        known = f"; {nearest(source, DATASETS, 'dataset')}" if isinstance(source, str) else ""
        raise DataNotFoundError(f"there is no folder or file {path}{known}")
    if data_dir is not None:
        raise ValueError(
            f"data_dir is for {', '.join(sorted(DATASETS))}, but {path} is a path of its own; leave it out"
        )
    if not path.is_dir() and (path.suffix.lower() not in SUFFIXES or not path.is_file()):
        raise ValueError(
            f"{path} is neither a folder nor a {' or '.join(SUFFIXES)} file; write arrays with "
            "numpy.savez(FILE, images=..., labels=...), or put image files into FOLDER/test/CLASS/"
        )
    return path
