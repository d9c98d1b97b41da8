"""Labelled images in memory, the splits of a dataset, and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from memory_defense.checks import check_images, check_labels
from memory_defense.contracts import Images, Labels, Rows
from memory_defense.data.decode import Arrays
from memory_defense.data.floats import floats_of
from memory_defense.data.sources import SourceOptions, find
from memory_defense.data.spec import DatasetSpec, dataset_spec
from memory_defense.randomness import generator


@dataclass(frozen=True)
class ImageSet:
    """Labelled images on one device.

    Parameters
    ----------
    images
        (N, C, H, W), uint8 grey levels or float32 in [0, 1].
    labels
        (N,) int64.
    ids
        (N,) int64, positions in the source's split; they seed all that is random about an image.
    clean
        The images before an attack changed them, of the same shape and type; None if nothing did.

    Raises
    ------
    ValueError
        For other shapes, types or ranges.
    """

    images: Tensor
    labels: Labels
    ids: Rows
    clean: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(
                f"images are {self.images.dtype} of shape {tuple(self.images.shape)}, expected torch.uint8 grey "
                "levels or torch.float32 pixels in [0, 1], (N, C, H, W)"
            )
        if len(self.images):
            if self.images.dtype == torch.float32:
                check_images(self.images)
            check_labels(self.labels, len(self.images))
        if self.ids.shape != (len(self.images),) or self.ids.dtype != torch.int64:
            raise ValueError(
                f"ids are {self.ids.dtype} of shape {tuple(self.ids.shape)}, expected torch.int64 "
                f"({len(self.images)},); torch.arange({len(self.images)}) numbers the images in order"
            )
        if self.clean is not None:
            _check_counterpart(self.clean, self.images)

    def __len__(self) -> int:
        """Return N."""
        return len(self.images)

    def to(self, device: torch.device | str) -> ImageSet:
        """Return the same images on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def take(self, index: Rows) -> ImageSet:
        """Return the images at these positions, in this order."""
        index = index.to(self.images.device)
        return self._each(lambda tensor: tensor[index])

    def first(self, count: int) -> ImageSet:
        """Return the first images, without a copy; raise ValueError if there are fewer."""
        if not 0 < count <= len(self):
            raise ValueError(f"{count} images were asked for, but it must be from 1 to {len(self)}, all there are")
        return self._each(lambda tensor: tensor[:count])

    def _each(self, change: Callable[[Tensor], Tensor]) -> ImageSet:
        clean = None if self.clean is None else change(self.clean)
        return ImageSet(change(self.images), change(self.labels), change(self.ids), clean)

    def floats(self, index: Rows | None = None) -> Images:
        """Return a copy of all images, or of those at these positions, as float32 in [0, 1].

        A grey level is divided by 255; float pixels are what they are.
        """
        return floats_of(self.images, index)

    def clean_floats(self, index: Rows | None = None) -> Images:
        """Return what `floats` does, of the images before an attack changed them."""
        return floats_of(self.images if self.clean is None else self.clean, index)


def _check_counterpart(clean: Tensor, images: Tensor) -> None:
    """Raise ValueError unless every image has its clean one."""
    if clean.shape != images.shape or clean.dtype != images.dtype or clean.device != images.device:
        raise ValueError(
            f"the clean images are {clean.dtype} of shape {tuple(clean.shape)} on {clean.device}, the images "
            f"{images.dtype} of shape {tuple(images.shape)} on {images.device}; give one clean image for each, "
            "alike, or None where nothing changed them"
        )
    if len(clean) and clean.dtype == torch.float32:
        check_images(clean)


@dataclass(frozen=True)
class Splits:
    """A dataset, cut in three; the test images are the source's own."""

    train: ImageSet
    """Images that models are trained on."""
    held_out: ImageSet
    """Images of the training split that are not trained on: weights and thresholds are chosen by them."""
    test: ImageSet
    """Images that results are reported on, and nothing is chosen by."""
    spec: DatasetSpec
    notes: tuple[str, ...] = ()
    """What was skipped, substituted or assumed in reading them, a line each."""
    otherwise: tuple[str, ...] | None = None
    """Class folders in the other order that a model may count them in; None where there is no doubt."""


