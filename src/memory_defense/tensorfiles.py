"""Tensors in safetensors files: nothing here can execute what it reads.

Equal tensors and metadata make equal bytes. A file carries the SHA-256 of all that is in it, so that one flipped
bit is refused; a file without one, from elsewhere or from before, is read as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open  # pyright: ignore[reportUnknownVariableType]
from safetensors.torch import save as serialised  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from memory_defense.files import check_tensor_file, is_pickle, pickle_refused, write_bytes

CHECKSUM = "memory_defense_sha256"
"""Entry of the metadata; readers do not see it."""

_METADATA = "__metadata__"
_LENGTH = 8
"""Bytes of the number that a safetensors file begins with: the length of its header, little-endian."""
_CHUNK = 1 << 24


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write tensors and string metadata atomically, on the CPU and contiguous, and return the checksum.

    The bytes are made in memory first: the library's own writer would leave a file of its own if it were killed,
    and writes metadata in another order each time. Raises what `files.atomic` raises.
    """
    pieces, checksum = laid_out(tensors, metadata)
    write_bytes(path, *pieces)
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


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return every tensor and the metadata of a safetensors file.

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
        tensors, metadata = _read(path)
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


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with cast(Any, safe_open)(path, framework="pt") as archive:
        names = cast("list[str]", list(archive.keys()))
        tensors = {name: cast("Tensor", archive.get_tensor(name)) for name in names}
        return tensors, cast("dict[str, str]", archive.metadata() or {})
