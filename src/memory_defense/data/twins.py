"""Images that are there more than once, where they should not be: in two classes, or in train and test."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from memory_defense.data.images import ImageSet


class Named(Protocol):
    """What knows the names of images: a folder or a file of arrays."""

    def name(self, split: str, row: int) -> str:
        """Return the name of the image with this id."""
        ...


def twins(source: Named, parts: Mapping[str, ImageSet]) -> list[str]:
    """Return a line for the images of two classes, and one for those of two splits, that have the same pixels.

    Parameters
    ----------
    source
        Where the images came from, for their names.
    parts
        Images by split, on the CPU.
    """
    sums = np.array(
        [zlib.crc32(image.contiguous().numpy().data) for part in parts.values() for image in part.images]
    )
    _, which, counts = np.unique(sums, return_inverse=True, return_counts=True)
    suspects, start = counts[which] > 1, 0
    seen: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
    classes: list[tuple[str, str]] = []
    splits: list[tuple[str, str]] = []
    for split, part in parts.items():
        for number in np.flatnonzero(suspects[start : start + len(part)]).tolist():
            alike = seen[int(sums[start + number])]
            image = part.images[number]
            first = next((one for one in alike if _same(image, parts[one[0]].images[one[1]])), None)
            if first is None:
                alike.append((split, number))
                continue
            other = parts[first[0]]
            names = source.name(first[0], int(other.ids[first[1]])), source.name(split, int(part.ids[number]))
            if int(other.labels[first[1]]) != int(part.labels[number]):
                classes.append(names)
            elif first[0] != split:
                splits.append(names)
        start += len(part)
    return [
        *_line(classes, "of two classes: same pixels", "one of the labels is wrong"),
        *_line(splits, "of train and test: same pixels", "a model may know its answers by heart"),
    ]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def _line(pairs: list[tuple[str, str]], what: str, so: str) -> list[str]:
    if not pairs:
        return []
    count = f"{len(pairs):,} images" if len(pairs) > 1 else "1 image"
    return [f"{count} {what} as another, such as {pairs[0][0]} and {pairs[0][1]}: {so}"]
