"""What is read of a source, and no more; and what is said of it."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from memory_defense.data import folder_pixels
from memory_defense.data.folders import ImageFolder
from memory_defense.data.limits import TYPED, Limits
from memory_defense.data.own import load_images, load_splits

NOISE = np.random.default_rng(23)


def fill(root, split="test", *, classes=("ant", "bee"), count=5, shape=(8, 8, 3)):
    for label in classes:
        home = root / split / label
        home.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(NOISE.integers(0, 256, shape, dtype=np.uint8)).save(home / f"{number:03}.png")
    return root


@pytest.fixture
def decoded(monkeypatch):
    """Return the paths that are decoded, as they are."""
    paths, decode = [], folder_pixels.decode_image
    monkeypatch.setattr(
        folder_pixels, "decode_image", lambda path, limits: paths.append(path) or decode(path, limits)
    )
    return paths


@pytest.mark.parametrize("split", ["test", "train", "held-out"])
def test_only_what_is_asked_for_is_decoded(tmp_path, decoded, split):
    for part in ("test", "train"):
        fill(tmp_path, part, count=30)
    every = load_images(tmp_path, split=split)
    decoded.clear()
    some = load_images(tmp_path, split=split, images=4)
    assert len(decoded) == 4
    assert torch.equal(some.images.images, every.images.images[:4])
    assert torch.equal(some.images.labels, every.images.labels[:4])
    assert torch.equal(some.images.ids, every.images.ids[:4])
    assert some.notes == ()


def test_a_damaged_image_that_is_not_asked_for_is_left_alone(tmp_path):
    fill(tmp_path)
    last = int(load_images(tmp_path).images.ids[-1])
    path = sorted((tmp_path / "test").rglob("*.png"))[last]
    path.write_bytes(path.read_bytes()[:40])
    assert len(load_images(tmp_path, images=9).images) == 9
    with pytest.raises(ValueError, match=path.name):
        load_images(tmp_path, images=10)


def test_more_than_there_are_is_all_and_said(tmp_path):
    assert load_images(fill(tmp_path), images=50).notes == (
        "50 images were asked for, but there are 10: all are taken",
    )
    with pytest.raises(ValueError, match="images is 0, but it must be at least 1"):
        load_images(tmp_path, images=0)


@pytest.mark.parametrize(("count", "images"), [(40, None), (200, 40)])
def test_memory_holds_the_pixels_once(tmp_path, count, images):
    fill(tmp_path, count=count // 2, shape=(128, 128, 3))
    load_images(tmp_path, images=2)
    tracemalloc.start()
    folder = ImageFolder(tmp_path, Limits())
    labels = folder.labels("test")
    pixels, _ = folder.read("test", rows=torch.arange(len(labels))[: images or len(labels)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.6 * pixels.numel()


@pytest.mark.parametrize("packed", [np.savez, np.savez_compressed])
def test_memory_holds_the_arrays_that_are_asked_for(tmp_path, packed):
    levels = NOISE.integers(0, 256, (2000, 3, 40, 40), dtype=np.uint8)
    packed(tmp_path / "x.npz", images=levels, labels=np.arange(2000) % 7)
    every = load_images(tmp_path / "x.npz")
    tracemalloc.start()
    some = load_images(tmp_path / "x.npz", images=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert torch.equal(some.images.images, every.images.images[:20])
    assert peak < levels.nbytes / 2
    assert every.classes == some.classes


def test_rows_of_arrays_that_lie_backwards_are_the_same(tmp_path):
    levels = np.asfortranarray(NOISE.integers(0, 256, (50, 8, 8), dtype=np.uint8))
    np.savez(tmp_path / "x.npz", images=levels, labels=np.arange(50) % 3)
    some = load_images(tmp_path / "x.npz", images=7)
    assert np.array_equal(some.images.images[:, 0].numpy(), levels[some.images.ids.numpy()])


def test_a_split_too_large_for_memory_says_how_many_fit(tmp_path):
    fill(tmp_path, count=10)
    limits = Limits(memory=4 * 8 * 8 * 3)
    with pytest.raises(
        ValueError, match=r"test takes 3840 bytes, at most 768 are read; use fewer \(images=4, say\)"
    ):
        load_images(tmp_path, limits=limits)
    assert len(load_images(tmp_path, limits=limits, images=4).images) == 4
    with pytest.raises(
        ValueError, match=r"use fewer \(--images 4, say\) or smaller images, or raise Limits.memory in"
    ):
        load_images(tmp_path, limits=Limits(memory=768, words=TYPED))


class Meddling:
    """A progress during which something happens to the folder."""

    def __init__(self, act):
        self.act = act

    def begin(self, what, total):
        self.act()

    def advance(self, steps, text=""):
        pass

    def note(self, text):
        pass


def test_files_that_arrive_while_a_folder_is_read_are_not_among_the_images_and_said(tmp_path):
    fill(tmp_path)
    late = tmp_path / "test/bee/late.png"
    act = Meddling(lambda: Image.new("RGB", (8, 8)).save(late))
    os.utime(tmp_path / "test/bee", ns=(0, 0))
    data = load_images(tmp_path, progress=act)
    assert len(data.images) == 10
    assert data.notes == (
        f"1 files arrived in {tmp_path / 'test'} while it was read, and are not among the images: late.png",
    )


def test_files_that_change_while_a_folder_is_read_are_said(tmp_path):
    path = fill(tmp_path) / "test/bee/001.png"
    data = load_images(tmp_path, progress=Meddling(lambda: Image.new("RGB", (8, 8)).save(path)))
    assert data.notes == (f"1 files in {tmp_path / 'test'} changed while it was read: read as they are now",)


def test_a_file_that_vanishes_is_named(tmp_path):
    path = fill(tmp_path) / "test/bee/001.png"
    with pytest.raises(ValueError, match=r"bee/001\.png vanished while .*test was read; read it again"):
        load_images(tmp_path, progress=Meddling(path.unlink))


def test_turned_images_are_counted(tmp_path):
    fill(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (8, 8)).save(tmp_path / "test/ant/turned.jpg", exif=exif)
    assert load_images(tmp_path).notes == ("1 of 11 images in test turned as their EXIF orientation says",)


def test_the_same_image_in_two_classes_is_said(tmp_path):
    fill(tmp_path)
    (tmp_path / "test/bee/copy.bmp").touch()
    Image.open(tmp_path / "test/ant/002.png").save(tmp_path / "test/bee/copy.bmp")
    (note,) = load_images(tmp_path).notes
    assert note.startswith("1 image of two classes: same pixels as another, such as ")
    assert {"test/ant/002.png", "test/bee/copy.bmp"} <= set(note.replace(":", " ").split())


def test_the_same_image_in_train_and_test_is_said(tmp_path):
    arrays = {f"{split}_images": NOISE.integers(0, 256, (12, 5, 5), dtype=np.uint8) for split in ("train", "test")}
    arrays["test_images"][3:5] = arrays["train_images"][6:8]
    labels = {f"{split}_labels": np.arange(12) % 3 for split in ("train", "test")}
    np.savez(tmp_path / "x.npz", **arrays, **labels)
    (note,) = load_splits(tmp_path / "x.npz").notes
    assert note.startswith("2 images of train and test: same pixels as another, such as train_images[")
    assert load_images(tmp_path / "x.npz").notes == ()


COLUMN = np.arange(24) % 4


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("images", "labels"), COLUMN[:, None]),
        (("images", "labels"), COLUMN[None]),
        (("x_test", "y_test"), COLUMN),
        (("X", "y"), COLUMN),
        (("data", "labels"), COLUMN.astype(np.uint8)[:, None]),
        (("test_images", "test_labels"), COLUMN.astype(">u2")),
    ],
)
@pytest.mark.parametrize("first", [True, False], ids=["channels first", "channels last"])
def test_arrays_as_people_save_them_are_read_and_what_was_assumed_is_said(tmp_path, names, labels, first):
    levels = NOISE.integers(0, 256, (24, 3, 8, 8), dtype=np.uint8)
    saved = levels if first else levels.transpose(0, 2, 3, 1)
    np.savez(tmp_path / "x.npz", **dict(zip(names, (saved, labels), strict=True)))
    data = load_images(tmp_path / "x.npz")
    assert data.images.labels.tolist() == (data.images.ids % 4).tolist()
    assert np.array_equal(data.images.images.numpy(), levels[data.images.ids.numpy()])
    said = " ".join(data.notes)
    assert ("taken as (24,)" in said) == (labels.ndim == 2)
    assert ("is taken for" in said) == ("images" not in names[0])


def test_arrays_for_validation_are_left_out_and_said(tmp_path):
    levels = NOISE.integers(0, 256, (6, 8, 8), dtype=np.uint8)
    labels = np.arange(6)[:, None] % 2
    split = {f"{name}_images": levels for name in ("train", "val", "test")}
    np.savez(tmp_path / "x.npz", **split, **{f"{name}_labels": labels for name in ("train", "val", "test")})
    assert f"{tmp_path / 'x.npz'}: val_images, val_labels not read" in load_images(tmp_path / "x.npz").notes


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (
            {"images": np.ones((3, 5, 5), "u1") * 9, "x": np.ones((3, 5, 5)), "labels": [0, 1, 0]},
            "which mean the same",
        ),
        (
            {"images": np.ones((2, 5, 5), "u1") * 9, "labels": np.array(["a", "b"])},
            r"numpy.unique\(labels, return_inv",
        ),
        ({"images": np.ones((3, 5, 5), "u1") * 9, "labels": [0, np.nan, 1]}, "nan is none"),
        ({"images": np.ones((3, 5, 5), "u1") * 9, "labels": np.eye(3)}, r"one-hot\?.*use labels.argmax\(1\)"),
        ({"images": np.ones((3, 5, 5), "u1") * 9, "labels": np.ones((3, 2), int)}, "several for an image"),
        ({"images": np.ones((3, 75), "u1") * 9, "labels": [0, 1, 0]}, r"shape \(3, 75\).*; reshape them"),
        (
            {"images": np.ones((5, 5, 3, 4), "u1") * 9, "labels": [0, 1, 0, 1]},
            r"use images.transpose\(3, 2, 0, 1\)",
        ),
        ({"images": np.ones((3, 4, 5, 5), "u1") * 9, "labels": [0, 1, 0]}, "leave out the transparency"),
    ],
)
def test_arrays_that_could_mean_something_else_are_refused_with_a_way_out(tmp_path, arrays, said):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=rf"x\.npz.*{said}"):
        load_images(tmp_path / "x.npz")


def test_images_need_not_be_square_where_nothing_is_trained(tmp_path):
    data = load_images(fill(tmp_path, shape=(6, 10, 3)))
    assert data.images.images.shape == (10, 3, 6, 10)
    with pytest.raises(ValueError, match="images are 10 x 6 pixels, which is not a square"):
        _ = data.size
    fill(tmp_path, "train", shape=(6, 10, 3))
    with pytest.raises(ValueError, match=r"is 10 x 6 pixels, but images must be square; resize .* size=6"):
        load_splits(tmp_path)
    assert load_splits(tmp_path, size=6).spec.size == 6


def test_224_pixels_are_evaluated_and_trained_on(tmp_path):
    for split in ("train", "test"):
        fill(tmp_path, split, count=2, shape=(224, 224, 3))
    assert load_images(tmp_path).size == load_images(tmp_path, size=224).size == 224
    assert load_splits(tmp_path).spec.size == 224
    assert load_splits(tmp_path, size=128).spec.size == 128
