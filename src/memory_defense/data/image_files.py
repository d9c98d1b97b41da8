"""One image file to pixels, without trust: its bytes and its pixels are counted before anything is decoded.

The pixels are those that the file says, turned as its EXIF orientation says, for cameras mean it so. Colour
profiles and gamma are not applied, and what 8 bits cannot hold exactly is refused rather than rounded.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, features
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from memory_defense.data.decode import DamagedDataError
from memory_defense.data.limits import Limits, OtherTypeError, TooLargeError
from memory_defense.data.places import shown

SUFFIXES = (
    ".apng",
    ".avif",
    ".bmp",
    ".gif",
    ".jfif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
"""Endings of the files that are read, in any case."""


def _avif() -> list[tuple[re.Pattern[bytes], type[ImageFile]]]:
    """Return the decoder of AVIF files where this Pillow has it."""
    if "avif" not in features.modules or not features.check("avif"):
        return []
    from PIL.AvifImagePlugin import AvifImageFile

    return [(re.compile(rb"....ftypavi[fs]", re.DOTALL), AvifImageFile)]


# The classes themselves, not Image.open: that guesses other formats too, and its limit on pixels is global.
_PLAIN: tuple[tuple[re.Pattern[bytes], type[ImageFile]], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb"P[1-6]\s"), PpmImageFile),
)
_OTHERS: tuple[tuple[re.Pattern[bytes], type[ImageFile]], ...] = (
    (re.compile(rb"GIF8[79]a"), GifImageFile),
    (re.compile(rb"II[*+]\x00|MM\x00[*+]"), TiffImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    *_avif(),
)
_NOT_READ: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "AVIF"),
    (re.compile(rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL), "HEIC"),
    (re.compile(rb"\xff\x0a|....JXL ", re.DOTALL), "JPEG XL"),
    (re.compile(rb"\xff\x4f\xff\x51|....jP  ", re.DOTALL), "JPEG 2000"),
    (re.compile(rb"8BPS"), "Photoshop"),
    (re.compile(rb"%PDF"), "PDF"),
)
"""Kinds that people have and that no decoder here reads."""

_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "RGB", "RGBA")
_REMEDY = "save it as an 8-bit grey or RGB PNG"
_HEAD = 1 << 16
"""Bytes at a file's start in which its header is looked for."""
_BITS, _SAMPLES, _ORIENTATION = 258, 339, int(Base.Orientation)
"""Tags of a TIFF: bits of each channel, their type, and how the picture is to be turned."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What the values of the EXIF orientation ask for; 1, and any other value, for nothing."""


class Decoded(NamedTuple):
    """The pixels of one file, and what had to be done to them."""

    pixels: np.ndarray
    """uint8: (H, W) of a grey image, (H, W, 3) of a colour one."""
    turned: bool
    """Turned or mirrored, as the EXIF orientation says."""
    stamp: tuple[int, int]
    """Bytes and time of the last change in nanoseconds, when it was read."""


def read_image(path: Path, limits: Limits) -> np.ndarray:
    """Return the pixels of a file alone; see `decode_image`."""
    return decode_image(path, limits).pixels


def decode_image(path: Path, limits: Limits) -> Decoded:
    """Return the pixels of a file.

    Palettes are looked up, black and white is 0 and 255, and an alpha channel is dropped where every pixel is
    opaque.

    Raises
    ------
    ValueError
        If the file is too large, of another format, has more than 8 bits a channel, CMYK, transparent pixels or
        several frames or pages; `DamagedDataError`, a ValueError, when it is truncated or damaged. The text names
        the file.
    """
    with path.open("rb") as source:
        state = os.fstat(source.fileno())
        content = source.read(min(state.st_size, limits.file_bytes) + 1)
    name = shown(path)
    _check_bytes(name, len(content), limits)
    image = _open(name, io.BytesIO(content), content[:_HEAD], limits)
    try:
        if isinstance(image, PngImageFile):
            PngImageFile(io.BytesIO(content)).verify()  # the checksums, some of which load() skips
        orientation = _tiff_tag(image, _ORIENTATION)
        image.load()
        turn = _TURNS.get(_orientation(image) if orientation is None else orientation)
        flat = _opaque(image)
        pixels = None if flat is None else flat.convert("L" if image.mode in _GREY_MODES else "RGB")
    except Exception as error:  # decoders of damaged bytes raise nearly anything
        raise _damaged(name, error) from error
    if pixels is None:
        raise ValueError(f"{name} has transparent pixels; paint it on a background and {_REMEDY}")
    done = orientation is not None and _tiff_tag(image, _ORIENTATION) is None  # Pillow turns a TIFF as it loads it
    turned = np.array(pixels if turn is None or done else pixels.transpose(turn))
    return Decoded(turned, turn is not None, (state.st_size, state.st_mtime_ns))


def is_colour(path: Path, limits: Limits) -> bool:
    """Return whether a file's header says that it is a colour image; raise as `decode_image` does."""
    name = shown(path)
    with path.open("rb") as source:
        _check_bytes(name, os.fstat(source.fileno()).st_size, limits)
        head = source.read(_HEAD)
        source.seek(0)
        return _open(name, source, head, limits).mode not in _GREY_MODES


