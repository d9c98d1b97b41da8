"""What is uploaded is counted before it is decoded, known by its content, and exact where it fits."""

import io
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memory_defense.studio.library import Shape
from memory_defense.studio.uploads import UPLOAD_LIMITS, decode

from .conftest import png

GREY = Shape("grey", 1, 28, ("a", "b"))
COLOUR = Shape("colour", 3, 32, ("a", "b"))
NOISE = np.random.default_rng(0)


def saved(pixels: np.ndarray, kind: str) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, format=kind)
    return written.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose few bytes unpack to width x height black pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = b"\0" * (width + 1)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM"])
def test_an_image_of_the_right_size_comes_through_unchanged(kind) -> None:
    grey = NOISE.integers(0, 256, (28, 28), dtype=np.uint8)
    colour = NOISE.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (decode(saved(grey, kind), GREY).numpy()[0] == grey).all()
    assert (decode(saved(colour, kind), COLOUR).numpy() == colour.transpose(2, 0, 1)).all()


def test_sizes_and_colours_are_adapted() -> None:
    wide = np.zeros((40, 100, 3), dtype=np.uint8)
    wide[:, 30:70] = (255, 0, 0)
    made = decode(png(wide), GREY)
    assert made.shape == (1, 28, 28)
    assert set(made.unique().tolist()) == {76}, "red's luma, and only the centre square"
    grey = NOISE.integers(0, 256, (32, 32), dtype=np.uint8)
    assert (decode(png(grey), COLOUR).numpy() == grey).all()


def test_invert_swaps_dark_and_bright() -> None:
    grey = NOISE.integers(0, 256, (28, 28), dtype=np.uint8)
    assert (decode(png(grey), GREY, invert=True).numpy()[0] == 255 - grey).all()


def test_a_jpeg_is_read() -> None:
    assert abs(int(decode(saved(np.full((64, 64), 90, np.uint8), "JPEG"), GREY).float().mean()) - 90) <= 1


def test_a_decompression_bomb_is_refused_before_it_unpacks() -> None:
    content = bomb(6000, 3000)
    assert len(content) < 1 << 15
    with pytest.raises(ValueError, match="6000 x 3000 pixels, at most 16777216"):
        decode(content, GREY)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"GIF89a" + b"\0" * 100, "is not a PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a PNG"),
        (b"%PDF-1.4", "is not a PNG"),
        (b"PK\x03\x04" + b"\0" * 50, "is not a PNG"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "damaged"),
        (png(np.zeros((28, 28), np.uint8))[:-20], "damaged"),
        (png(np.zeros((28, 28, 4), np.uint8)), "transparent"),
        (png(np.zeros((2, 2), np.uint8)), "at least 4"),
        (saved(np.zeros((28, 28), np.uint16), "PNG"), "16 bits"),
    ],
)
def test_what_is_no_plain_picture_is_refused(content, why) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        decode(content, GREY)
    assert "the image" in str(refused.value)
    assert "Limits" not in str(refused.value)
    assert tempfile.gettempdir() not in str(refused.value)


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match=str(UPLOAD_LIMITS.file_bytes)):
        decode(b"\x89PNG\r\n\x1a\n" + bytes(UPLOAD_LIMITS.file_bytes), GREY)


def test_nothing_is_left_behind(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    decode(png(np.zeros((28, 28), np.uint8)), GREY)
    with pytest.raises(ValueError, match="is not a PNG"):
        decode(b"nothing", GREY)
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.parametrize(
    ("content", "status", "why"),
    [
        (bomb(6000, 3000), 413, "6000 x 3000 pixels, at most 16777216"),
        (b"%PDF-1.7 " + b"0" * 100, 415, "is not a PNG"),
        (b"", 422, "is empty"),
        (png(np.zeros((28, 28), np.uint8))[:-20], 422, "truncated or damaged"),
    ],
)
def test_each_refusal_has_the_status_that_says_why(client, content, status, why) -> None:
    answer = client.post("/api/image?run=first", content=content, headers={"content-type": "image/png"})
    assert (answer.status_code, why in answer.json()["error"]) == (status, True), answer.json()


def test_the_page_says_what_the_limit_is(client) -> None:
    page = client.get("/").text
    assert f"{UPLOAD_LIMITS.file_bytes >> 20} MiB" in page
    assert f"{UPLOAD_LIMITS.file_pixels:,}".replace(",", " ") in page
