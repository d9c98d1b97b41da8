from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from memory_defense.data.array_shapes import framed_all
from memory_defense.data.limits import Limits
from memory_defense.data.own import DataSplit, held_out, load_images, load_splits
from memory_defense.data.sources import DataNotFoundError
from memory_defense.data.spec import DATASETS

NOISE = np.random.default_rng(17)


def _arrays(train: int = 40, test: int = 12, *, channels: int = 3, kind: str = "u1") -> dict[str, np.ndarray]:
    def images(count: int) -> np.ndarray:
        levels = NOISE.integers(0, 256, (count, channels, 5, 5), dtype=np.uint8)
        return levels if kind == "u1" else (levels / 255).astype(kind)

    return {
        "train_images": images(train),
        "train_labels": np.arange(train) % 4,
        "test_images": images(test),
        "test_labels": np.arange(test) % 3,
    }


def _npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def _folder(root, arrays):
    """Write the arrays as a folder; return the order in which its files are to come, by split."""
    order = {}
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = root / split / str(label) / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(path)
        order[split] = np.argsort(labels, kind="stable")
    return order


def _by_id(images):
    return images.take(images.ids.argsort())


def test_folder_and_arrays_give_the_same_images(tmp_path):
    arrays = _arrays()
    order = _folder(tmp_path / "folder", arrays)["test"]
    _npz(tmp_path / "x.npz", **arrays)
    for source, places in ((tmp_path / "folder", order), (str(tmp_path / "x.npz"), np.arange(12))):
        data = load_images(source)
        assert isinstance(data, DataSplit)
        assert (data.split, data.classes, data.channels, data.size) == ("test", ("0", "1", "2", "3"), 3, 5)
        images = _by_id(data.images)
        assert np.array_equal(images.images.numpy(), arrays["test_images"][places])
        assert images.labels.tolist() == arrays["test_labels"][places].tolist()
        assert images.ids.tolist() == list(range(12))
        written = arrays["test_images"][places].tobytes() + arrays["test_labels"][places].astype("<i8").tobytes()
        assert data.sha256 == hashlib.sha256(written).hexdigest()
    assert [load_images(tmp_path / name).name for name in ("folder", "x.npz")] == ["folder", "x.npz"]


def test_float_pixels_stay_what_they_are(tmp_path):
    arrays = _arrays(kind="<f4")
    data = load_images(_npz(tmp_path / "x.npz", **arrays))
    assert data.images.images.dtype == torch.float32
    assert np.array_equal(_by_id(data.images).floats().numpy(), arrays["test_images"])


def test_first_images_are_a_fair_sample_and_always_the_same(tmp_path):
    arrays = _arrays(train=2000, test=1000)
    for name in ("train_labels", "test_labels"):
        arrays[name] = np.sort(arrays[name])
    path = _npz(tmp_path / "x.npz", **arrays)
    splits = load_splits(path)
    for part, classes in ((splits.train, 4), (splits.held_out, 4), (splits.test, 3)):
        counts = part.first(100).labels.bincount()
        assert len(counts) == classes
        assert int(counts.min()) > 12
    assert torch.equal(load_images(path).images.ids, splits.test.ids)


@pytest.mark.parametrize("kind", ["u1", "<f4"])
def test_splits_are_the_parts_of_the_file(tmp_path, kind):
    arrays = _arrays(kind=kind)
    path = _npz(tmp_path / "x.npz", **arrays)
    splits = load_splits(path)
    assert [len(part) for part in (splits.train, splits.held_out, splits.test)] == [36, 4, 12]
    assert splits.held_out.labels.bincount().tolist() == [1] * 4
    assert sorted([*splits.train.ids.tolist(), *splits.held_out.ids.tolist()]) == list(range(40))
    for part in (splits.train, splits.held_out):
        assert np.array_equal(part.images.numpy(), arrays["train_images"][part.ids.numpy()])
        assert np.array_equal(part.labels.numpy(), arrays["train_labels"][part.ids.numpy()])
    spec, pixels = splits.spec, arrays["train_images"].astype(np.float64) / (255 if kind == "u1" else 1)
    assert (spec.name, spec.channels, spec.size, spec.classes) == ("x.npz", 3, 5, ("0", "1", "2", "3"))
    assert (spec.train_images, spec.held_out_images, spec.test_images) == (40, 4, 12)
    assert spec.mean == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-12)
    assert spec.std == pytest.approx(pixels.std((0, 2, 3)), abs=1e-12)
    digest = hashlib.sha256()
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        digest.update(arrays[name].tobytes())
    assert spec.sha256 == digest.hexdigest()


