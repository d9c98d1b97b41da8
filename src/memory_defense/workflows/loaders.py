"""Images with their labels from one object: a data loader, a dataset, or what this package reads from a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from memory_defense.checks import shown
from memory_defense.evaluation.pixels import Pixels


@runtime_checkable
class _Held(Protocol):
    """An `ImageSet`, without its class: this room reads no files."""

    images: Tensor
    labels: Tensor

    def floats(self) -> Tensor: ...


def unpaired(images: object) -> tuple[object, object, str]:
    """Return the images, the labels that they bring along, and a line for the record.

    Parameters
    ----------
    images
        A `DataLoader` whose batches are pairs (images, labels), a `Dataset` of pairs (image, label), an `ImageSet`,
        or the `DataSplit` that `load_images` returns. Datasets are read from their first image to their last, a
        loader once, as it comes.

    Raises
    ------
    ValueError
        For something without labels, for items that are no pairs, and for a loader or dataset that has nothing.
    """
    held = images if isinstance(images, _Held) else getattr(images, "images", None)
    if not isinstance(images, Tensor) and isinstance(held, _Held):
        return Pixels.of(held), held.labels, ""
    if isinstance(images, DataLoader):
        loader = cast("DataLoader[Any]", images)
        note = "the loader shuffles: an evaluation that is stopped goes on only from the same order"
        found = _gathered(loader, "loader", batched=True)
        return *found, note if isinstance(loader.sampler, RandomSampler) else ""
    if isinstance(images, IterableDataset):
        return *_gathered(cast("Iterable[object]", images), "dataset", batched=False), ""
    if isinstance(images, Dataset):
        return *_gathered(_items(images), "dataset", batched=False), ""
    raise ValueError(
        f"labels are missing, expected one for each image, (N,): images are {shown(type(images).__name__)}, and "
        "only a DataLoader or a Dataset has its own labels; give them beside the images"
    )


def _items(dataset: Any) -> Iterator[object]:
    return (dataset[position] for position in range(len(dataset)))


def _gathered(source: Iterable[object], called: str, *, batched: bool) -> tuple[object, object]:
    """Return the images and the labels of all pairs, as lists or as whole tensors."""
    first: list[Any] = []
    second: list[Any] = []
    for pair in source:
        if not isinstance(pair, (tuple, list)) or len(cast("list[object]", pair)) != 2:
            kind, form = "batch" if batched else "item", _form(cast("object", pair))
            raise ValueError(
                f"a {kind} of the {called} is {form}, expected a pair (images, labels); give images and "
                "labels themselves, or a collate_fn (a __getitem__) that returns pairs"
            )
        image, label = cast("tuple[Any, Any]", pair)
        first.append(image)
        second.append(label)
    if not first:
        raise ValueError(f"the {called} has no images; give one with at least 1")
    if batched:
        whole = [torch.cat([torch.as_tensor(one) for one in parts]) for parts in (first, second)]
        return whole[0], whole[1]
    return first, torch.as_tensor([int(label) for label in second])


def _form(pair: object) -> str:
    kind = type(pair).__name__
    if isinstance(pair, Mapping):
        return f"a {kind} with {', '.join(map(str, cast('Mapping[object, object]', pair)))}"
    return f"a {kind} of {len(cast('list[object]', pair))}" if isinstance(pair, (tuple, list)) else f"a {kind}"
