"""Pictures of any size and colour, converted one by one to a model's images; a damaged one is reported alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from memory_defense.checks import check_images
from memory_defense.data.array_pixels import BLOCK_BYTES
from memory_defense.data.geometry import Geometry, framed
from memory_defense.data.image_files import decode_image
from memory_defense.data.leftovers import is_leftover, listed
from memory_defense.data.limits import Limits, check_sides, fit
from memory_defense.data.npz import Npz
from memory_defense.data.places import SUFFIXES
from memory_defense.tensorfiles import read_tensors

_USUAL = (".png", ".jpg")
ARRAYS = "images"
"""The array of a file that is read: (N, H, W), (N, C, H, W) or (N, H, W, C), uint8 or float in [0, 1]."""


@dataclass(frozen=True)
class Picture:
    """One picture as the model reads it."""

    name: str
    """Its file, and for an array its number: ``digits.npz[3]``."""
    pixels: Tensor
    """(C, H, W) float32 in [0, 1]."""
    changes: tuple[str, ...]
    """The changes that were needed, such as ``resized from 64 x 48``."""


class _Model(NamedTuple):
    """What the model takes."""

    channels: int
    size: int | None
    geometry: Geometry | None


@dataclass(frozen=True)
class Unreadable:
    """A file that gave no picture, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class LeftOut:
    """Files and folders that nobody means by the folder that holds them."""

    name: str
    """The folder."""
    reason: str


def pictures(
    paths: Sequence[Path],
    *,
    channels: int,
    size: int | None,
    limits: Limits | None = None,
    geometry: Geometry | None = None,
) -> Iterator[Picture | Unreadable | LeftOut]:
    """Yield the pictures of files, folders and files of arrays, in the order given; folders sorted by name.

    A picture of another size is cut to its largest centred square and resampled (`limits.fit`). Where the model
    reads grey, colour becomes luma (ITU-R 601); where it reads colour, grey is repeated. Of a folder, every file in
    it and below has its turn, whatever its kind, but for those that are hidden or left behind by a system
    (`leftovers`): these are counted in one `LeftOut`. The folder is listed before its first picture is read.

    Parameters
    ----------
    paths
        Nothing is raised for any of them: what cannot be read is yielded as `Unreadable`.
    channels
        C of the model's images, 1 or 3.
    size
        H = W of the model's images; None leaves them as they are, or as `geometry` makes them.
    limits
        Largest files that are decoded.
    geometry
        In place of the largest centred square: how the model's own images were brought to size. What is of another
        size afterwards is `Unreadable`.
    """
    bounds, model = limits or Limits(), _Model(channels, size, geometry)
    for path in paths:
        for file in _files(path):
            try:
                if not isinstance(file, Path):
                    yield file
                elif file.suffix.lower() in SUFFIXES:
                    yield from _of_arrays(file, model, bounds)
                else:
                    pixels, turned, _ = decode_image(file, bounds)
                    yield _picture(str(file), pixels, model, turned=turned)
            except (OSError, ValueError) as error:
                yield Unreadable(str(file), _reason(file, error))


