from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from memory_defense.data.decode import DamagedDataError
from memory_defense.data.image_files import is_colour, read_image
from memory_defense.data.limits import Limits

LIMITS = Limits()
NOISE = np.random.default_rng(3)
GREY = NOISE.integers(0, 256, (9, 7), dtype=np.uint8)
COLOUR = NOISE.integers(0, 256, (9, 7, 3), dtype=np.uint8)


def _write(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def _png(depth: int, kind: int, rows: list[bytes], extra: bytes = b"") -> bytes:
    """Write a PNG chunk by chunk; `rows` are packed pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    width = len(rows[0]) * 8 // (depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind])
    header = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.pgm"])
def test_grey_files_without_loss_come_back_as_they_went(tmp_path, name):
    path = _write(tmp_path / name, GREY)
    assert np.array_equal(read_image(path, LIMITS), GREY)
    assert not is_colour(path, LIMITS)


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.ppm"])
def test_colour_files_without_loss_come_back_as_they_went(tmp_path, name):
    path = _write(tmp_path / name, COLOUR)
    assert np.array_equal(read_image(path, LIMITS), COLOUR)
    assert is_colour(path, LIMITS)


def test_constant_jpeg_keeps_its_level_and_its_kind(tmp_path):
    for level, shape in ((77, (8, 8)), (130, (8, 8, 3))):
        pixels = np.full(shape, level, np.uint8)
        read = read_image(_write(tmp_path / "x.jpg", pixels, quality=100), LIMITS)
        assert read.shape == shape
        assert np.array_equal(read, pixels)


def test_plain_portable_maps_are_read_number_by_number(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P2 # grey\n3 2 # size\n255\n0 1 2\n253 254 255\n")
    assert read_image(tmp_path / "x.pgm", LIMITS).tolist() == [[0, 1, 2], [253, 254, 255]]
    (tmp_path / "x.ppm").write_bytes(b"P3\n1 2\n255\n1 2 3\n4 5 6\n")
    assert read_image(tmp_path / "x.ppm", LIMITS).tolist() == [[[1, 2, 3]], [[4, 5, 6]]]


@pytest.mark.parametrize(("depth", "step"), [(1, 255), (2, 85), (4, 17)])
def test_few_grey_levels_span_0_to_255(tmp_path, depth, step):
    levels = [(7 * n) % (1 << depth) for n in range(8)]
    packed = int("".join(f"{level:0{depth}b}" for level in levels), 2).to_bytes(depth, "big")
    (tmp_path / "x.png").write_bytes(_png(depth, 0, [packed]))
    assert read_image(tmp_path / "x.png", LIMITS).tolist() == [[step * level for level in levels]]
    assert not is_colour(tmp_path / "x.png", LIMITS)


def test_palette_is_looked_up(tmp_path):
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4), "P")
    palette = NOISE.integers(0, 256, (12, 3), dtype=np.uint8)
    image.putpalette(palette.flatten().tolist())
    image.save(tmp_path / "x.png")
    assert np.array_equal(read_image(tmp_path / "x.png", LIMITS), palette.reshape(3, 4, 3))


@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_opaque_alpha_is_dropped_and_any_other_refused(tmp_path, pixels):
    planes = np.atleast_3d(pixels)
    alpha = np.full((*planes.shape[:2], 1), 255, np.uint8)
    path = _write(tmp_path / "x.png", np.concatenate([planes, alpha], 2))
    assert np.array_equal(read_image(path, LIMITS), pixels)
    assert is_colour(path, LIMITS) == (pixels is COLOUR)
    alpha[4, 2] = 254
    _write(path, np.concatenate([planes, alpha], 2))
    with pytest.raises(ValueError, match=r"x\.png has transparent pixels.*background"):
        read_image(path, LIMITS)


def test_colour_key_is_transparency_only_where_it_occurs(tmp_path):
    for key, refused in ((5, True), (6, False)):
        content = _png(8, 0, [bytes([1, 2, 3]), bytes([4, 5, 7])], _chunk(b"tRNS", struct.pack(">H", key)))
        (tmp_path / "x.png").write_bytes(content)
        if refused:
            with pytest.raises(ValueError, match="transparent"):
                read_image(tmp_path / "x.png", LIMITS)
        else:
            assert read_image(tmp_path / "x.png", LIMITS).tolist() == [[1, 2, 3], [4, 5, 7]]


@pytest.mark.parametrize(("kind", "count"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_refused_not_rounded(tmp_path, kind, count):
    (tmp_path / "x.png").write_bytes(_png(16, kind, [bytes(range(2 * count * 3))] * 2))
    with pytest.raises(ValueError, match=r"x\.png has 16 bits a channel; save it as an 8-bit"):
        read_image(tmp_path / "x.png", LIMITS)


@pytest.mark.parametrize(
    "content",
    [
        b"P5\n2 1\n65535\n" + bytes(4),
        b"P6 1 1 65535\n" + bytes(6),
        b"P5\n2 1\n15\n" + bytes(2),
        b"P2\n1 1\n15\n3\n",
    ],
)
def test_portable_maps_with_other_levels_are_refused_not_rescaled(tmp_path, content):
    (tmp_path / "x.pgm").write_bytes(content)
    with pytest.raises(ValueError, match=r"grey levels up to (65535|15), not up to 255"):
        read_image(tmp_path / "x.pgm", LIMITS)


def test_cmyk_and_animations_are_refused(tmp_path):
    Image.new("CMYK", (8, 8)).save(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match=r"x\.jpg is CMYK, neither grey nor RGB"):
        read_image(tmp_path / "x.jpg", LIMITS)
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    frames[0].save(tmp_path / "x.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"x\.png is an animation"):
        read_image(tmp_path / "x.png", LIMITS)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("ICO", "not a PNG, JPEG, BMP, PGM, PPM, TIFF, WebP, GIF or AVIF image"), ("JPEG2000", "a JPEG 2000 file")],
)
def test_other_formats_are_refused_whatever_their_names(tmp_path, kind, said):
    Image.fromarray(COLOUR).save(tmp_path / "x.png", kind)
    with pytest.raises(ValueError, match=rf"x\.png is {said}.*convert"):
        read_image(tmp_path / "x.png", LIMITS)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.bmp", "x.ppm"])
def test_truncated_files_are_named_wherever_they_end(tmp_path, name):
    path = _write(tmp_path / name, NOISE.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    content = path.read_bytes()
    for kept in (3, 12, 30, len(content) // 3, len(content) // 2, len(content) * 4 // 5):
        path.write_bytes(content[:kept])
        with pytest.raises(ValueError, match=rf"{name} is (truncated or damaged|not a PNG)"):
            read_image(path, LIMITS)
    path.write_bytes(b"")
    with pytest.raises(DamagedDataError, match=f"{name} is empty"):
        read_image(path, LIMITS)


def test_every_flipped_bit_and_every_cut_of_a_png_is_found(tmp_path):
    path = _write(tmp_path / "x.png", GREY)
    content = path.read_bytes()
    for place in range(len(content) - 12):  # the last chunk says only that it is the last
        for damaged in (content[:place], content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"x\.png (is|has)"):
                read_image(path, LIMITS)


def test_bytes_and_pixels_are_capped_before_decoding(tmp_path):
    path = _write(tmp_path / "x.png", GREY)
    size = len(path.read_bytes())
    assert np.array_equal(read_image(path, Limits(file_bytes=size, file_pixels=63)), GREY)
    with pytest.raises(ValueError, match=rf"x\.png has more than {size - 1} bytes.*Limits.file_bytes"):
        read_image(path, Limits(file_bytes=size - 1))
    with pytest.raises(ValueError, match=r"x\.png has 7 x 9 pixels, at most 62 are decoded"):
        read_image(path, Limits(file_pixels=62))


def test_a_bomb_is_refused_by_its_header(tmp_path):
    content = bytearray(_png(8, 2, [bytes(24)] * 8))
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"60000 x 60000 pixels, at most 16777216"):
        read_image(tmp_path / "x.png", LIMITS)


def test_a_name_may_lie_among_the_formats_that_are_read(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "BMP")
    (tmp_path / "x.png").write_bytes(stream.getvalue())
    assert np.array_equal(read_image(tmp_path / "x.png", LIMITS), GREY)
