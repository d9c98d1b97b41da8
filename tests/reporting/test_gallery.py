from __future__ import annotations

import pickle

import pytest
import torch

from memory_defense.reporting.gallery import METADATA, OPTIONAL, REQUIRED, Gallery


def test_reads_back_what_was_written(write_gallery):
    gallery = Gallery.read(write_gallery())
    assert len(gallery) == 2
    assert gallery.classes == ("coat", "bag", "shoe")
    assert (gallery.attack, gallery.knowledge, gallery.norm) == ("PGD-40", "selector", "linf")
    assert (gallery.epsilon, gallery.defense) == (0.1, "memory-defense")
    assert gallery.reconstructions is not None
    assert gallery.reconstructions.shape == (2, 3, 1, 4, 4)
    torch.testing.assert_close((gallery.adversarial - gallery.images)[0, 0, 0, 0], torch.tensor(0.1))


def test_a_defense_without_slots_leaves_them_out(write_gallery):
    gallery = Gallery.read(write_gallery(dict.fromkeys(OPTIONAL)))
    assert gallery.reconstructions is None
    assert gallery.slots_clean is None
    assert gallery.attention_clean is None


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_tensor_is_named(write_gallery, name):
    with pytest.raises(ValueError, match=rf"gallery.safetensors is not a gallery: the tensor '{name}' is missing"):
        Gallery.read(write_gallery({name: None}))


@pytest.mark.parametrize("name", METADATA)
def test_a_missing_header_entry_is_named(write_gallery, name):
    with pytest.raises(ValueError, match=f"header entry '{name}' is missing"):
        Gallery.read(write_gallery(header={name: None}))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"adversarial": torch.zeros(2, 1, 4, 5)},
            r"adversarial has shape \(2, 1, 4, 5\), expected \(2, 1, 4, 4\)",
        ),
        ({"images": torch.zeros(2, 4, 4)}, "images have shape"),
        ({"images": torch.full((2, 1, 4, 4), 200.0)}, "x / 255"),
        ({"images": torch.zeros(2, 2, 4, 4), "adversarial": torch.zeros(2, 2, 4, 4)}, "expected 1 .grey. or 3"),
        ({"adversarial": torch.full((2, 1, 4, 4), float("nan"))}, "NaN"),
        ({"labels": torch.tensor([0])}, r"labels has shape \(1,\)"),
        ({"labels": torch.tensor([0.0, 1.0])}, "labels is torch.float32"),
        ({"predictions_clean": torch.tensor([0, 3])}, "predictions_clean spans 0..3, but there are 3 classes"),
        ({"slots_adversarial": torch.tensor([-1, 0])}, "slots_adversarial spans -1..0"),
        ({"slots_adversarial": None}, "slots_adversarial is missing; give both"),
        ({"attention_clean": None}, "attention_clean is missing; give both"),
        ({"attention_clean": torch.zeros(2, 7)}, "attention_clean has 7 memory items for 3 slots"),
        ({"attention_clean": torch.zeros(3, 6)}, r"attention_clean has shape \(3, 6\)"),
        ({"attention_clean": torch.full((2, 6), -0.5)}, "weights are at least 0"),
        ({"attention_clean": torch.zeros(2, 6, dtype=torch.int64)}, "expected torch.float32"),
        ({"reconstructions": torch.zeros(2, 4, 1, 4, 4)}, "reconstructions has shape"),
        ({"reconstructions": torch.full((2, 3, 1, 4, 4), float("inf"))}, "reconstructions holds NaN"),
        ({"reconstruction": torch.zeros(1)}, "did you mean 'reconstructions'"),
    ],
)
def test_wrong_tensors_are_refused(write_gallery, tensors, message):
    with pytest.raises(ValueError, match=message):
        Gallery.read(write_gallery(tensors))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"classes": "coat, bag"}, "not a gallery"),
        ({"classes": "[]"}, "no classes"),
        ({"classes": '{"coat": 1}'}, "expected a JSON list"),
        ({"classes": "[1, 2, 3]"}, "expected a JSON list"),
        ({"epsilon": "8/255"}, "could not convert"),
        ({"epsilon": "nan"}, "epsilon is nan"),
        ({"epsilon": "-1"}, "epsilon is -1"),
    ],
)
def test_wrong_headers_are_refused(write_gallery, header, message):
    with pytest.raises(ValueError, match=message):
        Gallery.read(write_gallery(header=header))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.999])
def test_a_truncated_file_is_refused(write_gallery, share):
    path = write_gallery()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"not a whole safetensors file"):
        Gallery.read(path)


class Fatal:
    """Unpickling this ends the test run."""

    def __reduce__(self):
        return exit, (3,)


@pytest.mark.parametrize("content", [pickle.dumps(Fatal()), b"<!doctype html><html></html>", b"\xff" * 100])
def test_other_files_in_disguise_are_refused(tmp_path, content):
    path = tmp_path / "gallery.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"not a whole safetensors file|is a pickle|is a web page"):
        Gallery.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.safetensors does not exist"):
        Gallery.read(tmp_path / "nothing.safetensors")
