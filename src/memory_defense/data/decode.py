"""Bytes to arrays, without trust: every size is checked against what the dataset must have before it is read.

Nothing here unpickles, and nothing is ever unpacked to disk.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor

from memory_defense.data.spec import DatasetSpec

REMEDY = "delete it and fetch it again"
GZIP_MAGIC = b"\x1f\x8b"


class DamagedDataError(ValueError):
    """A file is there but is not what it should be."""


class RefusedDataError(ValueError):
    """A file is whole but is not to be read."""


_DECODERS_RAISE = (
    EOFError,
    OSError,
    RuntimeError,  # also RecursionError, and an encrypted or unknown member of a zip archive
    SyntaxError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class File(NamedTuple):
    """A file that was read."""

    where: str
    """Its path, for messages."""
    content: bytes


@dataclass(frozen=True)
class Arrays:
    """A decoded dataset, in the order of its source."""

    train_images: Tensor
    """(N, C, H, W) uint8."""
    train_labels: Tensor
    """(N,) uint8."""
    test_images: Tensor
    """(M, C, H, W) uint8."""
    test_labels: Tensor
    """(M,) uint8."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields by name, in their order."""
        return dict(vars(self))

    def sha256(self) -> str:
        """Return the SHA-256 of all bytes, in the order of the fields (0.2 s for CIFAR-10)."""
        digest = hashlib.sha256()
        for tensor in self.tensors().values():
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def verify(self, spec: DatasetSpec, where: str) -> Arrays:
        """Return the arrays; raise DamagedDataError unless they are the dataset, byte for byte."""
        pixels = (spec.channels, spec.size, spec.size)
        wanted = [
            (spec.train_images, *pixels),
            (spec.train_images,),
            (spec.test_images, *pixels),
            (spec.test_images,),
        ]
        for tensor, shape in zip(self.tensors().values(), wanted, strict=True):
            if tuple(tensor.shape) != shape or tensor.dtype != torch.uint8:
                raise DamagedDataError(
                    f"{where} holds {tensor.dtype} {tuple(tensor.shape)}, expected uint8 {shape}; {REMEDY}"
                )
        if (digest := self.sha256()) != spec.sha256:
            raise DamagedDataError(
                f"{where} is not {spec.name}: the SHA-256 of its images and labels is {digest}, "
                f"expected {spec.sha256}; {REMEDY}"
            )
        return self


@contextmanager
def damage(where: str, fault: str = "is damaged") -> Generator[None]:
    """Turn the decoders' errors into one error that names the file and the remedy."""
    try:
        yield
    except (DamagedDataError, RefusedDataError):
        raise
    except _DECODERS_RAISE as error:
        raise DamagedDataError(f"{where} {fault} ({error}); {REMEDY}") from error


def idx(file: File, shape: tuple[int, ...]) -> Tensor:
    """Return the uint8 array of an IDX file (LeCun et al. 1998), gzip-compressed or not.

    Its header must announce exactly `shape`, and exactly that many bytes must follow: no more is ever
    decompressed.
    """
    where, content = file
    packed = content[:2] == GZIP_MAGIC
    with damage(where), gzip.open(io.BytesIO(content)) if packed else io.BytesIO(content) as stream:
        magic, *sizes = struct.unpack(f">{1 + len(shape)}I", _exactly(stream, 4 + 4 * len(shape), where))
        if magic != 0x0800 + len(shape):
            raise DamagedDataError(
                f"{where} is not an IDX file of bytes with {len(shape)} axes: it starts with {magic:#x}; {REMEDY}"
            )
        if tuple(sizes) != shape:
            raise DamagedDataError(f"{where} announces shape {tuple(sizes)}, expected {shape}; {REMEDY}")
        body = _exactly(stream, int(np.prod(shape)), where)
        if stream.read(1):
            raise DamagedDataError(f"{where} is longer than its header says; {REMEDY}")
    return _tensor(np.frombuffer(body, np.uint8).reshape(shape))


def _exactly(stream: io.BufferedIOBase, count: int, where: str) -> bytes:
    body = stream.read(count)
    if len(body) != count:
        raise DamagedDataError(f"{where} ends early: {len(body)} bytes where {count} should be; {REMEDY}")
    return body


def records(file: File, count: int, spec: DatasetSpec) -> tuple[Tensor, Tensor]:
    """Return images (N, C, H, W) and labels (N,) of a binary CIFAR batch.

    One record for each image: the label's byte, then the pixels, channel after channel, row after row.
    """
    where, content = file
    pixels = spec.channels * spec.size * spec.size
    if len(content) != count * (1 + pixels):
        raise DamagedDataError(
            f"{where} has {len(content)} bytes, {count} images make {count * (1 + pixels)}; {REMEDY}"
        )
    table = np.frombuffer(content, np.uint8).reshape(count, 1 + pixels)
    images = table[:, 1:].reshape(count, spec.channels, spec.size, spec.size)
    return _tensor(images), _tensor(table[:, 0])


def picture(file: File, count: int, spec: DatasetSpec) -> Tensor:
    """Return images (N, C, H, W) of one RGB PNG in which every row of pixels is one image, row after row."""
    where, content = file
    with damage(where):
        # The class itself, not Image.open: that also guesses other formats, and its limit on pixels is global.
        image = PngImageFile(io.BytesIO(content))
        if image.size != (spec.size * spec.size, count) or image.mode != "RGB":
            raise DamagedDataError(
                f"{where} is {image.mode} with {image.size[0]} x {image.size[1]} pixels, "
                f"expected RGB with {spec.size * spec.size} x {count}; {REMEDY}"
            )
        table = np.asarray(image)
    return _tensor(table.reshape(count, spec.size, spec.size, 3).transpose(0, 3, 1, 2))  # (N, C, H, W)


def label_list(file: File, count: int, spec: DatasetSpec) -> Tensor:
    """Return labels (N,) of a JSON list of numbers."""
    where, content = file
    with damage(where):
        numbers: Any = json.loads(content)
        labels = cast("list[Any]", numbers) if isinstance(numbers, list) else []
        if len(labels) != count:
            raise DamagedDataError(f"{where} is not a list of {count} labels; {REMEDY}")
        if not all(type(label) is int and 0 <= label < len(spec.classes) for label in labels):
            raise DamagedDataError(f"{where} holds labels outside 0..{len(spec.classes) - 1}; {REMEDY}")
        return torch.tensor(labels, dtype=torch.uint8)


def _tensor(values: np.ndarray) -> Tensor:
    """Return a writable, contiguous copy."""
    return torch.from_numpy(np.array(values, order="C"))
