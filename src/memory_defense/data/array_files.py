"""Images and labels in a ``.npz`` or ``.safetensors`` file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from memory_defense.checks import check_images, check_labels
from memory_defense.data.limits import Limits, check_sides, fit_all
from memory_defense.data.npz import Npz
from memory_defense.tensorfiles import read_tensors

_BARE = ("images", "labels")
_PAIRS = {"train": ("train_images", "train_labels"), "test": ("test_images", "test_labels")}
_KNOWN = (*_BARE, *_PAIRS["train"], *_PAIRS["test"])
_CLASSES = "classes"


class ArrayFile:
    """Images and labels by name: ``train_images``, ``train_labels``, ``test_images``, ``test_labels``.

    Bare ``images`` and ``labels`` are the test split. ``classes`` names the classes: an array of strings in a
    ``.npz``, a JSON list in the metadata of a ``.safetensors``. Without it they are the numbers from 0 to the
    largest label. Any other name is an error. Nothing here unpickles.

    Parameters
    ----------
    path
        The file.
    limits
        Largest data that are read.

    Raises
    ------
    ValueError
        If names are missing or unknown, or labels are not class numbers; `DamagedDataError`, a ValueError, when
        the file is truncated or damaged. The text names the file.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        limits.check_memory(str(path), path.stat().st_size)
        opened = (_open_npz if path.suffix.lower() == ".npz" else _open_safetensors)(path, limits)
        self._get = opened.get
        self._keys = _split_keys(path, set(opened.names))
        self.splits = tuple(self._keys)
        self._labels = {split: self._read_labels(key, opened.classes) for split, (_, key) in self._keys.items()}
        self.classes = opened.classes or self._numbered()
        limits.check_classes(str(path), len(self.classes))

    def read(self, split: str, size: int | None = None) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W), uint8 or float32 in [0, 1] as the file has them, and labels (N,) int64.

        Parameters
        ----------
        split
            One of `splits`.
        size
            Resize every image to this many pixels a side (see `limits.fit`); None leaves them as they are.

        Raises
        ------
        ValueError
            If the images are not (N, C, H, W), (N, H, W) or (N, H, W, C), uint8 or float in [0, 1], or are not
            as many as the labels.
        """
        key, label_key = self._keys[split]
        where, labels = f"{self.path}: {key}", self._labels[split]
        images = _channels_first(self._get(key), where)
        height, width = images.shape[2:]
        check_sides(where, height, width, size)
        _check(f"{self.path}: {label_key}", lambda: check_labels(labels, len(images)))
        images = self._levels(images, where)
        if size is None or height == width == size:
            return images.contiguous(), labels
        count, channels = images.shape[:2]
        self.limits.check_memory(where, count * channels * size**2 * images.element_size())
        return fit_all(images, size), labels

    def _read_labels(self, key: str, classes: tuple[str, ...] | None) -> Tensor:
        labels, where = self._get(key), f"{self.path}: {key}"
        self.limits.check_count(where, labels.numel())
        if not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool):
            labels = labels.long()
        count = len(labels) if labels.dim() else 1
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

    def _levels(self, images: Tensor, where: str) -> Tensor:
        """Return uint8 images as they are and float ones as float32 in [0, 1]."""
        if images.dtype == torch.uint8:
            if int(images.max()) <= 1:
                raise ValueError(
                    f"{where} is uint8 and at most 1, which is black; save pixels in [0, 1] as float32, "
                    "or grey levels from 0 to 255"
                )
            return images
        if not images.is_floating_point():
            raise ValueError(f"{where} is {images.dtype}, expected uint8 grey levels or float pixels in [0, 1]")
        self.limits.check_memory(where, 4 * images.numel())
        images = images.float()
        _check(where, lambda: check_images(images))
        return images


def _check(where: str, check: Callable[[], None]) -> None:
    """Run a check; what it raises gets the names of the file and the array in front."""
    try:
        check()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _channels_first(images: Tensor, where: str) -> Tensor:
    """Return (N, C, H, W) with C = 1 or 3; sides have at least 4 pixels, so one axis at most can be C."""
    if images.dim() == 3:
        return images[:, None]
    if images.dim() == 4 and images.shape[1] in (1, 3):
        return images
    if images.dim() == 4 and images.shape[3] in (1, 3):
        return images.permute(0, 3, 1, 2)
    raise ValueError(
        f"{where} has shape {tuple(images.shape)}, expected (N, H, W), (N, C, H, W) or (N, H, W, C) with C = 1 or 3"
    )


def _split_keys(path: Path, found: set[str]) -> dict[str, tuple[str, str]]:
    """Return the names of the images and the labels of each split that is there."""
    if unknown := sorted(found.difference(_KNOWN)):
        raise ValueError(
            f"{path} holds {', '.join(unknown)}, but only {', '.join(_KNOWN)} and {_CLASSES} are read; "
            "rename or remove what is not one of them"
        )
    if found.intersection(_BARE) and found.difference(_BARE):
        raise ValueError(f"{path} holds bare images or labels and named splits; call the bare ones test_...")
    pairs = {"test": _BARE} if found.intersection(_BARE) else _PAIRS
    present = {split: pair for split, pair in pairs.items() if found.intersection(pair)}
    if not present:
        raise ValueError(f"{path} holds no images; save arrays named images and labels")
    for images, labels in present.values():
        if lacking := {images, labels} - found:
            raise ValueError(f"{path} lacks {', '.join(lacking)}; images and labels go together")
    return present


class _Opened(NamedTuple):
    """An opened file of either kind."""

    names: tuple[str, ...]
    get: Callable[[str], Tensor]
    classes: tuple[str, ...] | None


def _open_npz(path: Path, limits: Limits) -> _Opened:
    archive = Npz(path, limits)

    def get(name: str) -> Tensor:
        values = archive.read(name)
        try:
            return torch.from_numpy(values)
        except TypeError as error:
            raise ValueError(f"{path}: {name} is {values.dtype}, expected uint8, whole numbers or float") from error

    if _CLASSES not in archive.names:
        return _Opened(archive.names, get, None)
    named = archive.read(_CLASSES)
    if named.ndim != 1 or named.dtype.kind != "U":
        raise ValueError(f"{path}: {_CLASSES} is {named.dtype} {named.shape}, expected strings (K,)")
    names = tuple(name for name in archive.names if name != _CLASSES)
    return _Opened(names, get, _class_names(path, named.tolist()))


def _open_safetensors(path: Path, _: Limits) -> _Opened:
    tensors, metadata = read_tensors(path)
    if _CLASSES not in metadata:
        return _Opened(tuple(tensors), tensors.__getitem__, None)
    try:
        named: Any = json.loads(metadata[_CLASSES])
    except (ValueError, RecursionError):
        named = None
    if not isinstance(named, list) or not all(isinstance(name, str) for name in cast("list[Any]", named)):
        raise ValueError(f'{path}: metadata \'{_CLASSES}\' is no JSON list of strings such as ["cat", "dog"]')
    return _Opened(tuple(tensors), tensors.__getitem__, _class_names(path, cast("list[str]", named)))


def _class_names(path: Path, names: list[str]) -> tuple[str, ...]:
    if len(set(names)) < len(names) or not all(name and name.isprintable() for name in names):
        raise ValueError(f"{path}: {_CLASSES} holds a name twice, an empty one or one that cannot be shown")
    return tuple(names)
