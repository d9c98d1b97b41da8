"""Images from a folder, a file of arrays or a known dataset, by one call."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from memory_defense.checks import check_at_least
from memory_defense.contracts import Labels, Progress, Rows
from memory_defense.data.array_files import ArrayFile
from memory_defense.data.array_shapes import framed_all
from memory_defense.data.class_map import Numbers, class_names
from memory_defense.data.class_order import ORDER_FILE, POSITIONS
from memory_defense.data.folders import ImageFolder
from memory_defense.data.geometry import Framing, Geometry, framing_of, framing_text
from memory_defense.data.images import ImageSet, Splits, first_of_each, load_dataset
from memory_defense.data.limits import Limits
from memory_defense.data.places import (
    LARGEST_SIDE,
    DataNotFoundError,
    check_size,
    check_trained_size,
    place_of,
    shown,
)
from memory_defense.data.sources import SourceOptions
from memory_defense.data.spec import DATASETS, DatasetSpec
from memory_defense.data.twins import twins
from memory_defense.names import check_name
from memory_defense.randomness import generator

SplitName = Literal["train", "held-out", "test"]
_SPLITS: tuple[SplitName, ...] = ("train", "held-out", "test")
_HELD_OUT_SHARE = 0.1
_CHUNK = 1000
"""Images that are hashed or averaged at a time."""
_SMALL = 3 * 128 * 128
"""Numbers of an image's pixels up to which so many are."""
_CHUNK_NUMBERS = 5 << 23
"""Numbers of larger images' pixels that are hashed or averaged at a time, about: 40 MiB of bytes, which the C
library gives back to the system at once, as it does not below 32."""


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
    """SHA-256 of these images (N, C, H, W) as they are used, then of their labels (N,) as little-endian int64."""
    notes: tuple[str, ...] = ()
    """What was skipped, substituted or assumed in reading them, a line each."""
    otherwise: tuple[str, ...] | None = None
    """Class folders in the other order that a model may count them in; None where there is no doubt."""

    @property
    def channels(self) -> int:
        """C: 1 is grey, 3 is red, green, blue."""
        return self.images.images.shape[1]

    @property
    def size(self) -> int:
        """H = W, in pixels; raises ValueError for images that are no squares."""
        height, width = self.images.images.shape[2:]
        if height != width:
            raise ValueError(
                f"images are {width} x {height} pixels, which is not a square; take H and W from "
                "images.images.shape"
            )
        return height


