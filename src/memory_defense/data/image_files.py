"""One image file to pixels, without trust: its bytes and its pixels are counted before anything is decoded.

The pixels are those that the file says: colour profiles, gamma and EXIF orientation are not applied, and what
8 bits cannot hold exactly is refused rather than rounded.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile

from memory_defense.data.decode import DamagedDataError
from memory_defense.data.limits import Limits

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm")
"""Endings of the files that are read, in any case."""

# The classes themselves, not Image.open: that guesses other formats too, and its limit on pixels is global.
_FORMATS: tuple[tuple[re.Pattern[bytes], type[ImageFile]], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb"P[2356]\s"), PpmImageFile),
)
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "RGB", "RGBA")
_REMEDY = "save it as an 8-bit grey or RGB PNG"
_PILLOW_RAISES = (
    EOFError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""The exceptions of Pillow's decoders for damaged files."""


def read_image(path: Path, limits: Limits) -> np.ndarray:
    """Return the pixels of a file, uint8: (H, W) of a grey image, (H, W, 3) of a colour one.

    Palettes are looked up, black and white is 0 and 255, and an alpha channel is dropped where every pixel is
    opaque.

    Raises
    ------
    ValueError
        If the file is too large, of another format, has 16 bits a channel, CMYK, transparent pixels or several
        frames; `DamagedDataError`, a ValueError, when it is truncated or damaged. The text names the file.
    """
    content = _content(path, limits)
    image = _open(path, content, limits)
    try:
        _decoder(path, content)(io.BytesIO(content)).verify()  # the checksums of a PNG; load() skips some
        image.load()
        flat = _opaque(image)
    except _PILLOW_RAISES as error:
        raise DamagedDataError(f"{path} is truncated or damaged ({error}); replace or remove it") from error
    if flat is None:
        raise ValueError(f"{path} has transparent pixels; paint it on a background and {_REMEDY}")
    return np.array(flat.convert("L" if image.mode in _GREY_MODES else "RGB"))


def is_colour(path: Path, limits: Limits) -> bool:
    """Return whether a file's header says that it is a colour image; raise as `read_image` does."""
    return _open(path, _content(path, limits), limits).mode not in _GREY_MODES


def _content(path: Path, limits: Limits) -> bytes:
    """Return all bytes of a file; refuse none and too many."""
    with path.open("rb") as source:
        content = source.read(limits.file_bytes + 1)
    if len(content) > limits.file_bytes:
        raise ValueError(
            f"{path} has more than {limits.file_bytes} bytes; make it smaller, or raise Limits.file_bytes"
        )
    if not content:
        raise DamagedDataError(f"{path} is empty; replace or remove it")
    return content


def _decoder(path: Path, content: bytes) -> type[ImageFile]:
    for start, decoder in _FORMATS:
        if start.match(content):
            return decoder
    raise ValueError(f"{path} is no PNG, JPEG, BMP, PGM or PPM image, whatever its name; convert or remove it")


def _open(path: Path, content: bytes, limits: Limits) -> ImageFile:
    """Return the image with its header read and its pixels not yet decoded."""
    decoder = _decoder(path, content)
    try:
        image = decoder(io.BytesIO(content))
    except _PILLOW_RAISES as error:
        raise DamagedDataError(f"{path} is truncated or damaged ({error}); replace or remove it") from error
    width, height = image.size
    if width * height > limits.file_pixels:
        raise ValueError(
            f"{path} has {width} x {height} pixels, at most {limits.file_pixels} are decoded; "
            "make it smaller, or raise Limits.file_pixels"
        )
    if fault := _fault(image, content):
        raise ValueError(f"{path} {fault}; {_REMEDY}")
    return image


def _fault(image: ImageFile, content: bytes) -> str | None:
    """Return why the pixels of this header cannot be kept as they are, or None."""
    if getattr(image, "n_frames", 1) > 1:
        return "is an animation"
    if isinstance(image, PngImageFile) and content[24] == 16:  # the bit depth; Pillow would drop the low byte
        return "has 16 bits a channel"
    if isinstance(image, PpmImageFile) and (top := _top_level(content)) != 255:  # Pillow would rescale them
        return f"has grey levels up to {top}, not up to 255"
    if image.mode not in _GREY_MODES + _COLOUR_MODES:
        return f"is {image.mode}, neither grey nor RGB"
    return None


def _top_level(content: bytes) -> int:
    """Return the largest level that the header of a PGM or PPM announces: the fourth word outside comments."""
    words = re.sub(rb"#[^\r\n]*", b"", content[:4096]).split(maxsplit=4)
    return int(words[3]) if len(words) > 3 and words[3].isdigit() else -1


def _opaque(image: Image.Image) -> Image.Image | None:
    """Return the image without transparency; None when some pixel is not opaque."""
    if image.mode not in ("LA", "RGBA") and "transparency" not in image.info:
        return image
    painted = image.convert("RGBA")
    if painted.getchannel("A").getextrema() != (255, 255):
        return None
    return painted.getchannel("R") if image.mode in _GREY_MODES else painted
