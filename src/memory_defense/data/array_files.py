"""Images and labels in a ``.npz`` or ``.safetensors`` file."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from memory_defense.checks import check_labels
from memory_defense.contracts import Labels, Progress, Rows
from memory_defense.data.array_pixels import BLOCK_BYTES, KEPT_FROM, ArrayPixels, black, pixels_of
from memory_defense.data.array_shapes import (
    channels_first,
    check_layout,
    framed_all,
    one_axis,
    understood,
    whole_numbers,
)
from memory_defense.data.geometry import Framing, framed_size
from memory_defense.data.limits import Limits
from memory_defense.data.npz import Npz
from memory_defense.files import WriteError
from memory_defense.tensorfiles import read_tensors

_BARE = ("images", "labels")
_PAIRS = {"train": ("train_images", "train_labels"), "test": ("test_images", "test_labels")}
_KNOWN = (*_BARE, *_PAIRS["train"], *_PAIRS["test"])
_CLASSES = "classes"


class ArrayFile:
    """Images and labels by name: ``train_images``, ``train_labels``, ``test_images``, ``test_labels``.

    Bare ``images`` and ``labels`` are the test split. Names that others give them (`array_shapes`) are taken for
    these, and told. ``classes`` names the classes: an array of strings in a ``.npz``, a JSON list in the metadata
    of a ``.safetensors``. Without it they are the numbers from 0 to the largest label. Any other name is an error.
    Nothing here unpickles.

    Parameters
    ----------
    path
        The file.
    limits
        Largest data that are read.
    progress
        Advanced while images are brought into the cache, and told where it cannot be written to.

    Raises
    ------
    ValueError
        If names are missing or unknown, or labels are not class numbers; `DamagedDataError`, a ValueError, when
        the file is truncated or damaged. The text names the file.
    """

    otherwise = None
    """Labels are numbers here: there is no doubt."""

    def __init__(self, path: Path, limits: Limits, progress: Progress | None = None) -> None:
        self.path, self.limits, self.progress = path, limits, progress
        self._opened = _open_npz(path, limits) if path.suffix.lower() == ".npz" else _open_safetensors(path)
        known, self._read = understood(path, self._opened.names, _KNOWN)
        self._keys = _split_keys(path, known)
        self.splits = tuple(self._keys)
        self._labels = {split: self._read_labels(*pair) for split, pair in self._keys.items()}
        self.classes = self._opened.classes or self._numbered()
        limits.check_classes(str(path), len(self.classes))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was skipped, substituted or assumed so far, a line each."""
        return tuple(self._read)

    def labels(self, split: str) -> Labels:
        """Return labels (N,) int64 of a split, without reading an image; raise ValueError for too many or few."""
        key, label_key = self._keys[split]
        shape, labels = self._opened.shape(key), self._labels[split]
        check_layout(shape, f"{self.path}: {key}")
        _check(f"{self.path}: {label_key}", lambda: check_labels(labels, shape[0]))
        return labels

    def name(self, split: str, row: int) -> str:
        """Return the name of an image, for messages."""
        return f"{self._keys[split][0]}[{row}]"

    def read(
        self, split: str, size: Framing = None, rows: Rows | None = None, order: Rows | None = None
    ) -> tuple[Tensor, Labels]:
        """Return images (N, C, H, W), uint8 or float32 in [0, 1] as the file has them, and labels (N,) int64.

        Parameters
        ----------
        split
            One of `splits`.
        size
            How every image is brought to the model's pixels (`geometry.Framing`); None leaves them as they are.
        rows
            (M,) int64: only the images at these positions, in this order, and memory for no more of them. None
            reads all.
        order
            What `rows` are the first of, for the file of the cache that large ones are kept in; None where they
            are all of it.

        Images of `array_pixels.KEPT_FROM` bytes or more come out of the cache, mapped, and are not to be written
        to; where it cannot be written to they take memory.

        Raises
        ------
        ValueError
            If the images are not (N, C, H, W), (N, H, W) or (N, H, W, C), uint8 or float in [0, 1], or are not
            as many as the labels.
        """
        key, _ = self._keys[split]
        where, labels = f"{self.path}: {key}", self.labels(split)
        chosen = torch.arange(len(labels)) if rows is None else rows
        some = self._some(key)
        height, width = framed_size(where, some.shape[2], some.shape[3], size, self.limits)
        as_used = some.shape[1] * height * width * (1 if some.dtype == torch.uint8 else 4)
        if len(chosen) * max(as_used, some.numel() * some.element_size()) >= KEPT_FROM:
            kept = ArrayPixels(
                self.path, key, functools.partial(self._blocks, key), len(labels), size, self.limits, self.progress
            )
            try:
                return kept.read(chosen, chosen if order is None else order), labels[chosen]
            except WriteError as error:  # costs memory, not the images
                if self.progress:
                    self.progress.note(f"these images are not kept, and take memory instead: {error}")
        self.limits.check_memory(where, len(chosen) * some.numel() * some.element_size(), len(chosen))
        images = self._levels(channels_first(self._opened.get(key, rows)), where, key)
        return framed_all(where, images, size, self.limits), labels[chosen]

    def _some(self, key: str) -> Tensor:
        """Return one image (1, C, H, W)."""
        return next(self._blocks(key, 1))[:1]

    def _blocks(self, key: str, size: int | None = None) -> Iterator[Tensor]:
        """Yield the images (n, C, H, W) in the file's order, as many at a time as have `size` bytes."""
        return map(channels_first, self._opened.blocks(key, BLOCK_BYTES if size is None else size))

    def _read_labels(self, key: str, label_key: str) -> Labels:
        """Return the labels of a split, whichever way they lie."""
        values, where = self._opened.get(label_key, None), f"{self.path}: {label_key}"
        self.limits.check_count(where, values.numel())
        if values.dim() == 2:
            shape = self._opened.shape(key)
            labels = one_axis(values, shape[0] if shape else 0, where)
            self._read.append(f"{where} has shape {tuple(values.shape)}: taken as ({len(labels)},)")
        else:
            labels = values
        labels = whole_numbers(labels, where, torch_file=self.path.suffix.lower() != ".npz")
        count, classes = len(labels) if labels.dim() else 1, self._opened.classes
        _check(where, lambda: check_labels(labels, count, None if classes is None else len(classes)))
        return labels

    def _numbered(self) -> tuple[str, ...]:
        """Return the classes of a file that does not name them."""
        if min(int(labels.min()) for labels in self._labels.values()) > 0:
            raise ValueError(
                f"{self.path}: no image has label 0, but labels count from 0; subtract 1 if they count from 1, "
                f"or name every class in '{_CLASSES}'"
            )
        count = max(int(labels.max()) for labels in self._labels.values()) + 1
        self.limits.check_classes(str(self.path), count)
        return tuple(str(label) for label in range(count))

    def _levels(self, images: Tensor, where: str, key: str) -> Tensor:
        """Return uint8 images as they are and float ones as float32 in [0, 1]."""
        if images.dtype == torch.uint8:
            if int(images.max()) <= 1 and all(int(block.max()) <= 1 for block in self._blocks(key)):
                raise black(where)
            return images
        self.limits.check_memory(where, 4 * images.numel(), len(images))
        return pixels_of(images, where)


