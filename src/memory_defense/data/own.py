"""Images from a folder, a file of arrays or a known dataset, by one call."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Unpack

import torch
from torch import Tensor

from memory_defense.contracts import Labels, Progress
from memory_defense.data.array_files import ArrayFile
from memory_defense.data.folders import ImageFolder
from memory_defense.data.images import ImageSet, Splits, cut, first_of_each, image_set, load_dataset
from memory_defense.data.limits import Limits, fit_all
from memory_defense.data.places import DataNotFoundError, check_size, check_trained_size, place_of
from memory_defense.data.sources import SourceOptions
from memory_defense.data.spec import DATASETS, DatasetSpec
from memory_defense.names import check_name
from memory_defense.randomness import generator

SplitName = Literal["train", "held-out", "test"]
_SPLITS: tuple[SplitName, ...] = ("train", "held-out", "test")
_HELD_OUT_SHARE = 0.1
_CHUNK = 1000


@dataclass(frozen=True)
class DataSplit:
    """One split of a dataset, with its description for records."""

    name: str
    """Name of the dataset, the folder or the file."""
    split: SplitName
    images: ImageSet
    classes: tuple[str, ...]
    """Names by label; the split need not have an image of each."""
    sha256: str
    """SHA-256 of this split's images (N, C, H, W) as they are used, then its labels (N,) as little-endian int64."""

    @property
    def channels(self) -> int:
        """C: 1 is grey, 3 is red, green, blue."""
        return self.images.images.shape[1]

    @property
    def size(self) -> int:
        """H = W, in pixels."""
        return self.images.images.shape[2]


def load_images(
    source: str | Path,
    *,
    split: SplitName = "test",
    size: int | None = None,
    device: torch.device | str = "cpu",
    limits: Limits | None = None,
    **options: Unpack[SourceOptions],
) -> DataSplit:
    """Return one split of a folder of images, of a file of arrays, or of a dataset known by name.

    Only the split that is asked for is decoded. Images of a folder or a file come in a fixed order that mixes the
    classes, so that the first n are a fair sample; `ids` are their positions in the file, or in the folder, sorted
    by class and then by file name.

    Parameters
    ----------
    source
        A folder ``DIR/{train,test}/CLASS/FILE`` (see `ImageFolder`), a ``.npz`` or ``.safetensors`` file (see
        `ArrayFile`), or a key of `DATASETS`. A `Path` is never taken for a key, nor is ``./cifar10``.
    split
        Split to return. Of a folder or file a tenth of the training images is held out; see `load_splits`.
    size
        Resize every image to this many pixels a side, from 4 to 128 (see `limits.fit`); None leaves them as they
        are, and then they must be squares of one such size.
    device
        Device that holds the images.
    limits
        Largest data that are read from folders and files; None takes the defaults of `Limits`.
    options
        Sources of a known dataset, see `sources.SourceOptions`; a folder takes `progress` alone.

    Raises
    ------
    ValueError
        For data that break a rule above; the text names the file, the limit and the remedy. `DataNotFoundError`,
        a ValueError, when the source or its split does not exist.
    """
    check_name(split, _SPLITS, "split")
    check_size(size)
    if isinstance(source, str) and source in DATASETS:
        splits = load_dataset(source, **options)
        images = {"train": splits.train, "held-out": splits.held_out, "test": splits.test}[split]
        if size is not None:
            images = replace(images, images=fit_all(images.images, size))
        images = images.to(device)
        return DataSplit(source, split, images, splits.spec.classes, _sha256(images))
    with _readable(source):
        opened = _open(source, limits or Limits(), **options)
        pixels, labels = _read(opened, source, "test" if split == "test" else "train", size)
    images = image_set(pixels, labels)
    if split != "test":
        tenth, rest = cut(images, held_out(labels, len(opened.classes)))
        images = tenth if split == "held-out" else rest
        if not len(images):
            raise DataNotFoundError(f"{source} has no {split} images: no class has two in train; add some")
    return DataSplit(_name(source), split, _mixed(images).to(device), opened.classes, _sha256(images))


