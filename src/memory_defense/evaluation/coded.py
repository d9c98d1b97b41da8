"""A broken image as what changed: bit for bit the same image again, given the clean one.

Attacks in an L-inf ball leave most pixels at its walls: the clean pixel plus or minus epsilon, clamped to [0, 1].
So each pixel gets one of four marks (clean, lower wall, upper wall, other), and what is other gets the difference
of its bits to the clean pixel's. Both are deflated. Floats at a wall are computed as `threat.Linf.walls` does and
compared by their bits, so nothing depends on whether they are right: what is not met is "other".

A clean image is coded by its grey levels where it has them (`coded_clean`), so that a file of broken images can be
read without the dataset.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray

from memory_defense.contracts import Images
from memory_defense.evaluation.pixels import LEVELS

_HEAD = struct.Struct("<IIIf")
"""CRC-32 of the decoded image's bytes, bytes of the marks, bytes of the rest, and epsilon."""
_CLEAN_HEAD = struct.Struct("<IB")
"""Bytes that follow, and whether they are grey levels."""
_QUICK = 1
"""Deflate's level; higher ones take several times as long for a few per cent."""
_LOWER, _UPPER, _OTHER = 1, 2, 3

Floats: TypeAlias = NDArray[np.float32]
Bits: TypeAlias = NDArray[np.int32]


def coded(images: Images, clean: Images, epsilon: float) -> list[bytes]:
    """Return each image (n, C, H, W) as what changed of its clean one; `epsilon` is that of the attack's ball."""
    both = (one.detach().cpu().contiguous().numpy() for one in (images, clean))
    return [_coded(image.ravel(), other.ravel(), epsilon) for image, other in zip(*both, strict=True)]


def _coded(image: Floats, clean: Floats, epsilon: float) -> bytes:
    bits, before, epsilon = image.view(np.int32), clean.view(np.int32), float(np.float32(epsilon))
    marks = np.full(len(image), _OTHER, np.uint8)
    lower, upper = _walls(clean, epsilon)
    marks[bits == upper] = _UPPER
    marks[bits == lower] = _LOWER
    marks[bits == before] = 0
    other = marks == _OTHER
    rest = zlib.compress(_planes(bits[other] - before[other]), _QUICK)
    marked = zlib.compress(_packed(marks), _QUICK)
    return _HEAD.pack(zlib.crc32(image.tobytes()), len(marked), len(rest), epsilon) + marked + rest


