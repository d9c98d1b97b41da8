"""Every kind of image file that people have: read as it is, or refused with what to do."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from memory_defense.data.image_files import SUFFIXES, decode_image, is_colour, read_image
from memory_defense.data.limits import Limits

LIMITS = Limits()
NOISE = np.random.default_rng(31)
GREY = NOISE.integers(0, 256, (9, 7), dtype=np.uint8)
COLOUR = NOISE.integers(0, 256, (9, 7, 3), dtype=np.uint8)


def save(path, pixels, kind=None, **options):
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, kind, **options)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_ending_that_is_read_can_be_written_and_read(tmp_path, suffix):
    if suffix == ".avif":
        pytest.importorskip("PIL.AvifImagePlugin", reason="this Pillow has no AVIF")
    black = suffix == ".pbm"
    image = Image.fromarray(GREY if suffix in (".pgm", ".pbm", ".pnm") else COLOUR)
    path = save(tmp_path / f"x{suffix}", image.convert("1") if black else image)
    assert np.array_equal(
        read_image(path, LIMITS), np.asarray(Image.open(path).convert("RGB" if is_colour(path, LIMITS) else "L"))
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
    ],
)
def test_kinds_without_loss_come_back_as_they_went(tmp_path, kind, options):
    if kind == "TIFF":  # WebP has no grey, and a palette counts as colour
        assert np.array_equal(read_image(save(tmp_path / "g", GREY, kind, **options), LIMITS), GREY)
        assert not is_colour(tmp_path / "g", LIMITS)
    few = COLOUR // 128 * 255  # 8 colours, for a palette
    assert np.array_equal(read_image(save(tmp_path / "c", few, kind, **options), LIMITS), few)
    assert is_colour(tmp_path / "c", LIMITS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(9))
def test_the_orientation_of_a_camera_is_followed(tmp_path, kind, orientation):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    smooth = np.add.outer(np.arange(0, 160, 10), np.arange(0, 96, 8)).astype(np.uint8)
    path = save(tmp_path / "x", np.stack([smooth, smooth // 2, 255 - smooth], 2), kind, exif=exif)
    plain = save(tmp_path / "plain", np.stack([smooth, smooth // 2, 255 - smooth], 2), kind)
    found = decode_image(path, LIMITS)
    raw = read_image(plain, LIMITS)
    by_hand = {
        2: raw[:, ::-1],
        3: raw[::-1, ::-1],
        4: raw[::-1],
        5: raw.transpose(1, 0, 2),
        6: raw.transpose(1, 0, 2)[:, ::-1],
        7: raw.transpose(1, 0, 2)[::-1, ::-1],
        8: raw.transpose(1, 0, 2)[::-1],
    }.get(orientation, raw)
    assert np.array_equal(found.pixels, by_hand)
    assert np.array_equal(found.pixels, np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")))
    assert found.turned == (orientation > 1)


def test_exif_data_that_cannot_be_read_are_none(tmp_path):
    path = save(tmp_path / "x.jpg", GREY, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    found = decode_image(path, LIMITS)
    assert (found.pixels.shape, found.turned) == ((9, 7), False)


def _raw_tiff(*, bits: int, kind: int, body: bytes) -> bytes:
    """Write a grey 4 x 4 TIFF tag by tag."""
    tags = [(256, 3, 4), (257, 3, 4), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 3, 4), (279, 4, len(body)), (339, 3, kind)]
    entries = b"".join(
        tag.to_bytes(2, "little")
        + form.to_bytes(2, "little")
        + (1).to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, form, value in tags
    )
    start = (8 + len(body)).to_bytes(4, "little")
    return b"II*\0" + start + body + len(tags).to_bytes(2, "little") + entries + bytes(4)


@pytest.mark.parametrize(
    ("bits", "kind", "size", "said"),
    [
        (8, 1, 16, None),
        (16, 1, 32, "has 16 bits a channel"),
        (8, 2, 16, "holds signed levels"),
        (32, 3, 64, "holds floats"),
        (32, 1, 64, "has 32 bits a channel|damaged"),
    ],
)
def test_only_levels_of_8_bits_are_read_from_a_tiff(tmp_path, bits, kind, size, said):
    (tmp_path / "x.tif").write_bytes(_raw_tiff(bits=bits, kind=kind, body=bytes(range(size))))
    if said is None:
        assert read_image(tmp_path / "x.tif", LIMITS).tolist() == np.arange(16).reshape(4, 4).tolist()
        return
    with pytest.raises(ValueError, match=rf"x\.tif ({said})|x\.tif is truncated or ({said})"):
        read_image(tmp_path / "x.tif", LIMITS)


def test_sixteen_bits_of_colour_are_not_halved(tmp_path):
    """Pillow opens such a TIFF as RGB and drops the low bytes."""
    body = bytes(range(96))
    content = bytearray(_raw_tiff(bits=16, kind=1, body=body))
    content = content.replace(
        (262).to_bytes(2, "little") + b"\x03\0\x01\0\0\0\x01", (262).to_bytes(2, "little") + b"\x03\0\x01\0\0\0\x02"
    )
    content = content.replace(
        (277).to_bytes(2, "little") + b"\x03\0\x01\0\0\0\x01", (277).to_bytes(2, "little") + b"\x03\0\x01\0\0\0\x03"
    )
    place = len(content)
    for tag, value in ((258, 16), (339, 1)):
        at = content.index(tag.to_bytes(2, "little") + b"\x03\0\x01\0\0\0")
        content[at + 4 : at + 12] = (3).to_bytes(4, "little") + place.to_bytes(4, "little")
        content += value.to_bytes(2, "little") * 3
        place += 6
    (tmp_path / "x.tif").write_bytes(content)
    assert Image.open(tmp_path / "x.tif").mode == "RGB"
    with pytest.raises(ValueError, match=r"x\.tif has 16 bits a channel; save it as an 8-bit"):
        read_image(tmp_path / "x.tif", LIMITS)


@pytest.mark.parametrize(("kind", "said"), [("GIF", "animation"), ("WEBP", "animation"), ("TIFF", "has 2 pages")])
def test_several_frames_are_refused(tmp_path, kind, said):
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    frames[0].save(tmp_path / "x", kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=rf"x .*{said}.*; save it as an 8-bit grey or RGB PNG"):
        read_image(tmp_path / "x", LIMITS)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftypmif1", "HEIC"),
        (b"\0\0\0\x0cJXL \r\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
        (b"8BPS\0\1", "Photoshop"),
        (b"%PDF-1.7", "PDF"),
    ],
)
def test_kinds_that_are_not_read_are_called_by_their_names(tmp_path, start, said):
    (tmp_path / "x.jpg").write_bytes(start + bytes(60))
    with pytest.raises(ValueError, match=rf"x\.jpg is a {said} file, which is not read; convert it to PNG"):
        read_image(tmp_path / "x.jpg", LIMITS)
    with pytest.raises(ValueError, match=r"x\.jpg is not a PNG, JPEG, BMP, PGM or PPM image"):
        read_image(tmp_path / "x.jpg", Limits(plain=True))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_files_of_strangers_are_only_plain_kinds(tmp_path, kind):
    path = save(tmp_path / "x", COLOUR, kind)
    with pytest.raises(ValueError, match="is not a PNG, JPEG, BMP, PGM or PPM image"):
        read_image(path, Limits(plain=True))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
        ("WEBP", {}),
    ],
)
def test_truncated_files_of_these_kinds_are_named(tmp_path, kind, options):
    path = save(tmp_path / "x", NOISE.integers(0, 256, (24, 24, 3), dtype=np.uint8), kind, **options)
    content = path.read_bytes()
    for kept in (3, 12, 30, len(content) // 3, len(content) // 2, len(content) * 4 // 5):
        path.write_bytes(content[:kept])
        with pytest.raises(ValueError, match=r"x is (truncated or damaged|not a PNG)"):
            read_image(path, LIMITS)


def test_names_that_cannot_be_shown_are_written_with_escapes(tmp_path):
    path = tmp_path / "x\n\udcff.png"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"x\\n\\udcff\.png' is empty"):
        read_image(path, LIMITS)