def load_splits(
    source: str | Path,
    *,
    size: int | None = None,
    device: torch.device | str = "cpu",
    limits: Limits | None = None,
    **options: Unpack[SourceOptions],
) -> Splits:
    """Return all splits of a source, to train on; the parameters and errors are those of `load_images`.

    Of a folder's or a file's training images a tenth of each class, but at least one, is held out: the first of a
    fixed permutation, the same in every run. Mean and standard deviation are those of all training pixels. Every
    class must have two training images, and train and test must be of one shape and type. A known dataset keeps its
    size.
    """
    check_trained_size(source, size)
    if isinstance(source, str) and source in DATASETS:
        return load_dataset(source, device=device, **options)
    with _readable(source):
        opened = _open(source, limits or Limits(), **options)
        train = image_set(*_read(opened, source, "train", size))
        test = image_set(*_read(opened, source, "test", size))
    if train.images.shape[1:] != test.images.shape[1:] or train.images.dtype != test.images.dtype:
        raise ValueError(
            f"{source}: training images are {_kind(train)}, test images {_kind(test)}; "
            "they must be alike, so convert one of them"
        )
    counts = train.labels.bincount(minlength=len(opened.classes))
    if int(counts.min()) < 2:
        few = opened.classes[int(counts.argmin())]
        raise ValueError(f"{source}: class {few} has {int(counts.min())} training images, but it needs at least 2")
    tenth, rest = cut(train, held_out(train.labels, len(opened.classes)))
    mean, std = _moments(train.images)
    spec = DatasetSpec(
        name=_name(source),
        channels=train.images.shape[1],
        size=train.images.shape[2],
        classes=opened.classes,
        mean=mean,
        std=std,
        train_images=len(train),
        test_images=len(test),
        held_out_images=len(tenth),
        sha256=_sha256(train, test),
    )
    return Splits(_mixed(rest).to(device), _mixed(tenth).to(device), _mixed(test).to(device), spec)


def held_out(labels: Labels, classes: int) -> Tensor:
    """Return (N,) bool: a tenth of each class by a fixed permutation, at least one image but never the only one."""

    def tenth(count: int) -> int:
        return max(1, round(_HELD_OUT_SHARE * count)) if count > 1 else 0

    return first_of_each(labels, classes, tenth, "own")


@contextmanager
def _readable(source: str | Path) -> Generator[None]:
    """Turn the operating system's errors into a ValueError that names the file."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{error.filename or source} cannot be read ({error.strerror or error})") from error


def _open(
    source: str | Path,
    limits: Limits,
    *,
    data_dir: Path | str | None = None,
    offline: bool = False,
    may_update: bool = False,
    progress: Progress | None = None,
) -> ImageFolder | ArrayFile:
    """Return what reads a folder or a file; it has no use for options of downloads."""
    del offline, may_update
    path = place_of(source, data_dir)
    return ImageFolder(path, limits, progress) if path.is_dir() else ArrayFile(path, limits)


def _read(
    opened: ImageFolder | ArrayFile, source: str | Path, split: str, size: int | None
) -> tuple[Tensor, Tensor]:
    if split not in opened.splits:
        raise DataNotFoundError(
            f"{source} has no {split} images, only {opened.splits[0]}; add them, or ask for those"
        )
    return opened.read(split, size)


def _name(source: str | Path) -> str:
    return Path(source).expanduser().resolve().name


def _mixed(images: ImageSet) -> ImageSet:
    return images.take(torch.randperm(len(images), generator=generator(0, "order", "own")))


def _kind(images: ImageSet) -> str:
    return f"{images.images.dtype} {tuple(images.images.shape[1:])}"


def _sha256(*parts: ImageSet) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.images.cpu().contiguous().numpy().data)
        digest.update(part.labels.cpu().numpy().astype("<i8").data)
    return digest.hexdigest()


def _moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel in [0, 1]; 1 instead of a deviation of 0."""
    scale = 255 if images.dtype == torch.uint8 else 1
    count = images.numel() // images.shape[1]
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for start in range(0, len(images), _CHUNK):
        pixels = images[start : start + _CHUNK].double() / scale  # (N, C, H, W)
        total += pixels.sum((0, 2, 3))
        squares += pixels.square().sum((0, 2, 3))
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)