def _check_bytes(name: str, size: int, limits: Limits) -> None:
    """Raise ValueError for a file of no bytes, or of too many."""
    if size > limits.file_bytes:
        raise TooLargeError(
            f"{name} has more than {limits.file_bytes} bytes; make it smaller{limits.raised('file_bytes')}"
        )
    if not size:
        raise DamagedDataError(f"{name} is empty; replace or remove it")


def _damaged(name: str, error: Exception) -> DamagedDataError:
    return DamagedDataError(f"{name} is truncated or damaged ({error}); replace or remove it")


def _decoder(name: str, head: bytes, *, plain: bool) -> type[ImageFile]:
    for start, decoder in _PLAIN if plain else (*_PLAIN, *_OTHERS):
        if start.match(head):
            return decoder
    for start, kind in () if plain else _NOT_READ:
        if start.match(head):
            raise OtherTypeError(f"{name} is a {kind} file, which is not read; convert it to PNG, or remove it")
    kinds = "PNG, JPEG, BMP, PGM or PPM" if plain else "PNG, JPEG, BMP, PGM, PPM, TIFF, WebP, GIF or AVIF"
    raise OtherTypeError(f"{name} is not a {kinds} image, whatever its name says; convert it or remove it")


def _open(name: str, source: BinaryIO, head: bytes, limits: Limits) -> ImageFile:
    """Return the image with its header read and its pixels not yet decoded."""
    decoder = _decoder(name, head, plain=limits.plain)
    try:
        image = decoder(source)
        width, height = image.size
        fault = _fault(image, head) if width * height <= limits.file_pixels else None
    except Exception as error:  # decoders of damaged bytes raise nearly anything
        raise _damaged(name, error) from error
    if width * height > limits.file_pixels:
        raise TooLargeError(
            f"{name} has {width} x {height} pixels, at most {limits.file_pixels} are decoded; "
            f"make it smaller{limits.raised('file_pixels')}"
        )
    if fault:
        raise ValueError(f"{name} {fault}; {_REMEDY}")
    return image


def _fault(image: ImageFile, head: bytes) -> str | None:
    """Return why the pixels of this header cannot be kept as they are, or None."""
    if (frames := getattr(image, "n_frames", 1)) > 1:
        return f"has {frames} pages" if isinstance(image, TiffImageFile) else "is an animation"
    if deep := _depth_fault(image, head):
        return deep
    return None if image.mode in _GREY_MODES + _COLOUR_MODES else f"is {image.mode}, neither grey nor RGB"


def _depth_fault(image: ImageFile, head: bytes) -> str | None:
    """Return why a header's numbers are no 8-bit levels where Pillow would make such of them, or None."""
    if isinstance(image, PngImageFile) and head[24] == 16:  # the bit depth; Pillow would drop the low byte
        return "has 16 bits a channel"
    if isinstance(image, PpmImageFile) and (top := _top_level(head)) != 255:  # Pillow would rescale them
        return f"has grey levels up to {top}, not up to 255"
    if image.format == "AVIF" and _is_deep(head):
        return "has more than 8 bits a channel"
    return _tiff_fault(image) if isinstance(image, TiffImageFile) else None


def _is_deep(head: bytes) -> bool:
    """Return whether the configuration of an AVIF's codec announces more than 8 bits: its `high_bitdepth`."""
    place = head.find(b"av1C")
    return place >= 0 and len(head) > place + 6 and bool(head[place + 6] & 0x40)


def _tiff_fault(image: TiffImageFile) -> str | None:
    """Return why a TIFF's numbers are no 8-bit levels, or None; Pillow would drop bits, or take signed for not."""
    kinds = np.atleast_1d(_tiff_tag(image, _SAMPLES) or 1)
    if 3 in kinds:
        return "holds floats"
    if bits := [int(one) for one in np.atleast_1d(_tiff_tag(image, _BITS) or 1) if one > 8]:
        return f"has {bits[0]} bits a channel"
    return None if set(kinds.tolist()) <= {1} else "holds signed levels"


def _tiff_tag(image: ImageFile, tag: int) -> Any:
    """Return a tag of a TIFF; None where there is none, and of other files."""
    tags: Any = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    return tags.get(tag)


def _orientation(image: ImageFile) -> int:
    """Return the EXIF orientation, 1 where the file has none that can be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF data are no part of the pixels: damaged ones are none
        return 1


def _top_level(head: bytes) -> int:
    """Return the largest level that the header of a portable map announces: the fourth word outside comments."""
    if head[1:2] in b"14":  # black and white
        return 255
    words = re.sub(rb"#[^\r\n]*", b"", head[:4096]).split(maxsplit=4)
    return int(words[3]) if len(words) > 3 and words[3].isdigit() else -1


def _opaque(image: Image.Image) -> Image.Image | None:
    """Return the image without transparency; None when some pixel is not opaque."""
    if image.mode not in ("LA", "RGBA") and "transparency" not in image.info:
        return image
    painted = image.convert("RGBA")
    if painted.getchannel("A").getextrema() != (255, 255):
        return None
    return painted.getchannel("R") if image.mode in _GREY_MODES else painted
