from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from memory_defense.data.images import ImageSet, batches, load_dataset, split
from memory_defense.data.sources import DataNotFoundError
from memory_defense.data.spec import DATASETS


def _set(count: int = 23) -> ImageSet:
    images = torch.arange(count * 12, dtype=torch.uint8).view(count, 3, 2, 2)
    return ImageSet(images, torch.arange(count) % 10, torch.arange(count) + 100)


def test_floats_are_grey_levels_over_255():
    levels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    images = ImageSet(levels, torch.zeros(256, dtype=torch.int64), torch.arange(256))
    floats = images.floats()
    assert floats.dtype == torch.float32
    assert floats.flatten().tolist() == (np.arange(256, dtype=np.float32) / np.float32(255)).tolist()
    assert torch.equal((floats * 255).round().to(torch.uint8), levels)
    assert torch.equal(images.floats(torch.tensor([7, 3])), floats[[7, 3]])


def test_float_images_are_served_as_they_are_and_never_lent_out():
    pixels = torch.rand(9, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    images = ImageSet(pixels.clone(), torch.zeros(9, dtype=torch.int64), torch.arange(9))
    images.floats().zero_()
    images.floats(torch.arange(9)).zero_()
    assert torch.equal(images.floats(), pixels)
    assert torch.equal(images.floats(torch.tensor([7, 3])), pixels[[7, 3]])
    served = [batch for batch, _, _ in batches(images, 4, seed=0, epoch=0, shuffle=False)]
    assert torch.equal(torch.cat(served), pixels)


def test_take_and_first_keep_images_labels_and_ids_together():
    images = _set()
    taken = images.take(torch.tensor([5, 2, 5]))
    assert taken.ids.tolist() == [105, 102, 105]
    assert taken.labels.tolist() == [5, 2, 5]
    assert torch.equal(taken.images, images.images[[5, 2, 5]])
    first = images.first(4)
    assert (len(first), first.ids.tolist()) == (4, [100, 101, 102, 103])
    assert len(images.to("cpu")) == len(images) == 23


@pytest.mark.parametrize("count", [0, -1, 24])
def test_first_refuses_what_is_not_there(count):
    with pytest.raises(ValueError, match=f"{count} images were asked for, but it must be from 1 to 23"):
        _set().first(count)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"images": torch.rand(4, 1, 2, 2).double()},
            r"float64.*expected torch.uint8 grey levels or torch.float32",
        ),
        ({"images": torch.full((4, 1, 2, 2), 1.01)}, r"images span \[1.01, 1.01\], expected \[0, 1\]"),
        ({"images": torch.full((4, 1, 2, 2), 77.0)}, r"grey levels: use x / 255"),
        ({"images": torch.full((4, 1, 2, 2), torch.nan)}, "16 pixels are NaN"),
        ({"images": torch.zeros(4, 2, 2, dtype=torch.uint8)}, r"\(N, C, H, W\)"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "one for each image"),
        ({"labels": torch.tensor([0, 1, -1, 0])}, "at least 0"),
        ({"ids": torch.arange(3)}, "ids"),
        ({"ids": torch.arange(4.0)}, "ids are torch.float32"),
        ({"clean": torch.zeros(3, 1, 2, 2, dtype=torch.uint8)}, "one clean image for each"),
        ({"clean": torch.zeros(4, 1, 2, 2)}, "clean images are torch.float32"),
        ({"images": torch.zeros(4, 1, 2, 2), "clean": torch.full((4, 1, 2, 2), 1.5)}, "span"),
    ],
)
def test_wrong_parts_are_refused(change, said):
    parts = {
        "images": torch.zeros(4, 1, 2, 2, dtype=torch.uint8),
        "labels": torch.zeros(4, dtype=torch.int64),
        "ids": torch.arange(4),
    }
    with pytest.raises(ValueError, match=said):
        ImageSet(**(parts | change))


def test_clean_counterparts_travel_with_their_images():
    images = _set()
    assert torch.equal(images.clean_floats(), images.floats())
    assert images.to("cpu").clean is None
    clean = 255 - images.images
    paired = ImageSet(images.images, images.labels, images.ids, clean)
    rows = torch.tensor([4, 0, 7])
    for part, expected in (
        (paired.take(rows), clean[rows]),
        (paired.first(5), clean[:5]),
        (paired.to("cpu"), clean),
    ):
        assert torch.equal(part.clean, expected)
        assert torch.equal(part.clean_floats(), expected.float() / 255)
        assert torch.equal(part.images, 255 - expected)
    assert torch.equal(paired.clean_floats(rows), clean[rows].float() / 255)