@pytest.mark.parametrize("name", ["train", "held-out", "test"])
def test_one_split_is_that_of_all(tmp_path, name):
    arrays = _arrays()
    _folder(tmp_path / "folder", arrays)
    for source in (tmp_path / "folder", _npz(tmp_path / "x.npz", **arrays)):
        splits = load_splits(source)
        part = {"train": splits.train, "held-out": splits.held_out, "test": splits.test}[name]
        data = load_images(source, split=name)
        for one, other in zip(
            (data.images.images, data.images.labels, data.images.ids),
            (part.images, part.labels, part.ids),
            strict=True,
        ):
            assert torch.equal(one, other)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=120))
def test_a_tenth_of_each_class_is_held_out(numbers):
    labels = torch.tensor(numbers, dtype=torch.int64)
    chosen = held_out(labels, 5)
    for label in range(5):
        count = numbers.count(label)
        expected = 0 if count < 2 else max(1, round(count / 10))
        assert int(chosen[labels == label].sum()) == expected
    torch.manual_seed(len(numbers))
    assert torch.equal(held_out(labels, 5), chosen)


def test_held_out_images_are_not_simply_the_first():
    labels = torch.zeros(1000, dtype=torch.int64)
    places = torch.nonzero(held_out(labels, 1)).flatten().double()
    assert 400 < float(places.mean()) < 600


def test_constant_channel_has_a_deviation_of_1(tmp_path):
    arrays = _arrays()
    arrays["train_images"][:, 1] = 51
    spec = load_splits(_npz(tmp_path / "x.npz", **arrays)).spec
    assert (spec.mean[1], spec.std[1]) == (pytest.approx(0.2), 1.0)


def test_everything_is_resized_where_asked(tmp_path):
    arrays = _arrays()
    path = _npz(tmp_path / "x.npz", **arrays)
    data = load_images(path, size=8)
    assert torch.equal(
        _by_id(data.images).images, framed_all("x", torch.from_numpy(arrays["test_images"]), 8, Limits())
    )
    assert data.sha256 != load_images(path).sha256
    assert load_splits(path, size=8).spec.size == data.size == 8


@pytest.mark.parametrize("name", ["train", "held-out", "test"])
def test_known_names_go_through_the_loader(alone, colour, put, tmp_path, monkeypatch, name):
    monkeypatch.setitem(DATASETS, "cifar10", colour.spec)
    where = put(tmp_path / "mine", colour.records())
    splits = load_splits("cifar10", data_dir=where, offline=True)
    part = {"train": splits.train, "held-out": splits.held_out, "test": splits.test}[name]
    data = load_images("cifar10", split=name, data_dir=where, offline=True)
    assert torch.equal(data.images.images, part.images)
    assert (data.name, data.classes, data.size) == ("cifar10", colour.spec.classes, 5)
    assert splits.spec is colour.spec
    larger = load_images("cifar10", split=name, size=7, data_dir=where, offline=True)
    assert torch.equal(larger.images.images, framed_all("x", part.images, 7, Limits()))
    with pytest.raises(ValueError, match="size is 7, but cifar10 is trained on as it is"):
        load_splits("cifar10", size=7, data_dir=where, offline=True)


