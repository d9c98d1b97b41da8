"""Pictures of any size and colour, converted one by one to a model's images; a damaged one is reported alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from memory_defense.checks import check_images
from memory_defense.data.image_files import SUFFIXES, read_image
from memory_defense.data.limits import Limits, check_sides, fit
from memory_defense.data.npz import Npz

ARRAYS = "images"
"""The array of a ``.npz`` that is read: (N, H, W), (N, C, H, W) or (N, H, W, C), uint8 or float in [0, 1]."""


@dataclass(frozen=True)
class Picture:
    """One picture as the model reads it."""

    name: str
    """Its file, and for an array its number: ``digits.npz[3]``."""
    pixels: Tensor
    """(C, H, W) float32 in [0, 1]."""
    changes: tuple[str, ...]
    """The changes that were needed, such as ``resized from 64 x 48``."""


@dataclass(frozen=True)
class Unreadable:
    """A file that gave no picture, and why."""

    name: str
    reason: str


def pictures(
    paths: Sequence[Path], *, channels: int, size: int, limits: Limits | None = None
) -> Iterator[Picture | Unreadable]:
    """Yield the pictures of files, folders and ``.npz`` files, in the order given; folders sorted by name.

    A picture of another size is cut to its largest centred square and resampled (`limits.fit`). Where the model
    reads grey, colour becomes luma (ITU-R 601); where it reads colour, grey is repeated. Of a folder, every image
    file in it and below is read; hidden files, other kinds of files and links out of it are not.

    Parameters
    ----------
    paths
        Nothing is raised for any of them: what cannot be read is yielded as `Unreadable`.
    channels, size
        C, 1 or 3, and H = W of the model's images.
    limits
        Largest files that are decoded.
    """
    bounds = limits or Limits()
    for path in paths:
        for file in _files(path):
            try:
                if isinstance(file, Unreadable):
                    yield file
                elif file.suffix.lower() == ".npz":
                    yield from _of_arrays(file, channels, size, bounds)
                else:
                    yield _picture(str(file), read_image(file, bounds), channels, size)
            except (OSError, ValueError) as error:
                yield Unreadable(str(file), str(error))


def _files(path: Path) -> list[Path | Unreadable]:
    """Return the file itself, or the image files of a folder."""
    if not path.is_dir():
        return [path]
    root = os.path.realpath(path)
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.is_file()
        and Path(os.path.realpath(file)).is_relative_to(root)
    ]
    return [*found] or [Unreadable(str(path), f"the folder holds no {', '.join(SUFFIXES)} file")]


def _of_arrays(path: Path, channels: int, size: int, limits: Limits) -> Iterator[Picture | Unreadable]:
    archive = Npz(path, limits)
    if ARRAYS not in archive.names:
        held = ", ".join(archive.names) or "nothing"
        raise ValueError(f"{path} holds {held}, but no array named {ARRAYS!r}; save it with numpy.savez")
    images = archive.read(ARRAYS)
    limits.check_count(str(path), len(images) if images.ndim else 0)
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)  # (N, H, W, C)
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise ValueError(
            f"{path}: {ARRAYS} has shape {images.shape}, expected (N, H, W), (N, C, H, W) or (N, H, W, C), C 1 or 3"
        )
    for number, image in enumerate(images):
        name = f"{path}[{number}]"
        try:
            yield _picture(
                name, image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image, channels, size
            )
        except ValueError as error:
            yield Unreadable(name, str(error))


def _picture(name: str, pixels: np.ndarray, channels: int, size: int) -> Picture:
    """Return pixels (H, W) or (H, W, 3), uint8 or float in [0, 1], as the model reads them."""
    height, width = pixels.shape[:2]
    check_sides(name, height, width, size)
    if pixels.dtype != np.uint8:
        pixels = _checked(name, pixels)
    changes: list[str] = []
    if pixels.ndim == 3 and channels == 1:
        pixels = _grey(pixels)
        changes.append("colour made grey")
    if (height, width) != (size, size):
        cut = "" if height == width else ", the sides cut off"
        changes.append(f"resized from {width} x {height} to {size} x {size}{cut}")
        pixels = fit(np.ascontiguousarray(pixels), size)
    values = torch.from_numpy(np.array(pixels))
    planes = values[None].expand(channels, -1, -1) if values.dim() == 2 else values.permute(2, 0, 1)  # (C, H, W)
    if pixels.ndim == 2 and channels == 3:
        changes.append("grey made colour")
    scaled = planes.float() / 255 if planes.dtype == torch.uint8 else planes.float()
    return Picture(name, scaled.contiguous(), tuple(changes))


def _checked(name: str, pixels: np.ndarray) -> np.ndarray:
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"{name} is {pixels.dtype}, expected uint8 grey levels or float pixels in [0, 1]")
    pixels = pixels.astype(np.float32)
    try:
        check_images(torch.from_numpy(pixels).reshape(1, 1, *pixels.shape[:1], -1))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return pixels.clip(0, 1)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Return the luma (H, W) of colour (H, W, 3), of the same type."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
    return (pixels @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.float32)
