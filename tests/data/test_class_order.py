"""Which label a class folder has."""

from __future__ import annotations

import re
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from memory_defense.data.own import load_images, load_splits

pytestmark = pytest.mark.filterwarnings("ignore:class")
NFC, NFD = "caf\u00e9", "cafe\u0301"


def put(root, split, *names, count=1, start=0):
    """Write `count` grey images into each class folder; the level says which."""
    for place, name in enumerate(names):
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(np.full((4, 4), start + 10 * place + number, np.uint8)).save(folder / f"{number}.png")
    return root


def label_of(data, level):
    """Return the label of the image of this level."""
    return int(data.images.labels[(data.images.images[:, 0, 0, 0] == level).nonzero()[0, 0]])


def test_numbered_folders_follow_their_numbers_and_it_is_said(tmp_path):
    names = [str(k) for k in range(12)]
    data = load_images(put(tmp_path, "test", *names))
    assert data.classes == tuple(names)
    assert [label_of(data, 10 * k) for k in range(12)] == list(range(12))
    assert data.otherwise == ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")
    (note,) = data.notes
    assert note.startswith("classes: 0, 1, 2, 3, 4 and 7 more, in the order of their numbers; sorted as text they")


@pytest.mark.parametrize(
    ("names", "order", "said"),
    [
        (["00", "01", "10"], ["00", "01", "10"], "01 is label 1|10 is label 2"),
        (["3", "1", "2"], ["1", "2", "3"], "class folder 1 is label 0: .* make an empty folder for each"),
        (["0", "9", "10"], ["0", "9", "10"], "in the order of their numbers"),
        (
            ["class_9", "class_10"],
            ["class_10", "class_9"],
            r"sorted as text: class_10, class_9; .* class_9, class_10",
        ),
        (["9_cat", "10_dog"], ["10_dog", "9_cat"], "sorted as text"),
        (["Cat", "cat"], ["Cat", "cat"], "'Cat' and 'cat' differ only in case"),
        (["cafz", NFD], [NFD, "cafz"], "accents apart"),
    ],
)
def test_other_orders_are_told(tmp_path, names, order, said):
    data = load_images(put(tmp_path, "test", *names))
    assert list(data.classes) == order
    assert any(re.search(said, note) for note in data.notes), data.notes


def test_plain_names_need_no_word(tmp_path):
    assert load_images(put(tmp_path, "test", "ant", "bee", "cat")).notes == ()
    assert load_images(put(tmp_path / "numbers", "test", "0", "1", "2")).notes == ()


def test_two_folders_of_one_number_are_refused(tmp_path):
    put(tmp_path, "test", "1", "01", "2")
    with pytest.raises(ValueError, match=r"class folders .* are one number; put their images into one folder"):
        load_images(tmp_path)
    (tmp_path / "class_order.txt").write_text("01\n1\n2\n")
    assert load_images(tmp_path).classes == ("01", "1", "2")


def test_a_listed_order_is_taken_and_may_have_classes_without_images(tmp_path):
    put(tmp_path, "test", "0", "1", "10", "2")
    (tmp_path / "class_order.txt").write_text("\ufeff0\r\n1\r\n10\r\n\r\n2\nnone\n", encoding="utf8")
    data = load_images(tmp_path)
    assert data.classes == ("0", "1", "10", "2", "none")
    assert data.otherwise is None
    assert label_of(data, 20) == 2
    assert data.notes == (
        f"classes in the order of {tmp_path / 'class_order.txt'}",
        "classes without images in test: none",
    )
    assert load_images(tmp_path, classes=["2", "1", "0", "10"]).classes == ("2", "1", "0", "10")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"0\n1\n", r"test: unknown class '2'.*the lines of .*class_order.txt.*rename or remove the folder"),
        (b"0\n1\n2\n1\n", "name class '1' twice"),
        (b"", "names no class"),
        (b"0\n1\n2\n\x1b[2J\n", "cannot be shown"),
        (b"\xff\xfe0\n", "is not a list of class names in UTF-8"),
    ],
)
def test_a_listing_that_is_none_is_refused(tmp_path, content, said):
    put(tmp_path, "test", "0", "1", "2")
    (tmp_path / "class_order.txt").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        load_images(tmp_path)


def test_accents_composed_or_not_are_one_class(tmp_path):
    names = ["caf\u00e9", "na\u00efve", "tea", "zinc"]
    put(tmp_path, "train", *names, count=2)
    put(tmp_path, "test", *(unicodedata.normalize("NFD", name) for name in names), start=5)
    data = load_images(tmp_path)
    assert data.classes == tuple(names)
    assert [label_of(data, 5 + 10 * k) for k in range(4)] == [0, 1, 2, 3]
    assert "composed differently from elsewhere: taken as one class" in " ".join(data.notes)
    assert load_splits(tmp_path).spec.classes == tuple(names)


def test_two_spellings_in_one_split_are_one_class_too(tmp_path):
    put(tmp_path, "test", NFC, "tea")
    put(tmp_path, "test", NFD, start=100)
    data = load_images(tmp_path)
    assert data.classes == (NFD, "tea"), "the first as text"
    assert [label_of(data, level) for level in (0, 100, 10)] == [0, 0, 1]


def test_what_archives_and_systems_leave_behind_is_no_class(tmp_path):
    put(tmp_path, "test", "ant", "bee")
    for name in ("__MACOSX/ant", "@eaDir", ".ipynb_checkpoints", ".git"):
        (tmp_path / "test" / name).mkdir(parents=True)
    for name in ("__MACOSX/ant/._0.png", "ant/Thumbs.db", "ant/._0.png", "README.md", "sums.sha256"):
        (tmp_path / "test" / name).write_bytes(b"x")
    data = load_images(tmp_path)
    assert data.classes == ("ant", "bee")
    (note,) = data.notes
    assert note.startswith(f"left out in {tmp_path}: 8 hidden, system or text files: ")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: shutil.move(root / "test", root / "data"), "neither a folder 'train' nor .* put images at"),
        (
            lambda root: (root / "inner").mkdir() or shutil.move(root / "test", root / "inner/test"),
            r"are in .*inner: give",
        ),
        (lambda root: shutil.move(root / "test", root / "Test"), "rename 'Test' to 'test'"),
        (
            lambda root: (
                shutil.copytree(root / "test", root / "test/test/x")
                and [shutil.rmtree(root / "test" / name) for name in ("ant", "bee")]
            ),
            "test/test holds folders and is the only class folder: a level too deep. move what it holds to .*test$",
        ),
        (lambda root: shutil.move(root / "test", root / "val"), "rename 'val' to 'test'"),
        (
            lambda root: shutil.rmtree(root / "test") or (root / "test").write_bytes(b"x"),
            "'test' is a file: give a folder",
        ),
    ],
)
def test_folders_beside_the_point_get_the_way_out(tmp_path, make, said):
    put(tmp_path, "test", "ant", "bee")
    make(tmp_path)
    with pytest.raises(ValueError, match=said):
        load_images(tmp_path)
