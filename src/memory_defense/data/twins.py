"""Images that are there more than once, where they should not be: in two classes, or in train and test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol

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
    seen: dict[bytes, tuple[str, int, int]] = {}
    classes: list[tuple[str, str]] = []
    splits: list[tuple[str, str]] = []
    for split, part in parts.items():
        for image, own_label, own_id in zip(part.images, part.labels, part.ids, strict=True):
            label, row = int(own_label), int(own_id)
            digest = hashlib.blake2b(image.contiguous().numpy().data, digest_size=16).digest()
            other, its_label, its_row = seen.setdefault(digest, (split, label, row))
            if its_label != label:
                classes.append((source.name(other, its_row), source.name(split, row)))
            elif other != split:
                splits.append((source.name(other, its_row), source.name(split, row)))
    return [
        *_line(classes, "of two classes: same pixels", "one of the labels is wrong"),
        *_line(splits, "of train and test: same pixels", "a model may know its answers by heart"),
    ]


def _line(pairs: list[tuple[str, str]], what: str, so: str) -> list[str]:
    if not pairs:
        return []
    count = f"{len(pairs):,} images" if len(pairs) > 1 else "1 image"
    return [f"{count} {what} as another, such as {pairs[0][0]} and {pairs[0][1]}: {so}"]
