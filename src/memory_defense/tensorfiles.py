"""Tensors in safetensors files: nothing here can execute what it reads.

Equal tensors and metadata make equal bytes. A file carries the SHA-256 of all that is in it, so that one flipped
bit is refused; a file without one, from elsewhere or from before, is read as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open  # pyright: ignore[reportUnknownVariableType]
from safetensors.torch import load as deserialised  # pyright: ignore[reportUnknownVariableType]
from safetensors.torch import save as serialised  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from memory_defense.files import append_bytes, atomic, check_tensor_file, is_pickle, pickle_refused, write_bytes

CHECKSUM = "memory_defense_sha256"
"""Entry of the metadata; readers do not see it."""

_METADATA = "__metadata__"
_LENGTH = 8
"""Bytes of the number that a safetensors file begins with: the length of its header, little-endian."""
_CHUNK = 1 << 24
_MOST_STREAMED = 10**18
"""More bytes than any file has; room for their number is kept in a header that is written last."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write tensors and string metadata atomically, on the CPU and contiguous, and return the checksum.

    The bytes are made in memory first: the library's own writer would leave a file of its own if it were killed,
    and writes metadata in another order each time. Raises what `files.atomic` raises.
    """
    pieces, checksum = laid_out(tensors, metadata)
    write_bytes(path, *pieces)
    return checksum


def write_streamed(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    name: str,
    blocks: Iterable[bytes],
) -> str:
    """Write what `write_tensors` does, and bytes as one more tensor, uint8, without having them all at once.

    Parameters
    ----------
    path, tensors, metadata
        As in `write_tensors`.
    name
        Of the bytes.
    blocks
        The bytes, piece after piece; they are made while they are written.
    """
    content = memoryview(serialised({key: one.detach().to("cpu").contiguous() for key, one in tensors.items()}))
    start = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    entries, said = json.loads(bytes(content[_LENGTH:start])), dict(sorted(metadata.items()))
    first = len(content) - start

    def header(size: int, checksum: str) -> bytes:
        entries[name] = {"dtype": "U8", "shape": [size], "data_offsets": [first, first + size]}
        return json.dumps({_METADATA: {**said, CHECKSUM: checksum}, **entries}, separators=(",", ":")).encode()

    room = len(header(_MOST_STREAMED, "0" * 64))
    room += -room % _LENGTH
    body, size = hashlib.sha256(content[start:]), 0
    with atomic(path) as temporary:
        handle = os.open(temporary, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            at = append_bytes(path, handle, 0, bytes(_LENGTH + room), content[start:])
            for block in blocks:
                body.update(block)
                at, size = append_bytes(path, handle, at, block), size + len(block)
            header(size, "")
            checksum = _checksum(entries, said, body.digest())
            found = header(size, checksum)
            append_bytes(path, handle, 0, room.to_bytes(_LENGTH, "little"), found + b" " * (room - len(found)))
        finally:
            os.close(handle)
    return checksum


def laid_out(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> tuple[tuple[bytes, memoryview], str]:
    """Return the bytes of such a file, in two pieces, and their checksum."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    content = memoryview(serialised(plain))
    start = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    entries = json.loads(bytes(content[_LENGTH:start]))
    said = dict(sorted((metadata or {}).items()))
    checksum = _checksum(entries, said, hashlib.sha256(content[start:]).digest())
    header = json.dumps({_METADATA: {**said, CHECKSUM: checksum}, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _LENGTH)
    return (len(header).to_bytes(_LENGTH, "little") + header, content[start:]), checksum


def read_tensors(
    path: Path, wanted: Callable[[str], bool] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Parameters
    ----------
    path
        The file.
    wanted
        Whether a tensor is read, by its name; None reads all of them. Of others `bytes_of` reads parts. The
        checksum is of the whole file either way.

    Raises
    ------
    ValueError
        If the file is missing, truncated, changed since it was written, a pickle, a web page, or anything but
        safetensors.
    """
    check_tensor_file(path)
    if is_pickle(path):
        raise pickle_refused(path)
    with path.open("rb") as source:
        start = source.read(9)
    if start.lstrip().startswith(b"<"):
        raise ValueError(f"{path} is a web page, not weights; download the file again")
    try:
        tensors, metadata = _read(path, wanted)
        said = metadata.pop(CHECKSUM, None)
        found = said if said is None else _checksum_of(path)
    except (SafetensorError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); write or download it again") from error
    if found != said:
        raise ValueError(
            f"{path} is damaged: its content is not what its checksum says; restore it, or remove it and make it "
            "again"
        )
    return tensors, metadata


def parsed(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return every tensor and the metadata of what `laid_out` returned.

    Raises
    ------
    ValueError
        If it is anything else, or was changed since.
    """
    try:
        start = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
        entries = json.loads(content[_LENGTH:start])
        metadata = cast("dict[str, str]", entries.pop(_METADATA))
        said = metadata.pop(CHECKSUM)
        found = _checksum(entries, metadata, hashlib.sha256(memoryview(content)[start:]).digest())
        if found != said:
            raise ValueError("its content is not what its checksum says")
        return deserialised(content), metadata
    except (SafetensorError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"no whole tensors ({error})") from error


def place_of(header: bytes, name: str) -> tuple[int, int]:
    """Return where the bytes of one tensor begin and end, from the beginning of a file of this kind.

    Parameters
    ----------
    header
        The file's first bytes, up to the end of its header at least.
    name
        Of the tensor; KeyError without one.
    """
    start = _LENGTH + int.from_bytes(header[:_LENGTH], "little")
    first, last = json.loads(header[_LENGTH:start])[name]["data_offsets"]
    return start + first, start + last


def place_in(path: Path, name: str) -> tuple[int, int]:
    """Return where the bytes of one tensor of a file begin and end; raise KeyError without one of the name."""
    with path.open("rb") as source:
        length = source.read(_LENGTH)
        return place_of(length + source.read(int.from_bytes(length, "little")), name)


def bytes_of(path: Path, start: int, stop: int) -> bytes:
    """Return the bytes of a file from `start` up to `stop`; raise ValueError where it has fewer."""
    with path.open("rb") as source:
        source.seek(start)
        found = source.read(stop - start)
    if len(found) != stop - start:
        raise ValueError(f"{path} has become shorter since it was read; restore it, or make it again")
    return found


def checksum_of(path: Path) -> str:
    """Return the checksum that a file carries, or "" where it has none, whether or not its content agrees."""
    with cast(Any, safe_open)(path, framework="pt") as archive:
        return cast("dict[str, str]", archive.metadata() or {}).get(CHECKSUM, "")


def content_sha256(tensors: Iterable[Tensor], also: str = "") -> str:
    """Return the SHA-256 of some text and of what is in these tensors, in this order."""
    found = hashlib.sha256(also.encode())
    for tensor in tensors:
        plain = cast(Any, tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        found.update(plain)
    return found.hexdigest()


def _checksum(entries: Mapping[str, object], metadata: Mapping[str, str], body: bytes) -> str:
    """Return the SHA-256 of a file's header, its own entry left out, and of the digest of what is behind it."""
    plain = json.dumps([entries, metadata], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode() + body).hexdigest()


def _checksum_of(path: Path) -> str:
    body = hashlib.sha256()
    with path.open("rb") as source:
        entries = json.loads(source.read(int.from_bytes(source.read(_LENGTH), "little")))
        while chunk := source.read(_CHUNK):
            body.update(chunk)
    metadata = entries.pop(_METADATA)
    metadata.pop(CHECKSUM)
    return _checksum(entries, metadata, body.digest())


def _read(path: Path, wanted: Callable[[str], bool] | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    with cast(Any, safe_open)(path, framework="pt") as archive:
        names = [name for name in cast("list[str]", list(archive.keys())) if wanted is None or wanted(name)]
        tensors = {name: cast("Tensor", archive.get_tensor(name)) for name in names}
        return tensors, cast("dict[str, str]", archive.metadata() or {})
