"""The images in a file of every image: each broken one once, its clean one and what changed, in one run of bytes.

Image after image, in the order of rows and, where balls have several of one row, of balls; then where each ends, in
eight bytes, little-endian. A ball's tensor of numbers says which of them its broken images are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from memory_defense.contracts import Images, Rows
from memory_defense.evaluation.broken_images import BrokenImages
from memory_defense.evaluation.coded import coded_clean, decoded, decoded_clean
from memory_defense.evaluation.state import State
from memory_defense.tensorfiles import bytes_of, place_in

BYTES = "images"
"""Tensor of all these bytes."""
NUMBERS = "numbers"
"""End of the name of a ball's tensor (n,) int64 of the numbers of its broken images, by rows."""
COUNT = "images"
"""Entry of the metadata: how many images there are. Files of earlier versions have none."""

_END = 8
"""Bytes of a position in the run."""
_MOST_TIMES = 1032
"""No deflated bytes become more than so many times as many (zlib's own limit)."""
_TOGETHER = 64
"""Clean images that are looked up at a time."""


def numbered(state: State) -> tuple[list[tuple[int, int]], list[Rows]]:
    """Return the images worth keeping, as a row and a ball that has it, and each ball's numbers among them."""
    numbers: list[list[int]] = [[] for _ in state.broken]
    kept: list[tuple[int, int]] = []
    places = [cast("list[int]", one.place.tolist()) for one in state.broken]
    broken = [cast("list[bool]", (one.breaker >= 0).tolist()) for one in state.broken]
    for row in range(len(state.labels)):
        seen: dict[int, int] = {}
        for ball in range(len(state.broken)):
            if not broken[ball][row]:
                continue
            if places[ball][row] not in seen:
                seen[places[ball][row]] = len(kept)
                kept.append((row, ball))
            numbers[ball].append(seen[places[ball][row]])
    return kept, [torch.tensor(one, dtype=torch.int64) for one in numbers]


def blocks(state: State, kept: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Yield the run of bytes, an image at a time, and then where each ends."""
    end, ends = 0, list[int]()
    for start in range(0, len(kept), _TOGETHER):
        some = kept[start : start + _TOGETHER]
        clean = state.images[torch.tensor([row for row, _ in some])]
        for one, (row, ball) in zip(clean, some, strict=True):
            block = coded_clean(one) + cast("BrokenImages", state.broken[ball].images).coded(row)
            end += len(block)
            ends.append(end)
            yield block
    yield np.array(ends, "<i8").tobytes()


class Filed:
    """Reads images of a file by their numbers.

    Parameters
    ----------
    path
        The file, whose checksum was found to be right.
    count
        Images in it.
    shape
        C, H and W.

    Raises
    ------
    ValueError
        Where the file cannot have so many or so large images. KeyError without any.
    """

    def __init__(self, path: Path, count: int, shape: Sequence[int]) -> None:
        self.path, self.count, self.shape = path, count, tuple(shape)
        self.start, stop = place_in(path, BYTES)
        if not 0 <= _END * count <= stop - self.start:
            raise ValueError(f"{count} images in {stop - self.start} bytes")
        where = stop - _END * count
        self.ends = np.frombuffer(bytes_of(path, where, stop), "<i8")
        if count and not (
            self.ends[0] > 0 and (np.diff(self.ends) > 0).all() and self.ends[-1] == where - self.start
        ):
            raise ValueError("images that do not follow one another")
        longest = int(np.diff(self.ends, prepend=0).max()) if count else 0
        if count and math.prod(self.shape) > _MOST_TIMES * longest:
            raise ValueError(f"images {list(shape)} in {longest} bytes")

    def __call__(self, number: int) -> Images:
        """Return an image (C, H, W); raise ValueError where the file was changed since it was opened."""
        first = int(self.ends[number - 1]) if number else 0
        content = bytes_of(self.path, self.start + first, self.start + int(self.ends[number]))
        clean, end = decoded_clean(content, self.shape)
        return decoded(content[end:], clean)


def earlier(images: Tensor, shape: Sequence[int]) -> tuple[Rows, Callable[[int], Images]]:
    """Return the numbers of an earlier version's images (n, C, H, W), and what gives one by its number.

    Raises ValueError for images of another shape.
    """
    if images.shape[1:] != torch.Size(shape) or images.dtype != torch.float32:
        raise ValueError(f"images {images.dtype} {tuple(images.shape)}, not float32 {list(shape)}")
    return torch.arange(len(images)), lambda number: images[number]
