"""Arrays of a ``.npz`` file, without trust: sizes are compared with headers before memory is taken for them."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from memory_defense.data.decode import REMEDY, DamagedDataError, RefusedDataError, damage
from memory_defense.data.limits import Limits

_SUFFIX = ".npy"
_MOST_MEMBERS = 100
_FAULT = "is not a complete array file"
_BLOCK = 1 << 20
"""Bytes that are read at once."""
_READ_THROUGH = 1 << 26
"""Bytes of an uncompressed array that is read to its end, for its checksum, though few rows are wanted."""


class Npz:
    """The arrays of one file by name; each is read when it is asked for.

    Parameters
    ----------
    path
        The file.
    limits
        Largest data that are read: `limits.memory` bytes for one array.

    Raises
    ------
    ValueError
        If it holds anything but arrays, or names twice; `DamagedDataError`, a ValueError, when it is no whole zip
        archive. The text names the file.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        with damage(str(path), _FAULT), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if len(names) > _MOST_MEMBERS or len(set(names)) < len(names):
            raise ValueError(f"{path} holds more than {_MOST_MEMBERS} arrays, or one name twice; write it again")
        if strange := [name for name in names if not name.endswith(_SUFFIX)]:
            raise ValueError(
                f"{path} holds {strange[0]!r}, which is not an array; write it with numpy.savez_compressed"
            )
        self.names = tuple(name.removesuffix(_SUFFIX) for name in names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape that an array's header announces; raise as the constructor does."""
        where = f"{self.path}: {name}"
        with damage(where, _FAULT), zipfile.ZipFile(self.path) as archive, archive.open(name + _SUFFIX) as stream:
            shape, _, dtype = _header(stream, where)
        _check_plain(where, dtype)
        return shape

    def read(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Return one array, in the byte order of this machine; raise as the constructor does.

        Parameters
        ----------
        name
            One of `names`.
        rows
            (M,) positions along the first axis, each once: only these are kept in memory, and returned in this
            order. Of a large array that lies uncompressed in the file, half of them or less are read without the
            others, and without the checksum that is of all. None returns all.
        """
        where = f"{self.path}: {name}"
        with damage(where, _FAULT), zipfile.ZipFile(self.path) as archive:
            member = archive.getinfo(name + _SUFFIX)
            with archive.open(member) as stream:
                shape, backwards, dtype = _header(stream, where)
                kept = shape if rows is None or backwards or not shape else (len(rows), *shape[1:])
                self._check(where, shape, dtype, member.file_size - stream.tell(), kept)
                stored = member.compress_type == zipfile.ZIP_STORED and member.file_size > _READ_THROUGH
                if rows is not None and stored and not backwards and shape and len(rows) <= shape[0] // 2:
                    start = _start(self.path, member) + stream.tell()
                    lies = np.memmap(self.path, dtype, "r", start, shape)
                    return lies[rows].astype(dtype.newbyteorder("="), copy=False)
                values = np.empty(kept, dtype, order="F" if backwards else "C")
                if values.size:
                    _fill(stream, values, None if kept is shape else rows, shape)
                if stream.read(1):  # and compare the checksum, which is done at the end
                    raise ValueError("it is longer than its header says")
        if kept is shape and rows is not None:
            values = values[rows]
        return values.astype(dtype.newbyteorder("="), copy=False)

    def blocks(self, name: str, size: int) -> Iterator[np.ndarray]:
        """Yield one array in its order, as many rows at a time as have `size` bytes, one at least.

        An array whose first axis varies fastest is read whole, for no row of it lies in one piece. Raises as the
        constructor does.
        """
        where = f"{self.path}: {name}"
        with damage(where, _FAULT), zipfile.ZipFile(self.path) as archive:
            member = archive.getinfo(name + _SUFFIX)
            with archive.open(member) as stream:
                shape, backwards, dtype = _header(stream, where)
                if not backwards and shape:
                    step = min(max(1, size // max(1, math.prod(shape[1:]) * dtype.itemsize)), shape[0])
                    self._check(where, shape, dtype, member.file_size - stream.tell(), (step, *shape[1:]))
                    for start in range(0, shape[0], step):
                        part = np.empty((min(step, shape[0] - start), *shape[1:]), dtype)
                        _read_into(stream, part.reshape(-1).view(np.uint8))
                        yield part.astype(dtype.newbyteorder("="), copy=False)
                    if stream.read(1):
                        raise ValueError("it is longer than its header says")
                    return
        yield self.read(name)

    def _check(self, where: str, shape: tuple[int, ...], dtype: np.dtype, left: int, kept: tuple[int, ...]) -> None:
        _check_plain(where, dtype)
        size = math.prod(shape) * dtype.itemsize
        try:
            self.limits.check_memory(where, math.prod(kept) * dtype.itemsize, kept[0] if kept else None)
        except ValueError as error:
            raise RefusedDataError(str(error)) from error
        if size != left or min(shape, default=0) < 0 or dtype.names:
            raise DamagedDataError(f"{where} announces {shape} {dtype} in {left} bytes; {REMEDY}")


def _start(path: Path, member: zipfile.ZipInfo) -> int:
    """Return where the content of an uncompressed member begins."""
    with path.open("rb") as source:
        source.seek(member.header_offset + 26)
        name, extra = (int.from_bytes(source.read(2), "little") for _ in range(2))
        return source.tell() + name + extra


def _check_plain(where: str, dtype: np.dtype) -> None:
    if dtype.hasobject:
        raise RefusedDataError(
            f"{where} holds Python objects, which can run code when they are read; save an array of numbers, "
            "or of strings with dtype=str"
        )


def _header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, whether the first axis varies fastest, and type."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise RefusedDataError(f"{where} is an array of records; save plain numbers")


def _fill(stream: IO[bytes], values: np.ndarray, rows: np.ndarray | None, shape: tuple[int, ...]) -> None:
    """Read an array's body into `values`: all of it as it lies there, or only its `rows`."""
    if rows is None:
        _read_into(stream, values.reshape(-1, order="A").view(np.uint8))
        return
    places = np.full(shape[0], -1)
    places[rows] = np.arange(len(rows))
    step = max(1, _BLOCK // max(1, math.prod(shape[1:]) * values.dtype.itemsize))
    block = np.empty((step, *shape[1:]), values.dtype)
    for start in range(0, shape[0], step):
        part = block[: shape[0] - start]
        _read_into(stream, part.reshape(-1).view(np.uint8))
        wanted = places[start : start + step]
        values[wanted[wanted >= 0]] = part[wanted >= 0]


def _read_into(stream: IO[bytes], target: np.ndarray) -> None:
    """Fill `target` (B,) uint8 from the stream."""
    done = 0
    while done < len(target):
        piece = stream.read(min(_BLOCK, len(target) - done))
        if not piece:
            raise EOFError("it ends early")
        target[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
        done += len(piece)
