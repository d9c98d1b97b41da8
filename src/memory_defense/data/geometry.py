"""How images are brought to the pixels that a model takes: shorter side, centre crop, interpolation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from memory_defense.data.limits import Limits, check_sides, fit
from memory_defense.data.places import LARGEST_SIDE, SMALLEST_SIDE
from memory_defense.names import check_name

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Pillow's filters by the names that people write; all but `nearest` average when they shrink."""
_EXAMPLE = "resize=256,crop=224,interpolation=bicubic"


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Resizing, then a centre crop; an image that needs neither keeps its pixels bit by bit.

    Raises
    ------
    ValueError
        For a side outside 4 to 1024 pixels, or an unknown interpolation.
    """

    resize: int | tuple[int, int] | None = None
    """Pixels of the shorter side, the aspect kept (the longer one rounded down); or (height, width), the aspect
    given up; None leaves the size."""
    crop: tuple[int, int] | None = None
    """Height and width of the centred cut; None keeps everything."""
    interpolation: str = "bilinear"
    """A key of `INTERPOLATIONS`."""

    def __post_init__(self) -> None:
        check_name(self.interpolation, INTERPOLATIONS, "interpolation")
        sides = (self.resize,) if isinstance(self.resize, int) else self.resize or ()
        for side in (*sides, *(self.crop or ())):
            if not SMALLEST_SIDE <= side <= LARGEST_SIDE:
                raise ValueError(
                    f"images are resized and cropped to {SMALLEST_SIDE} to {LARGEST_SIDE} pixels a side, not "
                    f"{side}; write {_EXAMPLE}, say"
                )

    def __str__(self) -> str:
        """Return what `parse` reads."""
        parts = [] if self.resize is None else [f"resize={_written(self.resize)}"]
        if self.crop is not None:
            parts.append(f"crop={_written(self.crop)}")
        return ",".join([*parts, f"interpolation={self.interpolation}"])

    @classmethod
    def parse(cls, text: str) -> Geometry:
        """Return the geometry of a line such as ``resize=256,crop=224,interpolation=bicubic``.

        A crop of one number is a square; ``resize=256`` is the shorter side, ``resize=224x320`` height and width.

        Raises
        ------
        ValueError
            For a part that is not ``name=value``, an unknown or repeated name, or a value that is no size.
        """
        given: dict[str, str] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or name not in ("resize", "crop", "interpolation") or name in given:
                raise ValueError(
                    f"{text!r} does not say how images are resized, at {part!r}; write {_EXAMPLE}, say"
                )
            given[name] = value
        resize = _sides(text, given["resize"]) if "resize" in given else None
        crop = _sides(text, given["crop"]) if "crop" in given else None
        return cls(
            resize=resize,
            crop=(crop, crop) if isinstance(crop, int) else crop,
            interpolation=given.get("interpolation", "bilinear"),
        )

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that an image of (height, width) gets.

        Raises
        ------
        ValueError
            If the crop is larger than the resized image.
        """
        resized = self._resized(height, width)
        if self.crop is None:
            return resized
        if self.crop[0] > resized[0] or self.crop[1] > resized[1]:
            raise ValueError(
                f"an image of {width} x {height} pixels is {resized[1]} x {resized[0]} where {_written(self.crop)} "
                "(height x width) are to be cut out; resize to at least the crop"
            )
        return self.crop

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Return an image resized and cropped.

        Parameters
        ----------
        pixels
            (H, W) or (H, W, C), uint8 or float32; values of float32 stay in the range that the image has.

        Returns
        -------
        (h, w) or (h, w, C) with the sides of `size_of`, of the same type.

        Raises
        ------
        ValueError
            If the crop is larger than the resized image.
        """
        height, width = self.size_of(*pixels.shape[:2])
        sides = self._resized(*pixels.shape[:2])
        if sides != pixels.shape[:2]:
            pixels = _resampled(pixels, sides, INTERPOLATIONS[self.interpolation])
        top, left = (sides[0] - height) // 2, (sides[1] - width) // 2
        return np.ascontiguousarray(pixels[top : top + height, left : left + width])

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.resize is None:
            return height, width
        if not isinstance(self.resize, int):
            return self.resize
        shorter = min(height, width)
        return self.resize * height // shorter, self.resize * width // shorter


Framing = int | Geometry | None
"""How images are brought to a model's pixels: the largest centred square at so many pixels a side (`limits.fit`), a
geometry, or as they are."""


def framing_of(size: int | None, geometry: Geometry | str | None) -> Framing:
    """Return the one of both that is given; raise ValueError for both, or a text that is no geometry."""
    if size is not None and geometry is not None:
        raise ValueError(f"size is {size} and geometry {str(geometry)!r}, which are two ways to resize; give one")
    return Geometry.parse(geometry) if isinstance(geometry, str) else geometry if size is None else size


def framing_text(how: Framing) -> str:
    """Return it as it is written by the user and in records: ``size=224``, a geometry's line, or nothing."""
    return "" if how is None else f"size={how}" if isinstance(how, int) else str(how)


def framed_size(where: str, height: int, width: int, how: Framing, limits: Limits) -> tuple[int, int]:
    """Return the (height, width) that `framed` gives an image of (height, width); raise ValueError as it does."""
    if not isinstance(how, Geometry):
        check_sides(where, height, width, how, limits)
        return (height, width) if how is None else (how, how)
    check_sides(where, height, width, SMALLEST_SIDE)
    try:
        sides = how.size_of(height, width)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    check_sides(where, *sides, None, limits)
    return sides


def framed(where: str, pixels: np.ndarray, how: Framing, limits: Limits) -> np.ndarray:
    """Return an image (H, W) or (H, W, C) as it is to be; one that fits keeps its pixels bit by bit.

    Raises
    ------
    ValueError
        For an image that is too small or too large, or smaller than what is cut out; the text begins with `where`.
    """
    framed_size(where, pixels.shape[0], pixels.shape[1], how, limits)
    if isinstance(how, Geometry):
        return how.apply(pixels)
    return pixels if how is None else fit(pixels, how)


def _sides(text: str, value: str) -> int | tuple[int, int]:
    """Return 224 of ``224`` and (224, 320) of ``224x320``."""
    numbers = value.split("x")
    if len(numbers) > 2 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise ValueError(f"{text!r} has no size at {value!r}; write pixels, 224 or 224x320 (height x width)")
    sides = [int(number) for number in numbers]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _written(sides: int | tuple[int, int]) -> str:
    return str(sides) if isinstance(sides, int) else f"{sides[0]}x{sides[1]}"


def _resampled(pixels: np.ndarray, sides: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """Return an image of (height, width) `sides`, each channel resampled by itself, within the range it had."""
    if pixels.ndim == 3:
        return np.stack([_resampled(pixels[..., c], sides, how) for c in range(pixels.shape[2])], axis=2)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    resampled = np.asarray(image.resize((sides[1], sides[0]), how))
    return resampled if pixels.dtype == np.uint8 else resampled.clip(pixels.min(), pixels.max())
