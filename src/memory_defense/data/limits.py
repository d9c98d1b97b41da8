"""The largest data that are read from users' files, and how images are resized."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from memory_defense.checks import check_at_least
from memory_defense.data.places import LARGEST_SIDE, SMALLEST_SIDE


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest data that are read; more is refused before it is decoded, with a message that names the limit.

    Raises
    ------
    ValueError
        For a limit below 1.
    """

    file_bytes: int = 16 << 20
    """Bytes of one image file."""
    file_pixels: int = 1 << 24
    """Pixels of one image file, before resizing."""
    images: int = 500_000
    """Images in one split."""
    classes: int = 1000
    """Classes of a dataset."""
    memory: int = 4 << 30
    """Bytes that the pixels of one split may take, and bytes of a file of arrays."""

    def __post_init__(self) -> None:
        check_at_least(1, **{f"limit {name}": value for name, value in vars(self).items()})

    def check_count(self, where: str, images: int) -> None:
        """Raise ValueError for no images or too many."""
        if images < 1:
            raise ValueError(f"{where} holds no images; put at least one there")
        if images > self.images:
            raise ValueError(
                f"{where} holds {images} images, at most {self.images} are read; use fewer, or raise Limits.images"
            )

    def check_memory(self, where: str, size: int) -> None:
        """Raise ValueError when so many bytes are too many."""
        if size > self.memory:
            raise ValueError(
                f"{where} takes {size} bytes, at most {self.memory} are read; use fewer or smaller images, "
                "or raise Limits.memory"
            )

    def check_classes(self, where: str, classes: int) -> None:
        """Raise ValueError unless there are at least two classes and not too many."""
        if classes < 2:
            raise ValueError(
                f"{where} has {classes} class{'es' * (classes != 1)}, but a classifier needs at least 2"
            )
        if classes > self.classes:
            raise ValueError(
                f"{where} has {classes} classes, at most {self.classes} are read; are the labels class numbers? "
                "If so, raise Limits.classes"
            )


def check_sides(where: str, height: int, width: int, size: int | None) -> None:
    """Raise ValueError unless an image is a square of allowed size, or large enough to be made one.

    `where` names the image in the message; `size` is the side it will be resized to, None if it is not resized.
    """
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(f"{where} is {width} x {height} pixels, but each side must have at least {SMALLEST_SIDE}")
    if size is None and (height != width or height > LARGEST_SIDE):
        what = f"at most {LARGEST_SIDE} pixels a side" if height == width else "square"
        raise ValueError(
            f"{where} is {width} x {height} pixels, but images must be {what}; resize them all with "
            f"size={min(height, width, LARGEST_SIDE)}, say"
        )


def fit(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return the largest centred square, resampled to `size` pixels a side; an image of that size stays as it is.

    Each channel is resampled by itself with Pillow's bilinear filter, which averages when it shrinks and never
    leaves the range of its input.

    Parameters
    ----------
    pixels
        (H, W) or (H, W, C), uint8 or float32.
    size
        Pixels a side of the result, (size, size) or (size, size, C), of the same type.
    """
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    if square.ndim == 2:
        return _resampled(square, size)
    return np.stack([_resampled(square[..., channel], size) for channel in range(square.shape[2])], axis=2)


def fit_all(images: Tensor, size: int) -> Tensor:
    """Return images (N, C, H, W), on the CPU, each resized by `fit`: (N, C, size, size) of the same type."""
    fitted = [fit(image, size) for image in images.permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2).contiguous()  # (N, C, H, W)


def _resampled(channel: np.ndarray, size: int) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(channel))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
