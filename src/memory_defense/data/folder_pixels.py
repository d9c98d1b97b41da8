"""The pixels of a folder's files: decoded into memory if they are few, and once into the cache if they are many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from memory_defense.contracts import Progress
from memory_defense.data import decoded
from memory_defense.data.geometry import Framing, framed, framing_text
from memory_defense.data.image_files import decode_image
from memory_defense.data.limits import Limits, resized
from memory_defense.data.places import SMALLEST_SIDE, shown
from memory_defense.files import WriteError

KEPT_FROM = 256
"""So many images, or more, are kept in the cache once they are decoded."""
_NOTED = 20
"""Files read between two notes of progress."""


@dataclass(frozen=True)
class ImageFile:
    """An image file, as it was when the folder was listed."""

    path: Path
    label: int
    stamp: tuple[int, int]
    """Bytes, and time of the last change in nanoseconds."""


@dataclass
class FolderPixels:
    """Reads files of one split, all brought to one size.

    Parameters
    ----------
    root, split
        The folder and its split, for names and messages.
    files
        What is read, in this order.
    how
        How an image is brought to the model's pixels.
    limits
        Largest data that are read; the memory that they may take counts where they are not kept.
    progress
        Advanced as files are decoded.
    """

    root: Path
    split: str
    files: Sequence[ImageFile]
    how: Framing
    limits: Limits
    progress: Progress | None = None
    notes: list[str] = field(default_factory=list[str])
    """What was done to pictures, or met with, a line each."""

    @property
    def where(self) -> str:
        """The folder of the split, for messages."""
        return str(self.root / self.split)

    def read(self, order: Sequence[ImageFile]) -> Tensor:
        """Return the pixels (N, C, H, W) uint8, C = 1 where all of them are grey; not to be written to.

        Parameters
        ----------
        order
            What the files are the first of; a file of the cache belongs to it.

        Raises
        ------
        ValueError
            For a file that is no readable image, is gone, or is of another size than the first.
        """
        lines = [f"{file.path.relative_to(self.root)} {file.stamp}" for file in order]
        wanted, count = decoded.Wanted(f"{self.where} {framing_text(self.how)}".strip(), lines), len(self.files)
        found = decoded.kept(wanted, count) if count < KEPT_FROM else None
        try:
            if found is None and count >= KEPT_FROM:
                found = decoded.keep(wanted, count, self._on_disk, self.progress)
        except WriteError as error:  # costs memory, not the images
            if self.progress:
                self.progress.note(f"decoded images are not kept, and take memory instead: {error}")
        images, turned = self._in_memory() if found is None else found
        if turned:
            self.notes.append(
                f"{turned:,} of {count:,} images in {self.split} turned as their EXIF orientation says"
            )
        return images

    def _in_memory(self) -> tuple[Tensor, int]:
        """Return the pixels, and how many pictures were turned."""
        images: np.ndarray = np.empty((0, 1, 0, 0), np.uint8)
        turned = 0
        for number, one in enumerate(self._pictures(0)):
            if number == 0:
                needed = len(self.files) * 3 * (one.pixels.size // len(one.pixels))
                self.limits.check_memory(self.where, needed, len(self.files))
                images = np.empty((len(self.files), *one.pixels.shape), np.uint8)
            if len(one.pixels) > images.shape[1]:
                images = np.repeat(images, 3, axis=1)
            images[number, :], turned = one.pixels, turned + one.turned
        return torch.from_numpy(images), turned

    def _on_disk(self, start: int) -> Iterator[decoded.Picture]:
        """Yield the pictures from this one on; raise WriteError where they do not fit on the disk."""
        for number, one in enumerate(self._pictures(start)):
            if number == 0:
                needed = len(self.files) * 3 * (one.pixels.size // len(one.pixels))
                decoded.check_room(self.where, needed)
            yield one

    def _pictures(self, start: int) -> Iterator[decoded.Picture]:
        """Yield the pictures (C, H, W) from this one on, checked and brought to size."""
        files, changed, first = self.files[start:], 0, (0, 0)
        if self.progress:
            self.progress.begin(f"reading {self.where}", len(files))
        for number, file in enumerate(files):
            try:
                picture, turned, stamp = decode_image(file.path, self.limits)
            except FileNotFoundError as error:
                raise ValueError(
                    f"{shown(file.path)} vanished while {self.where} was read; read it again"
                ) from error
            changed += stamp != file.stamp
            picture = framed(shown(file.path), picture, self.how, self.limits)
            height, width = picture.shape[:2]
            if number == 0:
                first = height, width
            elif (height, width) != first:
                raise ValueError(
                    f"{shown(file.path)} is {width} x {height} pixels, but {shown(files[0].path)} is {first[1]} x "
                    f"{first[0]}; {resized(self.limits, max(SMALLEST_SIDE, min(first)))}"
                )
            planes = picture.transpose(2, 0, 1) if picture.ndim == 3 else picture[None]  # (C, H, W)
            yield decoded.Picture(np.ascontiguousarray(planes), turned)
            if self.progress and ((number + 1) % _NOTED == 0 or number + 1 == len(files)):
                self.progress.advance(number % _NOTED + 1)
        if changed:
            self.notes.append(f"{changed:,} files in {self.where} changed while it was read: read as they are now")
