"""The largest data that are read from users' files, and how images are resized."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from memory_defense.checks import check_at_least
from memory_defense.data.places import LARGEST_SIDE, SMALLEST_SIDE

_USUAL_SIDE = 224
"""Pixels a side that most pretrained classifiers take."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """How messages name what a user may change, at the door where the user stands; empty where one cannot."""

    size: str = "size={}"
    """Resizes all images."""
    images: str = "images={}"
    """Reads so many images only."""
    limit: str = "raise Limits.{}"
    """Changes a field of `Limits`."""


TYPED = Words(size="--size {}", images="--images {}", limit="raise Limits.{} in a program, see docs/data.md")
"""For ``memdef evaluate`` of a classifier; `dataclasses.replace` takes away what another command has not."""


class TooLargeError(ValueError):
    """A picture has more bytes or pixels than are read."""


class OtherTypeError(ValueError):
    """A file is no picture of a type that is read."""


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
    """Bytes that the pixels of one split may take as they are read; 8-bit pixels take four times as many when a
    model is given them, as float32."""
    side: int = LARGEST_SIDE
    """Pixels a side of images that are not resized."""
    square: bool = False
    """Whether images that are not resized must be squares."""
    plain: bool = False
    """Whether only PNG, JPEG, BMP, PGM and PPM are decoded, for files of people one does not know."""
    words: Words = field(default_factory=Words)
    """How messages name the remedies."""

    def __post_init__(self) -> None:
        for name in ("file_bytes", "file_pixels", "images", "classes", "memory", "side"):
            check_at_least(1, **{f"limit {name}": getattr(self, name)})

    def raised(self, name: str) -> str:
        """Return the advice to raise a limit, behind another advice; empty where one cannot."""
        return f", or {self.words.limit.format(name)}" if self.words.limit else ""

    def check_count(self, where: str, images: int) -> None:
        """Raise ValueError for no images or too many."""
        if images < 1:
            raise ValueError(f"{where} holds no images; put at least one there")
        if images > self.images:
            few = f" ({self.words.images.format(self.images)})" if self.words.images else ""
            raise ValueError(
                f"{where} holds {images} images, at most {self.images} are read; use fewer{few}"
                f"{self.raised('images')}"
            )

    def check_memory(self, where: str, size: int, images: int | None = None) -> None:
        """Raise ValueError when so many bytes are too many; `images` share them, if fewer can be asked for."""
        if size > self.memory:
            fit = 0 if images is None else self.memory * images // size
            few = f" ({self.words.images.format(fit)}, say)" if fit and self.words.images else ""
            raise ValueError(
                f"{where} takes {size} bytes, at most {self.memory} are read; use fewer{few} or smaller images"
                f"{self.raised('memory')}"
            )

    def check_classes(self, where: str, classes: int) -> None:
        """Raise ValueError unless there are at least two classes and not too many."""
        if classes < 2:
            raise ValueError(
                f"{where} has {classes} class{'es' * (classes != 1)}, but a classifier needs at least 2; "
                "add the other classes, without images where there are none"
            )
        if classes > self.classes:
            remedy = f"If so, {self.words.limit.format('classes')}" if self.words.limit else "If not, number them"
            raise ValueError(
                f"{where} has {classes} classes, at most {self.classes} are read; are the labels class numbers? "
                f"{remedy}"
            )


def check_sides(where: str, height: int, width: int, size: int | None, limits: Limits | None = None) -> None:
    """Raise ValueError unless an image is of allowed size, or large enough to be made a square of `size`.

    Parameters
    ----------
    where
        Name of the image in the message.
    height, width
        As decoded.
    size
        Pixels a side that it will be resized to; None if it is not resized.
    limits
        `side` and `square` bound what is not resized; None takes the defaults.
    """
    bounds = limits or Limits()
    shape = f"{where} is {width} x {height} pixels"
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"{shape}, but each side must have at least {SMALLEST_SIDE}; remove it, or enlarge it to what the "
            "model takes"
        )
    if size is not None:
        return
    if bounds.square and height != width:
        raise ValueError(f"{shape}, but images must be square; {resized(bounds, min(height, width))}")
    if max(height, width) > bounds.side:
        raise ValueError(
            f"{shape}, but images must be at most {bounds.side} pixels a side; {resized(bounds, _USUAL_SIDE)}"
        )


def resized(limits: Limits, size: int) -> str:
    """Return the advice to resize all images, with a size that is allowed."""
    size = min(size, limits.side)
    how = f" with {limits.words.size.format(size)}, say" if limits.words.size else " before they are read"
    return f"resize them all to the pixels that the model takes{how}"


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


def _resampled(channel: np.ndarray, size: int) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(channel))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
