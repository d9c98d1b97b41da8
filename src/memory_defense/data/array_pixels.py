"""Images of an array too large to hold: brought to the model's pixels once, in a mapped file of the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from memory_defense.checks import check_images
from memory_defense.contracts import Progress, Rows
from memory_defense.data import decoded
from memory_defense.data.array_shapes import framed_all
from memory_defense.data.geometry import Framing, framing_text
from memory_defense.data.limits import Limits

KEPT_FROM = 1 << 28
"""Bytes of images, as they lie in the file or as they are used, from which on they are not held in memory."""
BLOCK_BYTES = 1 << 22
"""Bytes of an array that are read at a time, about."""


@dataclass(frozen=True)
class ArrayPixels:
    """Reads images of one array in its order, a block at a time, and keeps them in the order of use.

    Parameters
    ----------
    path, key
        The file, and the array's name in it.
    blocks
        Gives the array (n, C, H, W), block after block.
    count
        How many images the array has.
    how
        How an image is brought to the model's pixels.
    limits
        Largest data that are read; the memory counts for a block.
    progress
        Advanced as images are read.
    """

    path: Path
    key: str
    blocks: Callable[[], Iterator[Tensor]]
    count: int
    how: Framing
    limits: Limits
    progress: Progress | None = None

    @property
    def where(self) -> str:
        """The array, for messages."""
        return f"{self.path}: {self.key}"

    def read(self, rows: Rows, order: Rows) -> Tensor:
        """Return the images at these positions (N, C, H, W), uint8 or float32, mapped; not to be written to.

        Parameters
        ----------
        rows
            (N,) positions in the array, each once.
        order
            What `rows` are the first of; a file of the cache belongs to it.

        Raises
        ------
        ValueError
            For images that are neither grey levels nor in [0, 1], or that are too small for the geometry.
        WriteError
            If the cache cannot be written to, or the disk has no room.
        """
        state = self.path.stat()
        of = f"{self.path.resolve()}: {self.key} {framing_text(self.how)}".strip()
        lines = [f"{(state.st_size, state.st_mtime_ns)}", *map(str, cast("list[int]", order.tolist()))]
        wanted = decoded.Wanted(of, lines)
        return decoded.keep(wanted, len(rows), lambda done: self._pictures(rows, done), self.progress).images

    def _pictures(self, rows: Rows, done: int) -> Iterator[decoded.Picture]:
        """Yield the images from `rows[done]` on, as they come in the file, each with its place."""
        places = torch.full((self.count,), -1)
        places[rows[done:]] = torch.arange(done, len(rows))
        start, most, levels, begun = 0, 0, True, False
        if self.progress:
            self.progress.begin(f"reading {self.where}", self.count)
        for block in self.blocks():
            levels = block.dtype == torch.uint8
            most = max(most, int(block.max())) if levels else 1
            here = places[start : start + len(block)]
            wanted = torch.nonzero(here >= 0).flatten()
            if len(wanted):
                images = framed_all(self.where, pixels_of(block[wanted], self.where), self.how, self.limits)
                if not begun:
                    decoded.check_room(self.where, len(rows) * images[0].numel() * images.element_size())
                begun = True
                for image, place in zip(images, here[wanted], strict=True):
                    yield decoded.Picture(image.numpy(), place=int(place))
            start += len(block)
            if self.progress:
                self.progress.advance(len(block))
        if levels and most <= 1:
            raise black(self.where)


def pixels_of(images: Tensor, where: str) -> Tensor:
    """Return uint8 images as they are and float ones as float32.

    Raises
    ------
    ValueError
        For another type, or floats outside [0, 1]; the text begins with `where`.
    """
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ValueError(
            f"{where} is {images.dtype}, expected uint8 grey levels or float pixels in [0, 1]; save it as "
            "uint8 if it counts from 0 to 255, else divide it by its largest level and save it as float32"
        )
    images = images.float()
    try:
        check_images(images)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return images


def black(where: str) -> ValueError:
    """Return the error for grey levels that are all 0 or 1."""
    return ValueError(
        f"{where} is uint8 and at most 1, which is black; save pixels in [0, 1] as float32, "
        "or grey levels from 0 to 255"
    )
