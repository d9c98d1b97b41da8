"""A log that only grows: what a stopped evaluation goes on from, an entry a chunk of images.

A file begins with `MAGIC`. Each entry is its length (8 bytes, little-endian), eight bytes of the SHA-256 of that,
and tensors as `tensorfiles` lays them out, with a checksum of their own; one of them may be the bytes of broken
images, which stay in the file until somebody asks for one. A kill leaves the last entry torn: it is cut off when
the file is opened again, and every prefix of whole entries is a state to go on from. What is whole and not as its
checksum says is damage, and refused.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from memory_defense.files import append_bytes, force_to_disk, opened, remove
from memory_defense.tensorfiles import laid_out, parsed, place_of

MAGIC = b"MDEFLOG1"
"""First bytes of a file; the last is the version."""

BLOBS, ENDS = "blobs", "ends of blobs"
"""Tensors of an entry: bytes one after the other, and where each ends."""

_LENGTH = 8
_HEAD = 16
"""Bytes before an entry's tensors."""
_COPIED = 1 << 24


class Log:
    """The entries of one process.

    Parameters
    ----------
    path
        The file; None for one without a name, which is gone with this process.
    reading
        Only read what another process wrote.

    Raises
    ------
    ValueError
        For a file that is no such log. `files.WriteError` where it cannot be written.
    """

    def __init__(self, path: Path | None = None, *, reading: bool = False) -> None:
        self.path, self.size, self._handle, self._nameless = path, 0, -1, None
        if path is None:
            return
        self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)) if reading else opened(path)
        self.size = os.fstat(self._handle).st_size
        try:
            self._begin(reading)
        except BaseException:
            self.close()
            raise

    def _begin(self, reading: bool) -> None:
        start = self._read(0, min(self.size, len(MAGIC)))
        if not MAGIC.startswith(start):
            raise ValueError(
                f"{self.path} is not a log of this version; go on with the version that wrote it, or remove it to "
                "start over"
            )
        if len(start) < len(MAGIC) and not reading:
            self.size = append_bytes(self._named, self._handle, 0, MAGIC)

    @property
    def _named(self) -> Path:
        return Path(tempfile.gettempdir()) if self.path is None else self.path

    @property
    def empty(self) -> bool:
        """Whether there is no entry."""
        return self.size <= len(MAGIC)

    def entries(self) -> Iterator[tuple[dict[str, Tensor], dict[str, str], list[int]]]:
        """Yield the tensors and metadata of each entry, and where each of its blobs is; cut off a torn end.

        Raises
        ------
        ValueError
            At an entry that is damaged; the text names the last byte before it.
        """
        at = len(MAGIC)
        while at < self.size:
            head = self._read(at, _HEAD)
            if len(head) < _HEAD:
                break
            length = int.from_bytes(head[:_LENGTH], "little")
            if head[_LENGTH:] != _check_of(head[:_LENGTH]):
                raise self._damaged(at, "its length is not what its checksum says")
            if at + _HEAD + length > self.size:
                break
            content = self._read(at + _HEAD, length)
            try:
                tensors, metadata = parsed(content)
                places = _places(at + _HEAD, content, tensors)
            except ValueError as error:
                raise self._damaged(at, str(error)) from error
            yield tensors, metadata, places
            at += _HEAD + length
        self._cut(at)

    def _cut(self, end: int) -> None:
        if end < self.size:
            os.ftruncate(self._handle, end)
            self.size = end

    def _damaged(self, at: int, why: str) -> ValueError:
        return ValueError(
            f"{self.path} is damaged after its first {at} bytes ({why}); remove it to start over, or cut it there "
            f"to go on from what is before: truncate -s {at} {self.path}"
        )

    def append(
        self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], blobs: Sequence[bytes] = ()
    ) -> list[int]:
        """Write an entry; return where each of its blobs is.

        Raises `files.WriteError`, and then nothing is written.
        """
        held = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}  # none may share memory
        if blobs:
            held[BLOBS] = torch.frombuffer(bytearray(b"".join(blobs)), dtype=torch.uint8)
            held[ENDS] = torch.tensor([len(one) for one in blobs]).cumsum(0)
        if self._handle < 0:  # without a name, and made now that there is something to write
            self._nameless = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            self._handle = self._nameless.fileno()
            self.size = append_bytes(self._named, self._handle, 0, MAGIC)
        (header, body), _ = laid_out(held, metadata)
        length = (len(header) + len(body)).to_bytes(_LENGTH, "little")
        start = self.size + _HEAD
        self.size = append_bytes(self._named, self._handle, self.size, length + _check_of(length), header, body)
        return _places(start, header, held)

    def blob(self, place: int) -> bytes:
        """Return the blob at this place, whose first four bytes are the length of what follows.

        Raises ValueError where the file ends before it does.
        """
        head = self._read(place, 4)
        length = int.from_bytes(head, "little")
        there = len(head) == 4 and place + 4 + length <= os.fstat(self._handle).st_size
        found = self._read(place + 4, length) if there else b""
        if not there or len(found) != length:
            raise ValueError(
                f"{self.path} ends before an image that it holds; restore it, or start over without it"
            )
        return found

    def force(self) -> None:
        """Return once all of it is on the disk."""
        if self.path is not None:
            force_to_disk(self.path, self._handle)

    def remove(self) -> None:
        """Remove the file; what is in it can be read until this process ends."""
        if self.path is not None:
            if os.name == "nt":
                self._copy_away()
            remove(self.path)

    def _copy_away(self) -> None:
        """Go on reading from a file without a name: Windows removes no open file."""
        copy = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        for start in range(0, self.size, _COPIED):
            copy.write(self._read(start, _COPIED))
        os.close(self._handle)
        self._nameless, self._handle = copy, copy.fileno()

    def close(self) -> None:
        """Let go of the file."""
        if self._handle >= 0 and self._nameless is None:
            os.close(self._handle)
        elif self._nameless is not None:
            self._nameless.close()
        self._handle = -1

    def __del__(self) -> None:
        """Let go of the file with the last who could read it."""
        if getattr(self, "_handle", -1) >= 0:
            self.close()

    def _read(self, start: int, length: int) -> bytes:
        os.lseek(self._handle, start, os.SEEK_SET)
        pieces: list[bytes] = []
        while length > 0 and (piece := os.read(self._handle, min(length, _COPIED))):
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)


def with_length(content: bytes) -> bytes:
    """Return a blob as `Log.blob` finds it."""
    return len(content).to_bytes(4, "little") + content


def _check_of(length: bytes) -> bytes:
    return hashlib.sha256(length).digest()[:_LENGTH]


def _places(start: int, content: bytes, tensors: Mapping[str, Tensor]) -> list[int]:
    """Return where the blobs of an entry are that begins at `start`."""
    if BLOBS not in tensors:
        return []
    first, _ = place_of(content, BLOBS)
    ends = cast("list[int]", tensors[ENDS].tolist())
    return [start + first + end for end in [0, *ends[:-1]]]