def test_path_is_never_taken_for_a_known_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = _arrays()
    _folder(tmp_path / "cifar10", arrays)
    for source in ("./cifar10", tmp_path / "cifar10"):
        assert load_images(source).size == 5
    monkeypatch.chdir(tmp_path / "cifar10")
    assert load_images(".").name == "cifar10"


def test_test_images_alone_are_enough_for_a_test(tmp_path):
    arrays = _arrays()
    path = _npz(tmp_path / "x.npz", images=arrays["test_images"], labels=arrays["test_labels"])
    assert len(load_images(path).images) == 12
    for load in (lambda: load_images(path, split="train"), lambda: load_splits(path)):
        with pytest.raises(DataNotFoundError, match=r"x\.npz has no train images, only test"):
            load()
    path = _npz(tmp_path / "y.npz", train_images=arrays["train_images"], train_labels=arrays["train_labels"])
    assert len(load_images(path, split="held-out").images) == 4
    with pytest.raises(DataNotFoundError, match=r"y\.npz has no test images, only train"):
        load_images(path)


def test_absent_sources_get_a_suggestion(tmp_path):
    with pytest.raises(
        DataNotFoundError, match=r"no folder or file cifar-10; unknown dataset 'cifar-10'; did you mean"
    ):
        load_images("cifar-10")
    with pytest.raises(DataNotFoundError, match=r"no folder or file .*nowhere$"):
        load_images(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["x.pt", "x.pkl", "x.npy", "x"])
def test_other_files_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=rf"{name} is neither a folder nor a \.npz or \.safetensors file"):
        load_images(tmp_path / name)


def test_pipe_is_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="is neither a folder nor"):
        load_images(tmp_path / "x.npz")


def test_options_are_checked_and_passed_on(tmp_path):
    path = _npz(tmp_path / "x.npz", **_arrays())
    for options, said in (
        ({"split": "tset"}, "unknown split 'tset'; did you mean 'test'"),
        ({"size": 3}, "size is 3, but it must be from 4 to 1024"),
        ({"data_dir": tmp_path}, "data_dir is for cifar10, fashion-mnist"),
        ({"limits": Limits(images=11)}, "holds 40 images, at most 11"),
    ):
        with pytest.raises(ValueError, match=said):
            load_images(path, **options)


def test_splits_that_do_not_fit_together_are_refused(tmp_path):
    arrays = _arrays()
    grey = arrays | {"test_images": arrays["test_images"][:, :1]}
    floats = arrays | {"test_images": (arrays["test_images"] / 255).astype("f4")}
    for changed, said in ((grey, r"test images torch.uint8 \(1, 5, 5\)"), (floats, "test images torch.float32")):
        with pytest.raises(ValueError, match=rf"x\.npz: training images are torch.uint8 \(3, 5, 5\), {said}"):
            load_splits(_npz(tmp_path / "x.npz", **changed))
    few = arrays | {"train_labels": np.array([0, 1, 2, 3, *[0] * 36])}
    with pytest.raises(ValueError, match=r"x\.npz: class 1 has 1 training images, but it needs at least 2"):
        load_splits(_npz(tmp_path / "x.npz", **few))


def test_no_class_with_two_images_leaves_nothing_to_hold_out(tmp_path):
    path = _npz(tmp_path / "x.npz", train_images=_arrays()["train_images"][:2], train_labels=np.array([0, 1]))
    with pytest.raises(DataNotFoundError, match="no held-out images"):
        load_images(path, split="held-out")


def test_what_the_system_refuses_names_the_file(tmp_path, monkeypatch):
    _folder(tmp_path, _arrays())

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(ValueError, match=r"test/./\d+\.png cannot be read \(Permission denied\)"):
        load_images(tmp_path)


@pytest.mark.parametrize("load", [load_images, load_splits])
def test_an_unknown_option_is_an_error_for_every_source(load, tmp_path):
    for source in ("fashion-mnist", tmp_path):
        with pytest.raises(TypeError, match="ofline"):
            load(source, ofline=True)
