from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from memory_defense.data.array_files import ArrayFile
from memory_defense.data.decode import DamagedDataError
from memory_defense.data.limits import Limits, fit

LIMITS = Limits()
NOISE = np.random.default_rng(13)
LEVELS = NOISE.integers(0, 256, (6, 3, 5, 5), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0])


def _npz(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def _safetensors(path, arrays, metadata=None):
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(value, value.dtype.newbyteorder("=")))
        for name, value in arrays.items()
    }
    save_file(tensors, path, metadata or {"made by": "a test, for which any other metadata are fine"})
    return path


def _open(path, **limits) -> ArrayFile:
    return ArrayFile(path, Limits(**limits))


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(2, 5),
    channels=st.sampled_from([1, 3]),
    side=st.integers(4, 9),
    layout=st.sampled_from(["NCHW", "NHWC", "NHW"]),
    kind=st.sampled_from(["u1", "<f4", ">f4", "<f8", "<f2"]),
    label_kind=st.sampled_from(["u1", "i1", ">i2", "u4", "<i8", "u8"]),
    ending=st.sampled_from(["npz", "safetensors"]),
    seed=st.integers(0, 1000),
)
def test_every_layout_and_type_comes_back_as_it_went(
    tmp_path_factory, count, channels, side, layout, kind, label_kind, ending, seed
):
    noise = np.random.default_rng(seed)
    channels = 1 if layout == "NHW" else channels
    levels = noise.integers(0, 256, (count, channels, side, side), dtype=np.uint8)
    levels[0, 0, 0, 0] = 255
    images = levels if kind == "u1" else (levels / 255).astype(kind)
    labels = np.array([n % 2 for n in range(count)]).astype(label_kind)
    stored = {"NCHW": images, "NHWC": images.transpose(0, 2, 3, 1), "NHW": images[:, 0]}[layout]
    path = tmp_path_factory.mktemp("arrays") / f"x.{ending}"
    if ending == "npz":
        _npz(path, images=stored, labels=labels)
    else:
        _safetensors(path, {"images": stored, "labels": labels})
    opened = ArrayFile(path, LIMITS)
    found, numbers = opened.read("test")
    assert (opened.splits, opened.classes) == (("test",), ("0", "1"))
    assert numbers.tolist() == labels.tolist()
    assert (numbers.dtype, found.dtype) == (torch.int64, torch.uint8 if kind == "u1" else torch.float32)
    assert found.is_contiguous()
    assert np.array_equal(found.numpy(), images if kind == "u1" else images.astype(np.float32))


def test_named_splits_and_classes(tmp_path):
    arrays = {
        "train_images": LEVELS,
        "train_labels": LABELS,
        "test_images": LEVELS[:2, :1],
        "test_labels": np.array([3, 0], np.uint8),
    }
    names = ["cat", "dog", "ibis", "zebra", "ölm"]
    _safetensors(tmp_path / "x.safetensors", arrays, {"classes": json.dumps(names)})
    for path in (_npz(tmp_path / "x.npz", **arrays, classes=np.array(names)), tmp_path / "x.safetensors"):
        opened = ArrayFile(path, LIMITS)
        assert (opened.splits, opened.classes) == (("train", "test"), tuple(names))
        assert np.array_equal(opened.read("train")[0].numpy(), LEVELS)
        images, labels = opened.read("test")
        assert (images.shape, labels.tolist()) == ((2, 1, 5, 5), [3, 0])


def test_labels_of_all_splits_number_the_classes(tmp_path):
    path = _npz(
        tmp_path / "x.npz",
        train_images=LEVELS,
        train_labels=LABELS + 2,
        test_images=LEVELS[:2],
        test_labels=np.array([0, 1]),
    )
    assert ArrayFile(path, LIMITS).classes == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize("images", [LEVELS, (LEVELS / 255).astype(np.float32)], ids=["levels", "floats"])