def decoded(content: bytes, clean: Images) -> Images:
    """Return the image (C, H, W) that `coded` was given, on the CPU; raise ValueError where it is damaged.

    Parameters
    ----------
    content
        What `coded` returned.
    clean
        (C, H, W), the clean image; another one is noticed by the image's CRC.
    """
    before = cast("Floats", clean.detach().cpu().contiguous().numpy()).ravel()
    if len(content) < _HEAD.size:
        raise ValueError("a broken image is cut off")
    crc, marked, rest, epsilon = _HEAD.unpack_from(content)
    if len(content) != _HEAD.size + marked + rest:
        raise ValueError("a broken image is cut off")
    marks = _unpacked(_inflated(content[_HEAD.size : _HEAD.size + marked], -(-len(before) // 4)), len(before))
    other = marks == _OTHER
    count = int(other.sum())
    bits = before.view(np.int32).copy()
    lower, upper = _walls(before, epsilon)
    bits[marks == _LOWER], bits[marks == _UPPER] = lower[marks == _LOWER], upper[marks == _UPPER]
    bits[other] += _unplaned(_inflated(content[_HEAD.size + marked :], 4 * count), count)
    if zlib.crc32(bits.tobytes()) != crc:
        raise ValueError("a broken image is damaged, or belongs to another clean image")
    return torch.from_numpy(bits.view(np.float32)).view(clean.shape)  # (C, H, W)


def coded_clean(clean: Images) -> bytes:
    """Return a clean image (C, H, W) so that `decoded_clean` gives it back bit for bit, its length first."""
    pixels = cast("Floats", clean.detach().cpu().contiguous().numpy())
    levels = np.clip(np.rint(pixels * np.float32(LEVELS)), 0, LEVELS).astype(np.uint8)
    grey = bool((_from_levels(levels).view(np.int32) == pixels.view(np.int32)).all())
    if grey:
        steps = np.diff(levels, axis=2, prepend=np.uint8(0))  # (C, H, W), modulo 256: neighbours are alike
        packed = zlib.compress(steps.tobytes(), _QUICK)
    else:
        packed = zlib.compress(_planes(pixels.ravel().view(np.int32)), _QUICK)
    return _CLEAN_HEAD.pack(len(packed), grey) + packed


def decoded_clean(content: bytes, shape: tuple[int, ...]) -> tuple[Images, int]:
    """Return the clean image (C, H, W) that some bytes begin with, and how many of them it took."""
    if len(content) < _CLEAN_HEAD.size:
        raise ValueError("a broken image is cut off")
    length, grey = _CLEAN_HEAD.unpack_from(content)
    end, count = _CLEAN_HEAD.size + length, int(np.prod(shape))
    packed = content[_CLEAN_HEAD.size : end]
    if grey:
        steps = np.frombuffer(_inflated(packed, count), np.uint8).reshape(shape)
        pixels = _from_levels(np.cumsum(steps, axis=2, dtype=np.uint8))
    else:
        pixels = _unplaned(_inflated(packed, 4 * count), count).view(np.float32).reshape(shape)
    return torch.from_numpy(pixels.copy()), end


def _from_levels(levels: NDArray[np.uint8]) -> Floats:
    return torch.from_numpy(levels).float().div_(LEVELS).numpy()


def _walls(clean: Floats, epsilon: float) -> tuple[Bits, Bits]:
    """Return the bits of the lowest and the highest pixels inside an L-inf ball."""
    centre = torch.from_numpy(clean)
    walls = (centre - epsilon).clamp_(min=0), (centre + epsilon).clamp_(max=1)
    return cast("tuple[Bits, Bits]", tuple(one.numpy().view(np.int32) for one in walls))


def _packed(marks: NDArray[np.uint8]) -> bytes:
    """Return marks of two bits, four in a byte."""
    four = np.concatenate([marks, np.zeros(-len(marks) % 4, np.uint8)]).reshape(-1, 4)
    return (four[:, 0] | four[:, 1] << 2 | four[:, 2] << 4 | four[:, 3] << 6).astype(np.uint8).tobytes()


def _unpacked(content: bytes, count: int) -> NDArray[np.uint8]:
    packed = np.frombuffer(content, np.uint8)
    return np.stack([packed >> np.uint8(shift) & np.uint8(3) for shift in (0, 2, 4, 6)], 1).ravel()[:count]


def _planes(bits: Bits) -> bytes:
    """Return the lowest bytes of all numbers, then the next ones: those that are alike lie together."""
    return np.ascontiguousarray(bits.astype("<i4").view(np.uint8).reshape(-1, 4).T).tobytes()


def _unplaned(content: bytes, count: int) -> Bits:
    planes: NDArray[Any] = np.frombuffer(content, np.uint8).reshape(4, count)
    return np.ascontiguousarray(planes.T).view("<i4").ravel().astype(np.int32)


def _inflated(content: bytes, size: int) -> bytes:
    """Return what was deflated; raise ValueError unless it is exactly so many bytes, without making more."""
    inflating = zlib.decompressobj()
    try:
        found = inflating.decompress(content, size + 1)
    except zlib.error as error:
        raise ValueError(f"a broken image is damaged ({error})") from error
    if len(found) != size:
        raise ValueError(f"a broken image is damaged: {len(found)} bytes, not {size}")
    return found
