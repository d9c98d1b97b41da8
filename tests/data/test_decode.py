from __future__ import annotations

import gzip
import json
import struct
import tracemalloc
import zlib
from dataclasses import replace

import pytest
import torch

from memory_defense.data.decode import DamagedDataError, File, idx, label_list, picture, records

VALUES = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 4)
HEADER = struct.pack(">4I", 0x803, 2, 3, 4)
RAW = HEADER + bytes(range(24))


@pytest.mark.parametrize("content", [RAW, gzip.compress(RAW)], ids=["raw", "gz"])
def test_idx_is_decoded(content):
    assert torch.equal(idx(File("f", content), (2, 3, 4)), VALUES)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gz"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ends early"),
        (HEADER[:7], "ends early"),
        (RAW[:-1], "23 bytes where 24"),
        (RAW + b"\0", "longer than its header"),
        (struct.pack(">4I", 0x803, 2**31, 28, 28) + bytes(24), "2147483648, 28, 28"),
        (struct.pack(">2I", 0x801, 24) + bytes(24), "3 axes"),
        (b"<!DOCTYPE html><html>", "is not an IDX file"),
    ],
)
def test_idx_that_is_not_what_it_should_be_is_refused(pack, content, said):
    with pytest.raises(DamagedDataError, match=said) as error:
        idx(File("some/file", pack(content)), (2, 3, 4))
    assert "some/file" in str(error.value)
    assert "fetch it again" in str(error.value)


@pytest.mark.parametrize("kept", [3, 12, 25, 40])
def test_truncated_gzip_names_file_and_remedy(kept):
    content = gzip.compress(RAW)
    assert kept < len(content)
    with pytest.raises(DamagedDataError, match=r"train\.gz.*delete it and fetch it again"):
        idx(File("train.gz", content[:kept]), (2, 3, 4))


def test_gzip_with_a_flipped_bit_is_refused():
    content = bytearray(gzip.compress(RAW))
    content[-5] ^= 1  # the checksum
    with pytest.raises(DamagedDataError, match="CRC"):
        idx(File("f", bytes(content)), (2, 3, 4))


def test_gzip_bomb_is_never_blown_up():
    bomb = gzip.compress(RAW + bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(DamagedDataError, match="longer"):
            idx(File("f", bomb), (2, 3, 4))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_records_equal_a_loop(colour):
    content = colour.records()["test_batch.bin"]
    images, labels = records(File("f", content), 20, colour.spec)
    step = 1 + 3 * 25
    for n in range(20):
        assert labels[n] == content[n * step]
        for c in range(3):
            for y in range(5):
                for x in range(5):
                    assert images[n, c, y, x] == content[n * step + 1 + c * 25 + y * 5 + x]


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b""])
def test_records_of_another_length_are_refused(colour, change):
    with pytest.raises(DamagedDataError, match="20 images make 1520"):
        records(File("f", change(colour.records()["test_batch.bin"])), 20, colour.spec)


def test_picture_gives_one_image_a_row(colour):
    images = picture(File("f", colour.pictures()["test_batch.png"]), 20, colour.spec)
    assert torch.equal(images, colour.arrays.test_images)
    assert images.is_contiguous()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_huge_picture_is_refused_by_its_header(colour):
    header = struct.pack(">2I5B", 50_000, 50_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(100)))
    with pytest.raises(DamagedDataError, match="50000 x 50000 pixels, expected RGB with 25 x 20"):
        picture(File("f", content), 20, colour.spec)


@pytest.mark.parametrize("content", [b"", b"<html>", b"GIF89a" + bytes(30)])
def test_what_is_no_png_is_refused(colour, content):
    with pytest.raises(DamagedDataError, match=r"p\.png is damaged"):
        picture(File("p.png", content), 20, colour.spec)


def test_truncated_png_is_refused(colour):
    content = colour.pictures()["test_batch.png"]
    with pytest.raises(DamagedDataError, match=r"p\.png is damaged"):
        picture(File("p.png", content[: len(content) // 2]), 20, colour.spec)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, 2], "list of 3"),
        ({"a": 1, "b": 2, "c": 3}, "list of 3"),
        ("123", "list of 3"),
        ([1, 2, 10], "outside 0..9"),
        ([1, -1, 2], "outside 0..9"),
        ([1, 2.0, 3], "outside 0..9"),
        ([1, True, 3], "outside 0..9"),
    ],
)
def test_wrong_label_lists_are_refused(colour, value, said):
    with pytest.raises(DamagedDataError, match=said):
        label_list(File("f", json.dumps(value).encode()), 3, colour.spec)


@pytest.mark.parametrize("content", [b"[1, 2", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused(colour, content):
    with pytest.raises(DamagedDataError, match="damaged"):
        label_list(File("f", content), 3, colour.spec)


def test_label_list_is_decoded(colour):
    assert label_list(File("f", b"[0, 9, 5]"), 3, colour.spec).tolist() == [0, 9, 5]


def test_one_changed_pixel_or_label_is_noticed(grey):
    assert grey.arrays.verify(grey.spec, "here") is grey.arrays
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        changed = getattr(grey.arrays, name).clone()
        changed.view(-1)[3] += 1
        with pytest.raises(DamagedDataError, match="here is not fashion-mnist: the SHA-256"):
            replace(grey.arrays, **{name: changed}).verify(grey.spec, "here")


def test_other_shapes_and_types_are_refused(grey):
    flat = replace(grey.arrays, test_images=grey.arrays.test_images.reshape(20, 1, 4, 9))
    with pytest.raises(DamagedDataError, match=r"expected uint8 \(20, 1, 6, 6\)"):
        flat.verify(grey.spec, "here")
    with pytest.raises(DamagedDataError, match="int64"):
        replace(grey.arrays, test_labels=grey.arrays.test_labels.long()).verify(grey.spec, "here")
