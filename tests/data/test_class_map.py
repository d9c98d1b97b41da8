"""Class folders and the outputs of a model that knows more classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from memory_defense.data.class_map import Numbers, class_names, found_numbers, listed_numbers, read_listing
from memory_defense.data.own import load_images, relabelled


def _listing(path, text):
    path.write_text(text)
    return read_listing(path), path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ant\nbee\ncat\ndog\n", (3, 1)),  # the model's classes
        ("7\n2\n", (7, 2)),  # a number for each folder
        ("bee 2\ndog\t7\n", (7, 2)),
        ("dog 7\nbee 2\nelk 1\n", (7, 2)),
    ],
)
def test_a_file_says_which_output_a_folder_is(tmp_path, text, expected):
    assert listed_numbers(("dog", "bee"), *_listing(tmp_path / "c.txt", text)).outputs == expected


def test_names_with_numbers_in_them_are_names_where_folders_have_them(tmp_path):
    lines, where = _listing(tmp_path / "c.txt", "class 3\nclass 1\n")
    assert listed_numbers(("class 1", "class 3"), lines, where).outputs == (1, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ant\nbee\n", "unknown class 'dog'.*write the folder's name and its number on each line"),
        ("bee 2\nant 1\n", "unknown class folder 'dog'.*add a line for it"),
    ],
)
def test_a_folder_that_the_file_does_not_have_is_named(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        listed_numbers(("dog", "bee"), *_listing(tmp_path / "c.txt", text))
    with pytest.raises(ValueError, match="does not exist; write a class a line"):
        read_listing(tmp_path / "none.txt")


def test_imagenet_synsets_are_its_classes_by_index():
    folders = ("n01440764", "n02123045", "n02099601", "n15075141")
    found = found_numbers(folders, 1000)
    assert found is not None
    assert found.outputs == (0, 281, 207, 999)  # tench, tabby, golden retriever, toilet tissue
    assert found_numbers(folders, 999) is None
    assert found_numbers((*folders, "n00000000"), 1000) is None


def test_numbers_are_outputs_only_where_there_are_more_of_them():
    found = found_numbers(("5", "207"), 1000)
    assert found is not None
    assert (found.outputs, "5, 207 are named by, among the 1,000 outputs" in found.why) == ((5, 207), True)
    assert found_numbers(("1", "2"), 2) is None
    assert found_numbers(("1", "2000"), 1000) is None
    assert found_numbers(("cat", "7"), 1000) is None


def test_the_models_own_names_come_first():
    names = ("tench, Tinca tinca", "tabby, tabby cat", "Egyptian cat", "crane", "crane")
    found = found_numbers(("egyptian_cat", "Tabby-Cat", "tench"), 5, names)
    assert found is not None
    assert found.outputs == (2, 1, 0)
    assert found_numbers(("crane", "tench"), 5, names) is None  # two outputs have that name
    said = "labels are the outputs that the model itself names so"
    assert found_numbers(("b", "a"), 2, ("a", "b")) == Numbers((1, 0), said)


def test_every_output_has_one_name():
    assert class_names(("b", "1"), (2, 0), 4) == ("1", "output 1", "b", "3")


def test_relabelled_images_keep_their_pixels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 5), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=[0, 1, 2, 0, 1, 2], classes=["a", "b", "c"])
    data = load_images(tmp_path / "x.npz")
    found = relabelled(data, Numbers((7, 0, 3), "so"), 10)
    assert torch.equal(found.images.labels, torch.tensor([7, 0, 3])[data.images.labels])
    assert torch.equal(found.images.images, data.images.images)
    assert (len(found.classes), found.classes[7], found.notes[-1]) == (10, "a", "so")
    assert found.sha256 != data.sha256
    with pytest.raises(ValueError, match="class 'b' has the number 10, but the model has 10 outputs"):
        relabelled(data, Numbers((7, 10, 3), "so"), 10)
