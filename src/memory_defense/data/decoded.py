"""Decoded images in files of the cache: decoded once, mapped into memory after that, and shared by processes.

A file holds images in the order in which they are used, so that the first n are its beginning. It is whole or
absent; one that is damaged, or does not belong to what is asked for, is made anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from memory_defense.contracts import Progress
from memory_defense.data.sources import cache_root
from memory_defense.files import LockedError, WriteError, atomic, locked, remove

SUFFIX = ".pixels"
_MAGIC = b"memdef-1"
"""Ends every file; its number changes with the layout, and with whatever decides a decoded pixel."""
_TYPES = {"uint8": np.uint8, "float32": np.float32}
"""What pixels may be, by the name that a file has for it."""
_DIGEST = 16
"""Bytes of an image's BLAKE2b."""
_WAIT = 0.2
"""Seconds between two looks at a file that another process is writing."""


class Picture(NamedTuple):
    """An image as it is kept."""

    pixels: np.ndarray
    """(C, H, W) uint8 grey levels or float32 in [0, 1], C is 1 or 3; of one type in a file."""
    turned: bool = False
    """Turned or mirrored as it was decoded."""
    place: int | None = None
    """Position in the file, for images that do not come in its order and are all of one shape; None is the next."""


class Kept(NamedTuple):
    """Images out of a file."""

    images: Tensor
    """(N, C, H, W) uint8 or float32, mapped; not to be written to, which would end the process."""
    turned: int
    """How many of them were turned or mirrored as they were decoded."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for: all that decides the bytes."""

    of: str
    """What is kept, in words: the folder, its split, how images are resized. One file of each is kept."""
    lines: Sequence[str]
    """A line for each image, in the order of use: its name, bytes and time of change."""

    @property
    def path(self) -> Path:
        """The file."""
        said = "\n".join([self.of, *self.lines]).encode(errors="surrogateescape")
        digest = hashlib.sha256(_MAGIC + said)
        return folder() / f"{digest.hexdigest()[:32]}{SUFFIX}"


def folder() -> Path:
    """Return the folder of these files."""
    return cache_root() / "images"


def kept(wanted: Wanted, count: int) -> Kept | None:
    """Return the first `count` images where a whole file has them; None where there is none, or it is damaged."""
    found = _opened(wanted.path)
    return None if found is None or len(found.images) < count or not found.good(count) else found.first(count)


def keep(
    wanted: Wanted,
    count: int,
    decode: Callable[[int], Iterator[Picture]],
    progress: Progress | None = None,
) -> Kept:
    """Return the first `count` images, decoding those that no file has yet, and keep them.

    Parameters
    ----------
    wanted
        What is kept.
    count
        How many images are asked for.
    decode
        Gives the images from this position up to `count`, all of one size, in their order or each with its place.
    progress
        Is told where another process decodes them, which is waited for.

    Raises
    ------
    WriteError
        If the cache cannot be written to; whatever `decode` raises is passed on.
    """
    path, said = wanted.path, False
    while True:
        if (found := kept(wanted, count)) is not None:
            return found
        try:
            with locked(path):
                if (found := kept(wanted, count)) is not None:
                    return found
                _write(path, wanted, count, decode, progress)
            if (written := _opened(path)) is None:
                raise WriteError(f"{path} was written, and reads back differently; is the disk in order?")
            return written.first(count)  # its pixels are compared at the next load
        except LockedError as error:
            if progress and not said:
                progress.note(f"these images are being decoded elsewhere, which is waited for: {error}")
            said = True
            time.sleep(_WAIT)


def check_room(where: str, needed: int) -> None:
    """Raise WriteError where the disk of these files has no room for so many bytes of images of `where`."""
    folder().mkdir(parents=True, exist_ok=True)
    room = shutil.disk_usage(folder()).free
    if needed > room:
        raise WriteError(
            f"{folder()} has room for {room:,} bytes, and {where} takes {needed:,}; free some, or name another "
            "cache with MEMDEF_CACHE"
        )


def contents() -> list[tuple[Path, str, int]]:
    """Return the files, what each holds in words, and its bytes; the words are empty where it is damaged."""
    files = sorted(folder().glob(f"*{SUFFIX}")) if folder().is_dir() else []
    opened = [(path, _opened(path)) for path in files]
    return [(path, found.of if found else "", path.stat().st_size) for path, found in opened]


def forget() -> int:
    """Remove all files, and return their bytes; whoever has mapped one keeps what is in it."""
    sizes = [(path, size) for path, _, size in contents()]
    for path, _ in sizes:
        remove(path)
    return sum(size for _, size in sizes)