def test_resizing_is_that_of_every_single_image(tmp_path, images):
    wide = np.concatenate([images, images], axis=3)
    path = _npz(tmp_path / "x.npz", images=wide, labels=LABELS)
    with pytest.raises(ValueError, match=r"x\.npz: images is 10 x 5 pixels, but images must be square; .*size=5"):
        ArrayFile(path, Limits(square=True)).read("test")
    assert np.array_equal(ArrayFile(path, LIMITS).read("test")[0].numpy(), wide)
    found, _ = ArrayFile(path, LIMITS).read("test", size=8)
    assert found.shape == (6, 3, 8, 8)
    for image, result in zip(wide, found, strict=True):
        assert np.array_equal(result.permute(1, 2, 0).numpy(), fit(image.transpose(1, 2, 0), 8))
    same = _npz(tmp_path / "y.npz", images=images, labels=LABELS)
    assert np.array_equal(ArrayFile(same, LIMITS).read("test", size=5)[0].numpy(), images)


ONE_HOT = np.eye(3)[LABELS]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (ONE_HOT, r"one-hot\? expected \(B,\); use labels.argmax\(1\)"),
        (ONE_HOT.astype(int), "one-hot"),
        (np.stack([LABELS, LABELS], 1), r"shape \(6, 2\), several for an image"),
        (
            LABELS.astype(np.float32),
            r"labels are torch.float32, expected whole numbers; use labels.astype\('int64'\)",
        ),
        (LABELS + 0.5, "and 0.5 is none"),
        (LABELS.astype(bool), "torch.bool"),
        (LABELS.astype(complex), "complex"),
        (LABELS - 1, r"labels span -1\.\.1, expected at least 0"),
        (LABELS + 1, "no image has label 0.*subtract 1"),
        (LABELS * 0, "has 1 class, but a classifier needs at least 2"),
        (LABELS * 1000, "has 2001 classes, at most 1000"),
        (LABELS[:5], r"labels have shape \(5,\), expected \(6,\)"),
        (np.int64(1), r"labels have shape \(\)"),
        (LABELS[:0], "holds no images"),
        (np.array([2**64 - 1, 0, 1, 1, 1, 1], np.uint64), "labels span -1"),
        (np.array(list("abcabc")), "is <U1, expected"),
    ],
)
def test_what_are_no_labels_is_refused(tmp_path, labels, said):
    path = _npz(tmp_path / "x.npz", images=LEVELS, labels=labels)
    with pytest.raises(ValueError, match=rf"x\.npz.*{said}"):
        ArrayFile(path, LIMITS).read("test")


def test_labels_beyond_the_named_classes_are_refused(tmp_path):
    path = _npz(tmp_path / "x.npz", images=LEVELS, labels=LABELS, classes=np.array(["a", "b"]))
    with pytest.raises(ValueError, match=r"x\.npz: labels: labels span 0\.\.2, .*below 2, the number of classes"):
        ArrayFile(path, LIMITS)
    path = _npz(tmp_path / "x.npz", images=LEVELS, labels=LABELS + 1, classes=np.array(["a", "b", "c", "d"]))
    assert ArrayFile(path, LIMITS).read("test")[1].tolist() == (LABELS + 1).tolist()


