"""Clean images by reference: grey levels or floats that lie somewhere, of which a batch at a time becomes floats.

Whoever evaluates fifty thousand pictures keeps them as bytes, perhaps in a mapped file that several processes
share; nothing here makes a float copy of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from memory_defense.checks import check_images
from memory_defense.contracts import Images, Rows

LEVELS = 255
"""A grey level divided by this is the pixel; `data.floats.floats_of` divides so."""

BLOCK_BYTES = 1 << 24
"""Bytes of images that are looked at or hashed at a time, about."""


class Holding(Protocol):
    """What holds images (N, C, H, W) of uint8 or float32, such as a `data.images.ImageSet`."""

    @property
    def images(self) -> Tensor:
        """The images."""
        ...


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images (N, C, H, W), read by their rows as float32 in [0, 1].

    Parameters
    ----------
    source
        (M, C, H, W) uint8 grey levels, or float32 in [0, 1]; it is not copied.
    device
        Where batches are wanted.
    rows
        (N,) which of the source's images these are, on its device; None for all.
    """

    source: Tensor
    device: torch.device
    rows: Rows | None = None

    @classmethod
    def of(cls, images: Images | Holding | Pixels) -> Pixels:
        """Return the images by reference, in batches where they lie; a `Pixels` as it is."""
        if isinstance(images, Pixels):
            return images
        source = images if isinstance(images, Tensor) else images.images
        return cls(source, source.device)

    def __len__(self) -> int:
        """Return N."""
        return len(self.source) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""
        return torch.Size((len(self), *self.source.shape[1:]))

    def __getitem__(self, which: Rows | slice) -> Images:
        """Return these rows: positions (n,), a mask (N,) bool, or a slice."""
        if self.source.dtype != torch.uint8:
            return self._stored(which).to(self.device)
        if isinstance(which, slice) and self.rows is None:
            return self.source[which].float().div_(LEVELS).to(self.device)
        from memory_defense.data.floats import floats_of  # grey levels only

        rows = torch.arange(len(self), device=self.source.device) if self.rows is None else self.rows
        chosen = rows[which if isinstance(which, slice) else which.to(rows.device)]
        return floats_of(self.source, chosen).to(self.device)

    def _stored(self, which: Rows | slice) -> Tensor:
        if not isinstance(which, slice):
            which = which.to(self.source.device)
        return self.source[which if self.rows is None else self.rows[which]]

    def take(self, which: Rows) -> Pixels:
        """Return the images at these positions (n,), by reference."""
        which = which.to(self.source.device)
        return Pixels(self.source, self.device, which if self.rows is None else self.rows[which])

    def to(self, device: torch.device | str) -> Pixels:
        """Return the same images, whose batches are wanted on another device."""
        return Pixels(self.source, torch.device(device), self.rows)

    def content(self) -> Iterator[Tensor]:
        """Yield what is stored, in the order of rows and in blocks, for whoever hashes it."""
        size = max(1, BLOCK_BYTES // max(self.source[:1].numel() * self.source.element_size(), 1))
        for start in range(0, len(self), size):
            yield self._stored(slice(start, start + size))


CHUNK_FLOATS = 1 << 25
"""Pixels' numbers of the images that an attack holds at once, at most, on a processor."""
ACCELERATOR_CHUNK_FLOATS = 1 << 27
"""The same on an accelerator, which wants many images in a pass."""
_CHUNK_OF = 64
"""A chunk that is made smaller is a multiple of so many images."""


def chunk_for(images: Pixels, chunk: int) -> int:
    """Return how many images an attack holds at once: `chunk`, or fewer where they are large."""
    floats = CHUNK_FLOATS if images.device.type == "cpu" else ACCELERATOR_CHUNK_FLOATS
    room = floats // max(images.source[:1].numel(), 1)
    return min(chunk, max(room - room % _CHUNK_OF, _CHUNK_OF))


Pictures: TypeAlias = Tensor | Pixels
"""Images (N, C, H, W), in memory as float32 or by reference."""


def parts(images: Pictures, size: int) -> Iterator[Images]:
    """Yield the images in their order, `size` at a time."""
    if isinstance(images, Tensor):
        yield from torch.split(images, size)
        return
    for start in range(0, len(images), size):
        yield images[start : start + size]


def check_pictures(images: Pictures) -> None:
    """Raise ValueError unless these are images in [0, 1]; of those by reference a block is looked at at a time.

    Grey levels are whatever bytes can be, and only their shape is looked at.
    """
    if not isinstance(images, Pixels) or len(images) == 0:
        check_images(images[:0] if isinstance(images, Pixels) else images)
    elif images.source.dtype == torch.uint8:
        check_images(images[:1])
    else:
        for block in images.content():
            check_images(block)
