"""Arrays of a ``.npz`` file, without trust: sizes are compared with headers before memory is taken for them."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from memory_defense.data.decode import REMEDY, DamagedDataError, RefusedDataError, damage
from memory_defense.data.limits import Limits

_SUFFIX = ".npy"
_MOST_MEMBERS = 100
_FAULT = "is no whole array file"


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
                f"{path} holds {strange[0]!r}, which is no array; write it with numpy.savez_compressed"
            )
        self.names = tuple(name.removesuffix(_SUFFIX) for name in names)

    def read(self, name: str) -> np.ndarray:
        """Return one array, in the byte order of this machine; raise as the constructor does."""
        where = f"{self.path}: {name}"
        with damage(where, _FAULT), zipfile.ZipFile(self.path) as archive:
            member = archive.getinfo(name + _SUFFIX)
            with archive.open(member) as stream:
                shape, backwards, dtype = _header(stream, where)
                self._check(where, shape, dtype, member.file_size - stream.tell())
                body = bytearray(stream.read())
        values = np.frombuffer(body, dtype).reshape(shape, order="F" if backwards else "C")
        return values.astype(dtype.newbyteorder("="), copy=False)

    def _check(self, where: str, shape: tuple[int, ...], dtype: np.dtype, left: int) -> None:
        if dtype.hasobject:
            raise RefusedDataError(
                f"{where} holds Python objects, which can run code when they are read; save an array of numbers, "
                "or of strings with dtype=str"
            )
        size = math.prod(shape) * dtype.itemsize
        try:
            self.limits.check_memory(where, size)
        except ValueError as error:
            raise RefusedDataError(str(error)) from error
        if size != left or min(shape, default=0) < 0 or dtype.names:
            raise DamagedDataError(f"{where} announces {shape} {dtype} in {left} bytes; {REMEDY}")


def _header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, whether the first axis varies fastest, and type."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise RefusedDataError(f"{where} is an array of records; save plain numbers")