FLOATS = (LEVELS / 255).astype(np.float32)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (FLOATS * 255, r"expected \[0, 1\]; they look like grey levels: use x / 255"),
        (FLOATS - 0.5, "look normalised"),
        (np.where(FLOATS < 0.1, np.nan, FLOATS), "NaN or infinite"),
        ((FLOATS > 0.5).astype(np.uint8), "uint8 and at most 1, which is black"),
        (FLOATS > 0.5, "torch.bool, expected uint8"),
        (LEVELS.astype(np.int64), "torch.int64, expected uint8"),
        (LEVELS[:, :2], r"shape \(6, 2, 5, 5\), expected \(N, H, W\)"),
        (LEVELS[0, 0], r"shape \(5, 5\)"),
        (LEVELS[:, :, :3], "is 5 x 3 pixels, but each side must have at least 4"),
        (LEVELS[:0], r"shape \(6,\), expected \(0,\)"),
        (np.zeros((6, 8, 1025), np.uint8), "is 1025 x 8 pixels, .* at most 1024 pixels a side; resize .*size=224"),
    ],
)
def test_what_are_no_images_is_refused(tmp_path, images, said):
    path = _npz(tmp_path / "x.npz", images=images, labels=LABELS)
    with pytest.raises(ValueError, match=rf"x\.npz: (images|labels).*{said}"):
        ArrayFile(path, LIMITS).read("test")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("images",), "lacks labels"),
        (("labels",), "lacks images"),
        (("test_images", "test_labels", "train_images"), "lacks train_labels"),
        (("images", "labels", "test_images", "test_labels"), "holds bare images or labels and named splits"),
        (("images", "labels", "ids"), "holds ids, but only images, labels, train_images.* and classes are read"),
        (("classes",), "holds no images"),
    ],
)
def test_names_that_do_not_make_splits_are_refused(tmp_path, names, said):
    arrays = {
        name: np.array(["a", "b", "c"]) if name == "classes" else LEVELS if "images" in name else LABELS
        for name in names
    }
    with pytest.raises(ValueError, match=rf"x\.npz {said}"):
        ArrayFile(_npz(tmp_path / "x.npz", **arrays), LIMITS)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (np.array(["a", "b", "a"]), "a name twice"),
        (np.array(["a", "b", ""]), "an empty one"),
        (np.array(["a", "b", "c\x1b[2J"]), "cannot be shown"),
        (np.array(["a"]), r"expected at least 0 and below 1"),
        (np.arange(3), r"int64 \(3,\), expected strings \(K,\)"),
        (np.array([["a", "b", "c"]]), r"expected strings \(K,\)"),
        (np.array([b"a", b"b", b"c"]), r"expected strings"),
    ],
)
def test_what_are_no_class_names_is_refused(tmp_path, classes, said):
    path = _npz(tmp_path / "x.npz", images=LEVELS, labels=LABELS, classes=classes)
    with pytest.raises(ValueError, match=said):
        ArrayFile(path, LIMITS)


@pytest.mark.parametrize("text", ["cat, dog, ibis", '{"a": 1}', "[1, 2, 3]", "[" * 100_000, "3"])
def test_metadata_that_is_no_list_of_names_is_refused(tmp_path, text):
    _safetensors(tmp_path / "x.safetensors", {"images": LEVELS, "labels": LABELS}, {"classes": text})
    with pytest.raises(ValueError, match=r"x\.safetensors: metadata 'classes' is not a JSON list of strings"):
        ArrayFile(tmp_path / "x.safetensors", LIMITS)


def test_python_objects_and_pickles_are_refused_unread(tmp_path):
    path = _npz(tmp_path / "x.npz", images=np.array([print] * 6, dtype=object), labels=LABELS)
    with pytest.raises(ValueError, match="images holds Python objects"):
        ArrayFile(path, LIMITS).read("test")
    torch.save({"images": torch.from_numpy(LEVELS)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="is a pickle"):
        ArrayFile(tmp_path / "x.safetensors", LIMITS)


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_truncated_file_is_named(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    if ending == "npz":
        _npz(path, images=LEVELS, labels=LABELS)
    else:
        _safetensors(path, {"images": LEVELS, "labels": LABELS})
    content = path.read_bytes()
    for kept in (0, 5, 40, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(ValueError, match=rf"x\.{ending} is no"):
            ArrayFile(path, LIMITS).read("test")


def test_flipped_pixel_of_a_stored_array_is_damage(tmp_path):
    np.savez(tmp_path / "x.npz", images=LEVELS, labels=LABELS)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[content.index(LEVELS.tobytes()) + 50] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DamagedDataError, match=r"x\.npz: images is not a complete array file"):
        ArrayFile(tmp_path / "x.npz", LIMITS).read("test")


def test_bytes_and_images_are_counted(tmp_path):
    path = _npz(tmp_path / "x.npz", images=FLOATS.astype(np.float16), labels=LABELS)
    size = FLOATS.size * 2
    for limits, said in (
        ({"memory": size - 1}, rf"x\.npz: images takes {size} bytes, at most {size - 1} .*\(images=5, say\)"),
        ({"memory": 4 * FLOATS.size - 1}, f"images takes {4 * FLOATS.size} bytes"),
        ({"images": 5}, "labels holds 6 images, at most 5"),
        ({"classes": 2}, "has 3 classes, at most 2"),
    ):
        with pytest.raises(ValueError, match=said):
            _open(path, **limits).read("test")
    with pytest.raises(ValueError, match=f"images takes {6 * 3 * 128 * 128 * 4} bytes"):
        _open(path, memory=10_000).read("test", size=128)
