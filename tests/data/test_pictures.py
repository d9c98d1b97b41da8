"""Pictures as a model reads them: every conversion checked on its pixels, every fault on its own line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from memory_defense.data.geometry import Geometry
from memory_defense.data.limits import Limits, fit
from memory_defense.data.pictures import LeftOut, Picture, Unreadable, pictures

RANDOM = np.random.default_rng(0)


def read(*paths: Path, channels: int = 1, size: int = 8, **options) -> list[Picture | Unreadable | LeftOut]:
    return list(pictures(paths, channels=channels, size=size, **options))


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def pixels_of(height: int = 8, width: int = 8, *channels: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, *channels), dtype=np.uint8)


def test_a_picture_that_fits_is_left_alone(tmp_path) -> None:
    grey, colour = pixels_of(), pixels_of(8, 8, 3)
    (one,) = read(save(tmp_path / "g.png", grey))
    assert one.changes == ()
    assert torch.equal(one.pixels, torch.from_numpy(grey)[None].float() / 255)
    (two,) = read(save(tmp_path / "c.png", colour), channels=3)
    assert torch.equal(two.pixels, torch.from_numpy(colour).permute(2, 0, 1).float() / 255)


def test_grey_and_colour_become_each_other(tmp_path) -> None:
    grey, colour = pixels_of(), pixels_of(8, 8, 3)
    (one,) = read(save(tmp_path / "g.png", grey), channels=3)
    assert one.changes == ("grey made colour",)
    assert torch.equal(one.pixels, torch.from_numpy(grey)[None].expand(3, 8, 8).float() / 255)
    (two,) = read(save(tmp_path / "c.png", colour))
    assert two.changes == ("colour made grey",)
    luma = colour.astype(float) @ [0.299, 0.587, 0.114]
    assert two.pixels.shape == (1, 8, 8)
    assert np.abs(two.pixels[0].numpy() * 255 - luma).max() <= 1


def test_another_size_is_said(tmp_path) -> None:
    wide = pixels_of(12, 20)
    (one,) = read(save(tmp_path / "w.png", wide))
    assert one.changes == ("resized from 20 x 12 to 8 x 8, the sides cut off",)
    assert torch.equal(one.pixels[0], torch.from_numpy(fit(wide[:, 4:16], 8).copy()).float() / 255)
    (two,) = read(save(tmp_path / "s.png", pixels_of(16, 16)))
    assert two.changes == ("resized from 16 x 16 to 8 x 8",)


def test_what_a_camera_held_upright_is_turned_and_said(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = pixels_of(8, 8)
    Image.fromarray(wide).save(tmp_path / "x.png", exif=exif)
    (one,) = read(tmp_path / "x.png")
    assert one.changes == ("turned as its EXIF orientation says",)
    assert torch.equal(one.pixels[0], torch.from_numpy(np.rot90(wide, -1).copy()).float() / 255)


def test_what_is_no_file_is_never_opened(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "all").mkdir()
    os.mkfifo(tmp_path / "all" / "pipe.png")
    (tmp_path / "all" / "round").symlink_to(tmp_path / "all")
    found = read(tmp_path / "pipe.png", tmp_path / "all")
    assert ["not a regular file" in found[0].reason, "not a file of pixels" in found[1].reason] == [True, True]
    assert "is a link to a folder" in found[2].reason


def test_files_of_arrays_in_a_folder_are_read_too(tmp_path) -> None:
    np.savez(tmp_path / "x.npz", images=pixels_of(2, 8, 8))
    save_file({"images": torch.rand(3, 1, 8, 8)}, tmp_path / "y.safetensors")
    assert [type(one) for one in read(tmp_path)] == [Picture] * 5
    save_file({"pictures": torch.rand(3, 1, 8, 8)}, tmp_path / "y.safetensors")
    assert "holds pictures, but no array named 'images'" in read(tmp_path)[2].reason


def test_a_folder_gives_its_images_in_order(tmp_path) -> None:
    root = tmp_path / "all"
    names = ["a.png", "b/c.jpg", "d.bmp"]
    for name in [*names, ".hidden.png", ".dir/e.png"]:
        save(root / name, pixels_of())
    (root / "notes.txt").write_text("no image")
    outside = save(tmp_path / "outside.png", pixels_of())
    (root / "link.png").symlink_to(outside)
    *found, left_out, last = read(root, outside)
    assert [Path(one.name).name for one in found] == ["a.png", "c.jpg", "d.bmp", "link.png", "notes.txt"]
    assert [type(one) for one in found] == [Picture, Picture, Picture, Unreadable, Unreadable]
    assert "is a link out of" in found[3].reason
    assert "is not a PNG, JPEG" in found[4].reason
    assert isinstance(left_out, LeftOut)
    assert "2 hidden or system files and folders left out" in left_out.reason
    assert last.name == str(outside)
    (empty := tmp_path / "empty").mkdir()
    (nothing,) = read(empty)
    assert isinstance(nothing, Unreadable)
    assert "holds no" in nothing.reason


def test_faults_stay_where_they_are(tmp_path) -> None:
    whole = save(tmp_path / "whole.png", pixels_of(40, 40))
    (cut := tmp_path / "cut.png").write_bytes(whole.read_bytes()[:-200])
    (text := tmp_path / "text.png").write_text("no image at all")
    tiny = save(tmp_path / "tiny.png", pixels_of(2, 9))
    gone = tmp_path / "gone.png"
    found = read(whole, cut, text, tiny, gone, whole)
    assert [type(one) for one in found] == [Picture, *[Unreadable] * 4, Picture]
    for one, reason in zip(
        found[1:5], ("truncated or damaged", "is not a PNG", "9 x 2 pixels", "No such file"), strict=True
    ):
        assert reason in one.reason
    (bomb,) = read(whole, limits=Limits(file_pixels=1000))
    assert "at most 1000 are decoded" in bomb.reason


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 1, 8, 8), (3, 8, 8, 1), (3, 3, 8, 8), (3, 8, 8, 3)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_arrays_in_every_layout(tmp_path, shape, kind) -> None:
    values = RANDOM.random(shape).astype(np.float32) if kind is np.float32 else pixels_of(*shape[:2], *shape[2:])
    np.savez(tmp_path / "x.npz", images=values)
    channels = 3 if 3 in shape[1:] else 1
    found = read(tmp_path / "x.npz", channels=channels)
    assert [one.name for one in found] == [f"{tmp_path}/x.npz[{number}]" for number in range(3)]
    expected = torch.from_numpy(values).float() / (1 if kind is np.float32 else 255)
    if shape[-1] in (1, 3):
        expected = expected.movedim(-1, 1)
    torch.testing.assert_close(torch.stack([one.pixels for one in found]), expected.reshape(3, channels, 8, 8))


def test_an_array_of_colour_is_made_grey(tmp_path) -> None:
    values = RANDOM.random((1, 8, 8, 3)).astype(np.float32)
    np.savez(tmp_path / "x.npz", images=values)
    (one,) = read(tmp_path / "x.npz")
    np.testing.assert_allclose(one.pixels[0].numpy(), values[0] @ [0.299, 0.587, 0.114], atol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"pictures": np.zeros((2, 8, 8), np.uint8)}, "no array named 'images'"),
        ({"images": np.zeros((2, 8), np.uint8)}, "expected (N, H, W)"),
        ({"images": np.zeros((0, 8, 8), np.uint8)}, "no images"),
        ({"images": np.zeros((2, 8, 8), np.int64)}, "int64"),
        ({"images": np.full((2, 8, 8), 7.0, np.float32)}, "expected [0, 1]"),
        ({"images": np.full((2, 8, 8), np.nan, np.float32)}, "NaN"),
    ],
)
def test_arrays_that_are_no_images_are_named(tmp_path, arrays, reason) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    found = read(tmp_path / "x.npz")
    assert found
    assert all(isinstance(one, Unreadable) and reason in one.reason and "x.npz" in one.reason for one in found)


def test_one_bad_image_of_an_array_spoils_no_other(tmp_path) -> None:
    values = RANDOM.random((3, 8, 8)).astype(np.float32)
    values[1, 0, 0] = 2.5
    np.savez(tmp_path / "x.npz", images=values)
    assert [type(one) for one in read(tmp_path / "x.npz")] == [Picture, Unreadable, Picture]
    (tmp_path / "broken.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:100])
    (broken,) = read(tmp_path / "broken.npz")
    assert "is not a complete array file" in broken.reason


def test_a_geometry_takes_the_place_of_the_largest_square(tmp_path) -> None:
    pixels = pixels_of(20, 30, 3)
    path = save(tmp_path / "a.png", pixels)
    (one,) = read(path, channels=3, geometry=Geometry(resize=10, crop=(8, 8), interpolation="bicubic"))
    expected = Image.fromarray(pixels).resize((15, 10), Image.Resampling.BICUBIC).crop((3, 1, 11, 9))
    assert isinstance(one, Picture)
    assert torch.equal(one.pixels, torch.from_numpy(np.array(expected)).permute(2, 0, 1).float() / 255)
    assert one.changes == ("brought from 30 x 20 to 8 x 8 by resize=10,crop=8x8,interpolation=bicubic",)
    (other,) = read(path, channels=3, geometry=Geometry(resize=10))
    assert isinstance(other, Unreadable)
    assert "is 15 x 10 pixels by resize=10,interpolation=bilinear, and the model takes 8 x 8" in other.reason