def test_split_holds_out_equally_many_of_each_class(grey):
    splits = split(grey.arrays, grey.spec)
    assert splits.held_out.labels.bincount().tolist() == [1] * 10
    assert splits.train.labels.bincount().tolist() == [3] * 10
    together = torch.cat([splits.train.ids, splits.held_out.ids]).sort().values
    assert torch.equal(together, torch.arange(40))
    for part in (splits.train, splits.held_out):
        assert torch.equal(part.images, grey.arrays.train_images[part.ids])
        assert torch.equal(part.labels, grey.arrays.train_labels.long()[part.ids])
        assert (part.ids.diff() > 0).all(), "the source's order is kept"
    assert torch.equal(splits.test.images, grey.arrays.test_images)
    assert torch.equal(splits.test.ids, torch.arange(20))
    assert torch.equal(split(grey.arrays, grey.spec).held_out.ids, splits.held_out.ids)


def _epoch(**options):
    return list(batches(_set(), 5, **({"seed": 1, "epoch": 0} | options)))


def test_epoch_serves_every_image_once_with_its_own_label_and_id():
    images = _set()
    served = _epoch()
    assert [len(labels) for _, labels, _ in served] == [5, 5, 5, 5, 3]
    ids = torch.cat([ids for _, _, ids in served])
    assert torch.equal(ids.sort().values, images.ids)
    assert torch.equal(torch.cat([pixels for pixels, _, _ in served]), images.floats(ids - 100))
    assert torch.equal(torch.cat([labels for _, labels, _ in served]), images.labels[ids - 100])


def _ids(served) -> list[int]:
    return torch.cat([ids for _, _, ids in served]).tolist()


def test_order_is_decided_by_seed_and_epoch_alone():
    torch.manual_seed(0)
    order = _ids(_epoch())
    torch.manual_seed(1)
    assert _ids(_epoch()) == order
    assert _ids(_epoch(epoch=1)) != order
    assert _ids(_epoch(seed=2)) != order
    assert _ids(_epoch(shuffle=False)) == list(range(100, 123))


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_start_resumes_the_same_epoch(drop_last, start):
    whole = _epoch(drop_last=drop_last)
    rest = _epoch(drop_last=drop_last, start=start)
    assert len(rest) == len(whole) - start == 5 - drop_last - start
    for expected, found in zip(whole[start:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("size", "options", "said"),
    [
        (0, {}, "batch_size is 0"),
        (0, {"drop_last": True}, "batch_size is 0"),
        (-3, {}, "batch_size is -3"),
        (24, {"drop_last": True}, "23 images make no batch of 24"),
        (5, {"start": 6}, "start is 6, but an epoch of these images has 5"),
        (5, {"start": -1}, "start is -1"),
    ],
)
def test_impossible_batches_are_refused_at_the_call(size, options, said):
    with pytest.raises(ValueError, match=said):
        batches(_set(), size, seed=0, epoch=0, **options)


def test_no_images_make_no_batches():
    empty = ImageSet(torch.zeros(0, 1, 2, 2, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), torch.arange(0))
    with pytest.raises(ValueError, match="0 images make no batch"):
        batches(empty, 5, seed=0, epoch=0)


def test_unknown_dataset_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'fashion-mnist'"):
        load_dataset("fasion-mnist")


def test_load_dataset_reads_a_named_directory(alone, colour, put, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "cifar10", colour.spec)
    splits = load_dataset("cifar10", data_dir=put(tmp_path / "mine", colour.records()), offline=True)
    assert torch.equal(splits.test.images, colour.arrays.test_images)
    assert splits.spec is colour.spec


@pytest.mark.parametrize("spec", DATASETS.values(), ids=lambda spec: spec.name)
def test_specs_are_consistent(spec):
    assert DATASETS[spec.name] is spec
    assert len(spec.mean) == len(spec.std) == spec.channels
    assert len(set(spec.classes)) == len(spec.classes)
    assert spec.held_out_images % len(spec.classes) == 0
    assert len(spec.sha256) == 64


def test_real_fashion_mnist():
    """Load the real thing from any source; the held-out ids are pinned, since results depend on them."""
    try:
        splits = load_dataset("fashion-mnist")
    except DataNotFoundError as error:
        pytest.skip(str(error))
    assert [len(part) for part in (splits.train, splits.held_out, splits.test)] == [55_000, 5_000, 10_000]
    assert splits.train.images.shape[1:] == (1, 28, 28)
    assert splits.held_out.labels.bincount().tolist() == [500] * 10
    assert splits.train.labels.bincount().tolist() == [5500] * 10
    assert splits.test.labels.bincount().tolist() == [1000] * 10
    pixels = torch.cat([splits.train.images, splits.held_out.images]).double().div(255)
    assert float(pixels.mean()) == pytest.approx(splits.spec.mean[0], abs=5e-5)
    assert float(pixels.std()) == pytest.approx(splits.spec.std[0], abs=5e-5)
    digest = hashlib.sha256(splits.held_out.ids.numpy().tobytes()).hexdigest()
    assert digest == "f35879ae3c8930bca0ab0df5b68cf3650456cd31624d4380e118c1247aad6cad"