def _reason(file: Path | Unreadable | LeftOut, error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{file} is not there, or no longer ({error.strerror}); name one that is"
    if isinstance(error, OSError):
        return (
            f"{file} cannot be read ({error.strerror or error}); make it readable with chmod u+r, or copy it again"
        )
    return str(error)


def _files(path: Path) -> Sequence[Path | Unreadable | LeftOut]:
    """Return the file itself, or all files of a folder."""
    if not path.is_dir():
        odd = path.exists() and not path.is_file()
        return [Unreadable(str(path), f"{path} is not a regular file; name a file") if odd else path]
    root, found, left = os.path.realpath(path), list[Path | Unreadable](), list[str]()

    def failed(error: OSError) -> None:
        found.append(Unreadable(str(error.filename), _reason(Path(error.filename), error)))

    for home, folders, files in os.walk(path, onerror=failed):
        for name in [*folders, *files]:
            one = Path(home, name)
            if is_leftover(name):
                left.append(str(one.relative_to(path)))
            elif name in files or one.is_symlink():
                found.append(_entry(one, root))
        folders[:] = [name for name in folders if not is_leftover(name)]
    found.sort(key=lambda one: one if isinstance(one, Path) else Path(one.name))
    if not found:
        found.append(
            Unreadable(str(path), f"the folder holds no file; put one there, such as a {' or '.join(_USUAL)}")
        )
    if not left:
        return found
    several = f"{len(left):,} hidden or system files and folders" if len(left) > 1 else "1 hidden or system file"
    return [*found, LeftOut(str(path), f"{several} left out in {path}: {listed(sorted(left))}")]


def _entry(file: Path, root: str) -> Path | Unreadable:
    """Return a file of a folder, or why it is none: a link out of the folder, to a folder, to nothing; a pipe."""
    if file.is_symlink() and not Path(target := os.path.realpath(file)).is_relative_to(root):
        return Unreadable(str(file), f"{file} is a link out of {root}, to {target}; copy what it leads to instead")
    if file.is_dir():
        return Unreadable(str(file), f"{file} is a link to a folder; remove it, or name that folder too")
    if not file.exists():
        return Unreadable(str(file), f"{file} is a link to nothing; remove it")
    return file if file.is_file() else Unreadable(str(file), f"{file} is not a file of pixels; remove it")


def _of_arrays(path: Path, model: _Model, limits: Limits) -> Iterator[Picture | Unreadable]:
    shape, blocks = _images_in(path, limits)
    limits.check_count(str(path), shape[0] if shape else 0)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[1] not in (1, 3) and shape[3] not in (1, 3)):
        raise ValueError(
            f"{path}: {ARRAYS} has shape {shape}, expected (N, H, W), (N, C, H, W) or (N, H, W, C), C 1 or 3"
        )
    first = len(shape) == 4 and shape[3] not in (1, 3)
    for number, image in enumerate(one for block in blocks for one in block):
        name, pixels = f"{path}[{number}]", image.transpose(1, 2, 0) if first else image  # (H, W, C)
        try:
            yield _picture(name, pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels, model)
        except ValueError as error:
            yield Unreadable(name, str(error))


def _images_in(path: Path, limits: Limits) -> tuple[tuple[int, ...], Iterator[np.ndarray]]:
    """Return the shape of the array of images in a file, and the array, a block at a time."""
    if path.suffix.lower() == ".npz":
        archive = Npz(path, limits)
        if ARRAYS in archive.names:
            return archive.shape(ARRAYS), archive.blocks(ARRAYS, BLOCK_BYTES)
        held = archive.names
    else:
        tensors, _ = read_tensors(path)  # mapped: what is not looked at is not read
        if ARRAYS in tensors:
            images = tensors[ARRAYS]
            blocks = torch.split(images, max(1, BLOCK_BYTES // max(1, images[:1].nbytes))) if images.dim() else ()
            plain = ((one.float() if one.is_floating_point() else one).numpy() for one in blocks)
            return tuple(images.shape), plain
        held = tuple(tensors)
    raise ValueError(
        f"{path} holds {', '.join(held) or 'nothing'}, but no array named {ARRAYS!r}; save it under that name"
    )


def _picture(name: str, pixels: np.ndarray, model: _Model, *, turned: bool = False) -> Picture:
    """Return pixels (H, W) or (H, W, 3), uint8 or float in [0, 1], as the model reads them."""
    (height, width), (channels, size, geometry) = pixels.shape[:2], model
    check_sides(name, height, width, size)
    if pixels.dtype != np.uint8:
        pixels = _checked(name, pixels)
    changes = ["turned as its EXIF orientation says"] if turned else []
    if pixels.ndim == 3 and channels == 1:
        pixels = _grey(pixels)
        changes.append("colour made grey")
    if geometry is not None:
        pixels, before = framed(name, np.ascontiguousarray(pixels), geometry, Limits()), pixels
        tall, wide = pixels.shape[:2]
        if size is not None and (tall, wide) != (size, size):
            raise ValueError(
                f"{name} is {wide} x {tall} pixels by {geometry}, and the model takes {size} x {size}; give "
                f"--geometry resize=N,crop={size}"
            )
        if not np.array_equal(before, pixels):
            changes.append(f"brought from {width} x {height} to {wide} x {tall} by {geometry}")
    elif size is not None and (height, width) != (size, size):
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
