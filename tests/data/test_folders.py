from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from memory_defense.data.folders import ImageFolder
from memory_defense.data.limits import Limits
from memory_defense.data.sources import DataNotFoundError

NOISE = np.random.default_rng(11)


def _pixels(*shape: int) -> np.ndarray:
    return NOISE.integers(0, 256, shape, dtype=np.uint8)


def _put(root, files):
    for name, pixels in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


def _grey(root, *names: str):
    """Write grey 6 x 6 images and return what was written."""
    written = {name: _pixels(6, 6) for name in names}
    _put(root, written)
    return written


def _open(root, **options) -> ImageFolder:
    return ImageFolder(root, Limits(), **options)


def test_images_come_sorted_by_class_and_name_as_they_were_written(tmp_path):
    names = ("test/b/2.png", "test/b/10.png", "test/a/x.bmp", "train/b/z.pgm", "train/a/y.PNG", "train/c/q.png")
    written = _grey(tmp_path, *names)
    folder = _open(tmp_path)
    assert (folder.splits, folder.classes) == (("train", "test"), ("a", "b", "c"))
    for split, order, labels in (("train", (4, 3, 5), [0, 1, 2]), ("test", (2, 1, 0), [0, 1, 1])):
        images, found = folder.read(split)
        assert (images.dtype, found.dtype, found.tolist()) == (torch.uint8, torch.int64, labels)
        assert np.array_equal(images.numpy(), np.stack([written[names[n]] for n in order])[:, None])


def test_colour_images_are_channels_first(tmp_path):
    pixels = {"test/a/1.png": _pixels(5, 5, 3), "test/b/1.ppm": _pixels(5, 5, 3)}
    images, _ = _open(_put(tmp_path, pixels)).read("test")
    assert np.array_equal(images.numpy().transpose(0, 2, 3, 1), np.stack(list(pixels.values())))


def test_grey_images_are_repeated_where_one_of_the_set_has_colour(tmp_path):
    written = _grey(tmp_path, "test/a/1.png", "test/b/1.png", "train/a/1.png", "train/b/1.png")
    assert _open(tmp_path).read("test")[0].shape == (2, 1, 6, 6)
    _put(tmp_path, {"train/b/2.png": _pixels(6, 6, 3)})
    for split, count in (("train", 3), ("test", 2)):
        images, _ = _open(tmp_path).read(split)
        assert images.shape == (count, 3, 6, 6), "colour in either split decides for both"
        assert np.array_equal(images[0].numpy(), np.stack([written[f"{split}/a/1.png"]] * 3))


def test_training_folders_number_the_classes_and_empty_ones_count(tmp_path):
    _grey(tmp_path, "train/a/1.png", "train/b/1.png", "train/c/1.png", "test/c/1.png")
    folder = _open(tmp_path)
    assert (folder.classes, folder.read("test")[1].tolist()) == (("a", "b", "c"), [2])
    _grey(tmp_path / "only", "test/b/1.png", "test/c/1.png")
    (tmp_path / "only/test/a").mkdir()
    assert _open(tmp_path / "only").read("test")[1].tolist() == [1, 2]


def test_class_that_only_the_test_images_have_is_refused(tmp_path):
    _grey(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/dgo/1.png")
    with pytest.raises(ValueError, match=r"unknown class 'dgo'; did you mean 'dog'\?"):
        _open(tmp_path)


def test_hidden_files_are_left_out_and_others_of_the_root_are_told(tmp_path, heard):
    _grey(tmp_path, "test/a/1.png", "test/b/1.png")
    for name in (".DS_Store", "test/.DS_Store", "test/a/.DS_Store", "test/a/Thumbs.db", "test/b/desktop.ini"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "test/.hidden").mkdir()
    (tmp_path / "README.txt").write_text("x")
    (tmp_path / "val").mkdir()
    folder = _open(tmp_path, progress=heard)
    assert len(folder.read("test")[1]) == 2
    assert folder.notes == (
        f"not read in {tmp_path}: README.txt, val",
        f"left out in {tmp_path}: 6 hidden, system or text files: .DS_Store (3 times), .hidden, Thumbs.db, "
        "desktop.ini",
    )
    assert heard.stages == [[f"reading {tmp_path / 'test'}", 2, 2]]


def test_progress_counts_every_image_once(tmp_path, heard):
    _grey(tmp_path, *(f"test/{name}/{n}.pgm" for name in "ab" for n in range(103)))
    assert len(_open(tmp_path, progress=heard).read("test")[1]) == 206
    assert heard.stages[0][1:] == [206, 206]


@pytest.mark.parametrize("name", ["notes.doc", "x.heic", "x.npy", "noending"])
def test_files_that_are_no_images_are_named(tmp_path, name):
    _grey(tmp_path, "test/a/1.png", "test/b/1.png")
    (tmp_path / "test/b" / name).write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=rf"test/b/{name} are not .*\.png.* files; convert, move or remove"):
        _open(tmp_path).read("test")