def load_images(
    source: str | Path,
    *,
    split: SplitName = "test",
    size: int | None = None,
    geometry: Geometry | str | None = None,
    images: int | None = None,
    classes: Sequence[str] | None = None,
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
        Resize every image to this many pixels a side, from 4 to 1024 (see `limits.fit`); None leaves them as they
        are, and then they must be of one size.
    geometry
        In place of `size`: how a model's own preprocessing brings images to its pixels, such as
        ``resize=256,crop=224,interpolation=bicubic``.
    images
        Read the first so many images only, the same that come first without it; None, or more than there are,
        reads all.
    classes
        Names of a folder's classes by label; None takes those of its ``class_order.txt``, or else sorts them
        (`ImageFolder`).
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
    check_at_least(1, images=images)
    how = framing_of(size, geometry)
    if isinstance(source, str) and source in DATASETS:
        _check_unnamed(source, classes)
        found = _of_dataset(source, split, how, images, limits or Limits(), options)
        return replace(found, images=found.images.to(device))
    with _readable(source):
        opened = _open(source, limits or Limits(), classes, **options)
        part = _split_of(opened, source, "test" if split == "test" else "train")
        labels = opened.labels(part)
        rows = torch.arange(len(labels))
        if split != "test":
            tenth = held_out(labels, len(opened.classes))
            rows = rows[tenth if split == "held-out" else ~tenth]
            if not len(rows):
                raise DataNotFoundError(f"{source} has no {split} images: no class has two in train; add some")
        order = mixed(rows)
        found = _read(opened, part, how, order[:images], order)
    notes = (*_framed(how), *opened.notes, *_asked_for_more(images, len(rows)), *twins(opened, {part: found}))
    _tell(notes, options.get("progress"), doubtful=opened.otherwise is not None)
    return DataSplit(
        _name(source), split, found.to(device), opened.classes, _sha256(found), notes, opened.otherwise
    )


def load_splits(
    source: str | Path,
    *,
    size: int | None = None,
    geometry: Geometry | str | None = None,
    classes: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    limits: Limits | None = None,
    rectangles: bool = False,
    few: bool = False,
    **options: Unpack[SourceOptions],
) -> Splits:
    """Return all splits of a source, to train on; the parameters and errors are those of `load_images`.

    Images are squares, or are resized to such, unless `rectangles` are allowed. Of a folder's or a file's training
    images a tenth of each class, but at least one, is held out: the first of a fixed permutation, the same in every
    run. Mean and standard deviation are those of all training pixels. Every class must have two training images,
    or, where `few` are allowed, one class must, and the only image of a class is trained on; and train and test
    must be of one shape and type. A known dataset keeps its size.
    """
    check_trained_size(source, size, geometry, largest=LARGEST_SIDE)
    how = framing_of(size, geometry)
    if isinstance(source, str) and source in DATASETS:
        _check_unnamed(source, classes)
        return load_dataset(source, device=device, **options)
    bounds = limits or Limits()
    bounds = replace(bounds, square=not rectangles)
    bounds = replace(bounds, words=replace(bounds.words, images=""))
    with _readable(source):
        opened = _open(source, bounds, classes, **options)
        labels = opened.labels(_split_of(opened, source, "train"))
        counts = labels.bincount(minlength=len(opened.classes))
        least, scarce = (counts.max(), counts.argmax()) if few else (counts.min(), counts.argmin())
        if int(least) < 2:
            named = opened.classes[int(scarce)]
            raise ValueError(
                f"{source}: class {named} has {int(least)} training images, but it needs at least 2; add some"
            )
        tenth = held_out(labels, len(opened.classes))
        numbers = torch.arange(len(labels))
        train = _read(opened, "train", how, torch.cat([mixed(numbers[~tenth]), mixed(numbers[tenth])]))
        test = _read(opened, _split_of(opened, source, "test"), how, None)
    if train.images.shape[1:] != test.images.shape[1:] or train.images.dtype != test.images.dtype:
        raise ValueError(
            f"{source}: training images are {_kind(train)}, test images {_kind(test)}; "
            "they must be alike, so convert one of them"
        )
    mean, std = _moments(train)
    rest = len(train) - int(tenth.sum())
    notes = (*_framed(how), *opened.notes, *twins(opened, {"train": train, "test": test}))
    _tell(notes, options.get("progress"), doubtful=opened.otherwise is not None)
    spec = DatasetSpec(
        name=_name(source),
        channels=train.images.shape[1],
        size=train.images.shape[2],
        width=None if train.images.shape[2] == train.images.shape[3] else train.images.shape[3],
        classes=opened.classes,
        mean=mean,
        std=std,
        train_images=len(train),
        test_images=len(test),
        held_out_images=len(train) - rest,
        sha256=_sha256(train, test),
    )
    chosen = ImageSet(train.images[rest:], train.labels[rest:], train.ids[rest:])
    return Splits(train.first(rest).to(device), chosen.to(device), test.to(device), spec, notes, opened.otherwise)


def relabelled(data: DataSplit, numbers: Numbers, outputs: int, *, hashed: bool = True) -> DataSplit:
    """Return the same images, labelled by the outputs of a model that knows other classes too.

    Parameters
    ----------
    data
        Labelled by positions in its classes.
    numbers
        The output of each class, from `class_map`.
    outputs
        How many the model has.
    hashed
        Whether `DataSplit.sha256` becomes that of the new labels; else it stays.

    Raises
    ------
    ValueError
        For a number beyond the last output.
    """
    if (most := max(numbers.outputs)) >= outputs:
        folder = data.classes[numbers.outputs.index(most)]
        raise ValueError(
            f"{data.name}: class {folder!r} has the number {most}, but the model has {outputs} outputs, counted "
            "from 0; correct the number, or give the model that these classes belong to"
        )
    labels = data.images.labels
    found = replace(data.images, labels=torch.tensor(numbers.outputs, device=labels.device)[labels])
    classes = class_names(data.classes, numbers.outputs, outputs)
    notes = (*(note for note in data.notes if not is_about_order(note)), numbers.why)
    sha256 = _sha256(found) if hashed else data.sha256
    return replace(data, images=found, classes=classes, sha256=sha256, notes=notes, otherwise=None)


def relabelled_splits(splits: Splits, numbers: Numbers, outputs: int) -> Splits:
    """Return all splits as `relabelled` returns one; the SHA-256 stays that of the source."""
    spec = splits.spec

    def changed(images: ImageSet) -> DataSplit:
        data = DataSplit(spec.name, "test", images, spec.classes, "", splits.notes)
        return relabelled(data, numbers, outputs, hashed=False)

    train, held, test = map(changed, (splits.train, splits.held_out, splits.test))
    return Splits(train.images, held.images, test.images, replace(spec, classes=test.classes), test.notes)


def is_about_order(note: str) -> bool:
    """Return whether a note doubts positions among the folders, which a model's own outputs may make idle."""
    return ORDER_FILE in note or POSITIONS in note


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
        what, why = shown(error.filename or source), error.strerror or error
        raise ValueError(
            f"{what} cannot be read ({why}); make it readable with chmod u+r, or copy it again"
        ) from error


def _open(
    source: str | Path,
    limits: Limits,
    classes: Sequence[str] | None,
    *,
    data_dir: Path | str | None = None,
    offline: bool = False,
    may_update: bool = False,
    progress: Progress | None = None,
) -> ImageFolder | ArrayFile:
    """Return what reads a folder or a file; it has no use for options of downloads."""
    del offline, may_update
    path = place_of(source, data_dir)
    if path.is_dir():
        return ImageFolder(path, limits, progress, classes=classes)
    _check_unnamed(path, classes)
    return ArrayFile(path, limits, progress)


def _check_unnamed(source: str | Path, classes: Sequence[str] | None) -> None:
    if classes is not None:
        raise ValueError(
            f"classes are for the class folders of a folder, but {source} has labels that are numbers; leave it out"
        )


def _split_of(opened: ImageFolder | ArrayFile, source: str | Path, split: str) -> str:
    if split not in opened.splits:
        raise DataNotFoundError(
            f"{source} has no {split} images, only {opened.splits[0]}; add them, or ask for those"
        )
    return split


def _read(
    opened: ImageFolder | ArrayFile, split: str, how: Framing, rows: Rows | None, order: Rows | None = None
) -> ImageSet:
    """Return the images at these positions, in this order; all of a split, mixed, for None.

    `order` is what they are the first of; None where they are all of it.
    """
    chosen = mixed(torch.arange(len(opened.labels(split)))) if rows is None else rows
    return ImageSet(*opened.read(split, how, chosen, order=order), chosen)


def _framed(how: Framing) -> tuple[str, ...]:
    """Return how images were brought to the model's pixels, for a record; where nothing else says it."""
    return (f"images brought to size: {how}",) if isinstance(how, Geometry) else ()


def _of_dataset(
    source: str, split: SplitName, how: Framing, images: int | None, limits: Limits, options: Any
) -> DataSplit:
    """Return one split of a dataset that is known by name, for `load_images`."""
    splits = load_dataset(source, **options)
    every = {"train": splits.train, "held-out": splits.held_out, "test": splits.test}[split]
    found = every.first(min(images or len(every), len(every)))
    if how is not None:
        found = replace(found, images=framed_all(f"{source}, {framing_text(how)}", found.images, how, limits))
    notes = (*_framed(how), *_asked_for_more(images, len(every)))
    _tell(notes, options.get("progress"))
    return DataSplit(source, split, found, splits.spec.classes, _sha256(found), notes)


def _asked_for_more(images: int | None, there: int) -> tuple[str, ...]:
    more = images is not None and images > there
    return (f"{images:,} images were asked for, but there are {there:,}: all are taken",) if more else ()


def _tell(notes: Iterable[str], progress: Progress | None, *, doubtful: bool = False) -> None:
    """Show the notes; a program that shows none is warned where labels may be others than its model's."""
    for note in notes:
        if progress:
            progress.note(note)
        elif doubtful and ORDER_FILE in note:
            warnings.warn(note, stacklevel=3)


def _name(source: str | Path) -> str:
    return Path(source).expanduser().resolve().name


def mixed(rows: Rows) -> Rows:
    """Return rows in a fixed order that mixes what is sorted."""
    return rows[torch.randperm(len(rows), generator=generator(0, "order", "own"))]


def _kind(images: ImageSet) -> str:
    return f"{images.images.dtype} {tuple(images.images.shape[1:])}"


def _in_order(part: ImageSet) -> Iterator[Tensor]:
    """Yield the images (N, C, H, W) in the order of their ids, a few at a time."""
    order, numbers = part.ids.argsort(), part.images[:1].numel()
    step = _CHUNK if numbers <= _SMALL else max(1, _CHUNK_NUMBERS // numbers)
    yield from (part.images[order[start : start + step]] for start in range(0, len(order), step))


def _sha256(*parts: ImageSet) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for images in _in_order(part):
            digest.update(images.contiguous().numpy().data)
        digest.update(part.labels[part.ids.argsort()].numpy().astype("<i8").data)
    return digest.hexdigest()


def _moments(part: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel in [0, 1]; 1 instead of a deviation of 0."""
    scale = 255 if part.images.dtype == torch.uint8 else 1
    count = part.images.numel() // part.images.shape[1]
    total = torch.zeros(part.images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for images in _in_order(part):
        pixels = images.double() / scale  # (N, C, H, W)
        total += pixels.sum((0, 2, 3))
        squares += pixels.square().sum((0, 2, 3))
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)