def load_dataset(
    name: str,
    *,
    device: torch.device | str = "cpu",
    **options: Unpack[SourceOptions],
) -> Splits:
    """Return a dataset from the first source that has it, checked against its hash.

    Parameters
    ----------
    name
        Key of `DATASETS`.
    device
        Device that holds the images.
    options
        See `sources.SourceOptions`.

    Raises
    ------
    ValueError
        For an unknown name, a `data_dir` that does not exist or holds damaged files. `DataNotFoundError`,
        a ValueError, when no source has the dataset; it lists every source, why it failed and what to do.
    """
    spec = dataset_spec(name)
    return split(find(spec, **options), spec, device)


def split(arrays: Arrays, spec: DatasetSpec, device: torch.device | str = "cpu") -> Splits:
    """Return the three splits; the same images are held out in every run, equally many of each class.

    Every split keeps the order of its source, which the datasets' makers shuffled.
    """
    train = image_set(arrays.train_images, arrays.train_labels)
    per_class, uneven = divmod(spec.held_out_images, len(spec.classes))
    assert not uneven
    chosen = first_of_each(train.labels, len(spec.classes), lambda _: per_class, spec.name)
    assert int(chosen.sum()) == spec.held_out_images
    held_out, rest = cut(train, chosen)
    test = image_set(arrays.test_images, arrays.test_labels)
    return Splits(rest.to(device), held_out.to(device), test.to(device), spec)


def cut(images: ImageSet, chosen: Tensor) -> tuple[ImageSet, ImageSet]:
    """Return the images that `chosen` (N,) bool marks, and the others, both in their order."""
    return images.take(torch.nonzero(chosen).flatten()), images.take(torch.nonzero(~chosen).flatten())


def image_set(images: Tensor, labels: Tensor) -> ImageSet:
    """Return a whole split, numbered from 0; labels (N,) may be of any integer type."""
    return ImageSet(images, labels.long(), torch.arange(len(images)))


def first_of_each(labels: Labels, classes: int, count: Callable[[int], int], name: str) -> Tensor:
    """Return (N,) bool: of a class with n images the first `count(n)` of a permutation, which `name` decides."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(classes):
        members = torch.nonzero(labels == label).flatten()
        order = torch.randperm(len(members), generator=generator(0, "held out", name, label))
        chosen[members[order[: count(len(members))]]] = True
    return chosen


def batches(
    images: ImageSet,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    drop_last: bool = False,
    start: int = 0,
) -> Iterator[tuple[Images, Labels, Rows]]:
    """Return one epoch's batches: images float32 in [0, 1], labels, ids.

    Parameters
    ----------
    images
        Images to batch; the batches are on their device.
    batch_size
        Images in each.
    seed, epoch
        Together they decide the order.
    shuffle
        Without it the images come in order.
    drop_last
        Leave out the images that do not fill a batch.
    start
        Batches to skip, for an epoch that was interrupted; the others are what they would have been.

    Raises
    ------
    ValueError
        At the call, when a number is out of range or there is no batch at all.
    """
    which = batch_rows(
        images, batch_size, seed=seed, epoch=epoch, shuffle=shuffle, drop_last=drop_last, start=start
    )
    return ((images.floats(rows), images.labels[rows], images.ids[rows]) for rows in which)


def batch_rows(
    images: ImageSet,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    drop_last: bool = False,
    start: int = 0,
) -> Iterator[Rows]:
    """Return the positions (B,) of the images in each batch of `batches`, on their device; see there."""
    count = len(images) // batch_size if drop_last and batch_size > 0 else -(-len(images) // max(batch_size, 1))
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but it must be at least 1")
    if count == 0:
        raise ValueError(
            f"{len(images)} images make no batch of {batch_size}; lower batch_size or turn drop_last off"
        )
    if not 0 <= start <= count:
        raise ValueError(f"start is {start}, but an epoch of these images has {count} batches")
    order = torch.arange(len(images))
    if shuffle:
        order = torch.randperm(len(images), generator=generator(seed, "order", epoch))
    order = order.to(images.images.device)
    return (order[batch * batch_size : (batch + 1) * batch_size] for batch in range(start, count))