def _check(where: str, check: Callable[[], None]) -> None:
    """Run a check; what it raises gets the names of the file and the array in front."""
    try:
        check()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _split_keys(path: Path, known: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the file's names of the images and the labels of each split that is there.

    Parameters
    ----------
    path
        For messages.
    known
        The file's names by ours.
    """
    found = set(known)
    if found.intersection(_BARE) and found.difference(_BARE):
        raise ValueError(f"{path} holds bare images or labels and named splits; call the bare ones test_...")
    pairs = {"test": _BARE} if found.intersection(_BARE) else _PAIRS
    present = {split: pair for split, pair in pairs.items() if found.intersection(pair)}
    if not present:
        raise ValueError(f"{path} holds no images; save arrays named images and labels")
    for images, labels in present.values():
        if lacking := {images, labels} - found:
            raise ValueError(f"{path} lacks {', '.join(lacking)}; images and labels go together, so add them")
    return {split: (known[images], known[labels]) for split, (images, labels) in present.items()}


class _Opened(NamedTuple):
    """An opened file of either kind."""

    names: tuple[str, ...]
    get: Callable[[str, Rows | None], Tensor]
    """Returns an array, or its rows."""
    blocks: Callable[[str, int], Iterator[Tensor]]
    """Yields an array in its order, as many rows at a time as have so many bytes, one at least."""
    shape: Callable[[str], tuple[int, ...]]
    classes: tuple[str, ...] | None


def _open_npz(path: Path, limits: Limits) -> _Opened:
    archive = Npz(path, limits)

    def tensor(name: str, values: np.ndarray) -> Tensor:
        if values.dtype.kind in "US":
            raise ValueError(
                f"{path}: {name} is {values.dtype}, expected numbers; save both parts of "
                f"numpy.unique({name}, return_inverse=True): the first as {_CLASSES}, the second as the labels"
            )
        try:
            return torch.from_numpy(values)
        except TypeError as error:
            raise ValueError(
                f"{path}: {name} is {values.dtype}, expected uint8, whole numbers or float; convert it with astype"
            ) from error

    def get(name: str, rows: Rows | None) -> Tensor:
        return tensor(name, archive.read(name, None if rows is None else rows.numpy()))

    def blocks(name: str, size: int) -> Iterator[Tensor]:
        return (tensor(name, values) for values in archive.blocks(name, size))

    if _CLASSES not in archive.names:
        return _Opened(archive.names, get, blocks, archive.shape, None)
    named = archive.read(_CLASSES)
    if named.ndim != 1 or named.dtype.kind != "U":
        raise ValueError(
            f"{path}: {_CLASSES} is {named.dtype} {named.shape}, expected strings (K,); save "
            "numpy.array([...], dtype=str)"
        )
    names = tuple(name for name in archive.names if name != _CLASSES)
    return _Opened(names, get, blocks, archive.shape, _class_names(path, named.tolist()))


def _open_safetensors(path: Path) -> _Opened:
    tensors, metadata = read_tensors(path)  # mapped: what is not looked at is not read

    def get(name: str, rows: Rows | None) -> Tensor:
        return tensors[name] if rows is None else tensors[name][rows]

    def blocks(name: str, size: int) -> Iterator[Tensor]:
        values = tensors[name]
        row = values[:1].numel() * values.element_size()
        return iter(torch.split(values, max(1, size // max(1, row))))

    def shape(name: str) -> tuple[int, ...]:
        return tuple(tensors[name].shape)

    if _CLASSES not in metadata:
        return _Opened(tuple(tensors), get, blocks, shape, None)
    try:
        named: Any = json.loads(metadata[_CLASSES])
    except (ValueError, RecursionError):
        named = None
    if not isinstance(named, list) or not all(isinstance(name, str) for name in cast("list[Any]", named)):
        raise ValueError(f'{path}: metadata \'{_CLASSES}\' is not a JSON list of strings such as ["cat", "dog"]')
    return _Opened(tuple(tensors), get, blocks, shape, _class_names(path, cast("list[str]", named)))


def _class_names(path: Path, names: list[str]) -> tuple[str, ...]:
    if len(set(names)) < len(names) or not all(name and name.isprintable() for name in names):
        raise ValueError(
            f"{path}: {_CLASSES} holds a name twice, an empty one or one that cannot be shown; rename them"
        )
    return tuple(names)
