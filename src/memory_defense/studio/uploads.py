"""An uploaded or drawn picture, converted to an image that a defense takes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from memory_defense.data.geometry import framed
from memory_defense.data.image_files import read_image
from memory_defense.data.limits import Limits, OtherTypeError, TooLargeError, Words
from memory_defense.studio.library import Shape

UPLOAD_LIMITS = Limits(
    file_bytes=8 << 20, file_pixels=1 << 24, plain=True, words=Words(size="", images="", limit="")
)
"""Limits of one upload: 8 MiB and 16 777 216 pixels. Bytes are counted before they are read, pixels before
they are decoded."""

_NAME = "the image"


def decode(content: bytes, shape: Shape, *, invert: bool = False) -> Tensor:
    """Return an uploaded file as grey levels (C, H, W) uint8 of the size that the defense's images have.

    It is brought to size as the defense's own images are (`Shape.how`); colours become grey where it takes grey.

    Parameters
    ----------
    content
        A PNG, JPEG, BMP, PGM or PPM file by its content, whatever its name.
    shape
        Shape of the images that the defense takes.
    invert
        Swap dark and bright: Fashion-MNIST shows bright things on black.

    Raises
    ------
    ValueError
        For a damaged, animated or transparent file; `TooLargeError` for too many bytes or pixels, `OtherTypeError`
        for another type.
    """
    with tempfile.TemporaryDirectory(prefix="memdef-studio-") as directory:
        path = Path(directory) / "upload"
        path.write_bytes(content)
        try:
            pixels = framed(str(path), read_image(path, UPLOAD_LIMITS), shape.how, UPLOAD_LIMITS)
            if pixels.shape[:2] != shape.sides:
                (tall, wide), (height, width) = pixels.shape[:2], shape.sides
                raise ValueError(
                    f"{path} is {wide} x {tall} pixels by {shape.how}, and the model takes {width} x {height}; "
                    "choose one of that aspect"
                )
        except ValueError as error:
            kind = type(error) if isinstance(error, (TooLargeError, OtherTypeError)) else ValueError
            raise kind(_for_a_page(str(error).replace(str(path), _NAME))) from error
    wanted = Image.fromarray(pixels).convert("L" if shape.channels == 1 else "RGB")
    levels = torch.from_numpy(np.array(wanted))
    levels = levels[None] if shape.channels == 1 else levels.permute(2, 0, 1).contiguous()  # (C, H, W)
    return 255 - levels if invert else levels


def _for_a_page(text: str) -> str:
    """Return the reader's message without its advice about files."""
    return text.replace("convert it or remove it", "convert it to PNG").replace(
        "replace or remove it", "choose another"
    )