def test_strays_beside_and_within_class_folders_are_named(tmp_path):
    _grey(tmp_path, "test/a/1.png", "test/b/1.png", "test/b/deeper.png/2.png")
    with pytest.raises(ValueError, match=r"test/b/deeper\.png are folders inside class folders"):
        _open(tmp_path).read("test")
    for n in range(7):
        (tmp_path / f"test/{n}.png").write_text("x")
    with pytest.raises(ValueError, match=r"test/0\.png, .*test/4\.png and 2 more lie beside the class folders"):
        _open(tmp_path)


def test_first_image_of_another_size_is_named_unless_all_are_resized(tmp_path):
    _put(tmp_path, {"test/a/1.png": _pixels(8, 8), "test/a/2.png": _pixels(9, 9), "test/b/1.png": _pixels(7, 7)})
    with pytest.raises(ValueError, match=r"a/2\.png is 9 x 9 pixels, but .*a/1\.png is 8 x 8; .*size=8"):
        _open(tmp_path).read("test")
    images, _ = _open(tmp_path).read("test", size=8)
    assert images.shape == (3, 1, 8, 8)
    assert np.array_equal(images[0, 0].numpy(), np.asarray(Image.open(tmp_path / "test/a/1.png")))


@pytest.mark.parametrize(
    ("shape", "said"), [((8, 9), "must be square"), ((3, 3), "at least 4"), ((130, 130), "128")]
)
def test_shapes_that_no_network_takes_are_named(tmp_path, shape, said):
    _put(tmp_path, {"test/a/1.png": _pixels(*shape), "test/b/1.png": _pixels(*shape)})
    with pytest.raises(ValueError, match=rf"a/1\.png is .*{said}"):
        ImageFolder(tmp_path, Limits(side=128, square=True)).read("test")


def test_truncated_image_is_named(tmp_path):
    _grey(tmp_path, "test/a/1.png", "test/b/1.png")
    path = tmp_path / "test/b/1.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"test/b/1\.png is truncated"):
        _open(tmp_path).read("test")


def test_links_may_stay_inside_but_not_leave(tmp_path):
    written = _grey(tmp_path / "data", "test/a/1.png", "test/b/1.png")
    _grey(tmp_path, "elsewhere/secret.png")
    inside = tmp_path / "data/test/b/2.png"
    inside.symlink_to(tmp_path / "data/test/a/1.png")
    (tmp_path / "alias").symlink_to(tmp_path / "data")
    for root in (tmp_path / "data", tmp_path / "alias"):
        images, _ = _open(root).read("test")
        assert np.array_equal(images[2, 0].numpy(), written["test/a/1.png"])
    for place, target in (
        ("test/b/3.png", "elsewhere/secret.png"),
        ("test/c", "elsewhere"),
        ("train", "elsewhere"),
        ("test/b/3.png", "data-beside"),
    ):
        link = tmp_path / "data" / place
        link.symlink_to(tmp_path / target)
        with pytest.raises(ValueError, match=rf"{place} is a link out of .*data, to .*{target}"):
            _open(tmp_path / "data").read("test")
        link.unlink()


def test_broken_and_circular_links_and_pipes_are_no_images(tmp_path):
    _grey(tmp_path, "test/a/1.png", "test/b/1.png")
    path = tmp_path / "test/b/2.png"
    for make in (
        lambda: path.symlink_to(tmp_path / "test/a/none.png"),
        lambda: path.symlink_to(path),
        lambda: os.mkfifo(path),
    ):
        make()
        with pytest.raises(ValueError, match=r"test/b/2\.png are no"):
            _open(tmp_path).read("test")
        path.unlink()


def test_folder_without_splits_says_what_it_holds(tmp_path):
    _grey(tmp_path, "cats/1.png", "dogs/1.png")
    with pytest.raises(
        DataNotFoundError, match=r"neither .*'train' nor .*'test' \(it holds cats, dogs\).*put images at"
    ):
        _open(tmp_path)


def test_classes_are_counted(tmp_path):
    _grey(tmp_path, "test/a/1.png")
    with pytest.raises(ValueError, match=r"test has 1 class, but a classifier needs at least 2"):
        _open(tmp_path)
    _grey(tmp_path, "test/b/1.png", "test/c/1.png")
    with pytest.raises(ValueError, match=r"has 3 classes, at most 2 are read"):
        ImageFolder(tmp_path, Limits(classes=2))
    (tmp_path / "test/d\n").mkdir()
    with pytest.raises(ValueError, match=r"d\\\\n' cannot be shown|d\\n' cannot be shown"):
        _open(tmp_path)


def test_images_and_their_bytes_are_counted(tmp_path):
    _grey(tmp_path, "test/a/1.png", "test/a/2.png", "test/b/1.png")
    with pytest.raises(ValueError, match=r"test holds 3 images, at most 2 are read.*Limits.images"):
        ImageFolder(tmp_path, Limits(images=2)).read("test")
    with pytest.raises(ValueError, match=r"test takes 324 bytes, at most 323 are read.*Limits.memory"):
        ImageFolder(tmp_path, Limits(memory=323)).read("test")
    for folder in ("a", "b"):
        for path in (tmp_path / "test" / folder).iterdir():
            path.unlink()
    with pytest.raises(ValueError, match="test holds no images"):
        _open(tmp_path).read("test")