@dataclass(frozen=True)
class _Opened:
    """A file whose end is whole."""

    images: Tensor
    digests: bytes
    turned: tuple[int, ...]
    of: str

    def good(self, count: int) -> bool:
        """Return whether the first `count` images are what was written."""
        rows: Any = self.images[:count].numpy()
        return all(
            _digest(row) == self.digests[_DIGEST * number : _DIGEST * (number + 1)]
            for number, row in enumerate(rows)
        )

    def first(self, count: int) -> Kept:
        """Return the first images."""
        return Kept(self.images[:count], sum(number < count for number in self.turned))


def _digest(row: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=_DIGEST).digest()


def _opened(path: Path) -> _Opened | None:
    """Return a file that was written to its end by this version, None for anything else."""
    try:
        with path.open("rb") as source:
            source.seek(-len(_MAGIC) - 8, 2)
            body = source.tell()
            length, magic = int.from_bytes(source.read(8), "little"), source.read()
            if magic != _MAGIC or not _DIGEST < length <= body:
                return None
            source.seek(body - length)
            checksum, end = source.read(_DIGEST), source.read(length - _DIGEST)
        if hashlib.blake2b(end, digest_size=_DIGEST).digest() != checksum:
            return None
        facts = json.loads(end[: end.index(b"\n")])
        shape, kind = tuple(map(int, facts["shape"])), np.dtype(_TYPES[facts.get("type", "uint8")])
        digests = end[end.index(b"\n") + 1 :]
        if kind.itemsize * int(np.prod(shape)) != body - length or len(digests) != _DIGEST * shape[0]:
            return None
        return _Opened(_mapped(path, shape, kind), digests, tuple(facts["turned"]), str(facts["of"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mapped(path: Path, shape: tuple[int, ...], kind: np.dtype) -> Tensor:
    """Return a file's beginning as a tensor that takes no memory: mapped read-only, so that no page is a copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.memmap(path, kind, "r", shape=shape))


def _write(
    path: Path, wanted: Wanted, count: int, decode: Callable[[int], Iterator[Picture]], progress: Progress | None
) -> None:
    """Write a file of the first `count` images; those that an earlier one has are taken from there."""
    before = _opened(path)
    if before is not None and not before.good(len(before.images)):
        before = None
        if progress:
            progress.note(f"{path} was damaged: its images are decoded again")
    elif before is None and path.exists() and progress:
        progress.note(f"{path} was damaged: its images are decoded again")
    done = 0 if before is None else min(count, len(before.images))
    with atomic(path) as temporary, temporary.open("w+b") as out:
        writer = _Writer(out)
        for number in range(done):
            assert before is not None
            writer.add(Picture(before.images[number].numpy(), number in before.turned))
        for picture in decode(done):
            writer.add(picture)
        writer.end(wanted.of)
    for other, of, _ in contents():  # of the same folder as it was
        if of == wanted.of and other != path:
            try:
                remove(other)
            except WriteError:  # another's, say
                continue


class _Writer:
    """Writes images, each at its place, with three channels from the first coloured one on, those before too."""

    def __init__(self, out: BinaryIO) -> None:
        self.out, self.digests, self.turned = out, dict[int, bytes](), list[int]()
        self.shape: tuple[int, ...] = ()
        self.kind = np.dtype(np.uint8)

    def add(self, picture: Picture) -> None:
        """Write an image."""
        pixels = picture.pixels
        if not self.shape:
            self.shape, self.kind = pixels.shape, pixels.dtype
        if pixels.shape[0] > self.shape[0]:
            self._colour()
        pixels = np.ascontiguousarray(np.broadcast_to(pixels, self.shape))
        number = len(self.digests) if picture.place is None else picture.place
        if picture.place is not None:
            self.out.seek(number * pixels.nbytes)
        if picture.turned:
            self.turned.append(number)
        self.digests[number] = _digest(pixels)
        self.out.write(pixels.data)

    def _colour(self) -> None:
        """Repeat the grey images that are there, from the last to the first, so that none is written over."""
        grey, size = self.shape, int(np.prod(self.shape))
        self.shape = (3, *grey[1:])
        for number in reversed(range(len(self.digests))):
            self.out.seek(number * size)
            level = np.frombuffer(self.out.read(size), np.uint8).reshape(grey)
            pixels = np.ascontiguousarray(np.broadcast_to(level, self.shape))
            self.digests[number] = _digest(pixels)
            self.out.seek(3 * number * size)
            self.out.write(pixels.data)
        self.out.seek(3 * size * len(self.digests))

    def end(self, of: str) -> None:
        """Write what is known of the images behind them."""
        facts = {"of": of, "shape": [len(self.digests), *self.shape], "turned": self.turned, "type": self.kind.name}
        end = json.dumps(facts).encode() + b"\n" + b"".join(self.digests[number] for number in sorted(self.digests))
        checked = hashlib.blake2b(end, digest_size=_DIGEST).digest() + end
        self.out.seek(0, 2)
        self.out.write(checked + len(checked).to_bytes(8, "little") + _MAGIC)
