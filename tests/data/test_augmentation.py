from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_defense.data.augmentation import Augmentation
from memory_defense.randomness import ImageDraws

EVERYTHING = Augmentation(
    crop_padding=2, horizontal_flip=True, vertical_flip=True, erase_probability=0.5, noise_std=0.1
)


def _images(count: int = 64, channels: int = 3, height: int = 9, width: int = 11) -> torch.Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1))


def _draws(count: int = 64) -> ImageDraws:
    return ImageDraws.of(3, "test", count)


def test_default_changes_nothing():
    images = _images()
    assert Augmentation()(images, _draws()) is images


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(16)), st.integers(1, 16))
def test_each_image_is_changed_alike_in_any_batch(order, kept):
    images, draws, rows = _images(16), _draws(16), torch.tensor(order[:kept])
    whole = EVERYTHING(images, draws)
    assert torch.equal(EVERYTHING(images[rows], draws.rows(rows)), whole[rows])


def test_what_comes_in_is_not_written_to():
    images = _images()
    before = images.clone()
    EVERYTHING(images, _draws())
    assert torch.equal(images, before)


def test_values_stay_in_range_and_shape():
    images = torch.cat([torch.zeros(32, 1, 8, 8), torch.ones(32, 1, 8, 8)])
    out = Augmentation(crop_padding=3, erase_probability=1, noise_std=2.0)(images, _draws())
    assert out.shape == images.shape
    assert out.dtype == torch.float32
    assert out.min() == 0
    assert out.max() == 1


def test_crop_equals_a_loop_and_reaches_every_offset():
    images, draws = _images(200), _draws(200)
    out = Augmentation(crop_padding=2)(images, draws)
    offsets = draws.child("crop").integers(5, 2)
    for image, result, (top, left) in zip(images, out, offsets.tolist(), strict=True):
        expected = torch.zeros_like(image)
        for y in range(9):
            for x in range(11):
                if 0 <= y + top - 2 < 9 and 0 <= x + left - 2 < 11:
                    expected[:, y, x] = image[:, y + top - 2, x + left - 2]
        assert torch.equal(result, expected)
    assert len({tuple(pair) for pair in offsets.tolist()}) == 25


@pytest.mark.parametrize(("name", "axis"), [("horizontal_flip", 3), ("vertical_flip", 2)])
def test_flip_mirrors_about_half_of_the_images(name, axis):
    images, draws = _images(400), _draws(400)
    flip = Augmentation(**{name: True})
    out = flip(images, draws)
    mirrored = (out == images.flip(axis)).flatten(1).all(1)
    assert torch.equal(out[~mirrored], images[~mirrored])
    assert 150 < int(mirrored.sum()) < 250
    assert torch.equal(flip(out, draws), images)


def test_flips_are_independent():
    images, draws = _images(400), _draws(400)
    both = Augmentation(horizontal_flip=True, vertical_flip=True)(images, draws)
    turns = [images, images.flip(2), images.flip(3), images.flip(2, 3)]
    counts = [sum(torch.equal(a, b) for a, b in zip(both, turned, strict=True)) for turned in turns]
    assert sum(counts) == 400
    assert min(counts) > 60


def test_crop_comes_before_flips():
    images, draws = _images(), _draws()
    flips = Augmentation(horizontal_flip=True, vertical_flip=True)
    cropped = Augmentation(crop_padding=2)(images, draws)
    together = Augmentation(horizontal_flip=True, vertical_flip=True, crop_padding=2)(images, draws)
    assert torch.equal(together, flips(cropped, draws))


def _erased(images: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    """Return (B, H, W) bool; the images are black, and a random value is never exactly 0 in all channels."""
    return (augmentation(images, _draws(len(images))) != 0).any(1)


def test_erasing_fills_one_rectangle_within_its_bounds():
    low, high, aspect = 0.05, 0.3, 0.4
    augmentation = Augmentation(erase_probability=1, erase_area=(low, high), erase_aspect=aspect)
    erased = _erased(torch.zeros(500, 3, 32, 32), augmentation)
    tall, wide = erased.any(2).sum(1), erased.any(1).sum(1)
    assert torch.equal(tall * wide, erased.sum((1, 2))), "not one full rectangle"
    rows, columns = erased.any(2).int(), erased.any(1).int()
    for lines in (rows, columns):
        assert int((lines.diff(dim=1) == 1).sum(1).max()) <= 1, "not contiguous"
    for h, w in zip(tall.tolist(), wide.tolist(), strict=True):  # sides are rounded by at most half a pixel
        assert (h - 0.5) * (w - 0.5) <= high * 1024
        assert (h + 0.5) * (w + 0.5) >= low * 1024
        assert aspect <= (h + 0.5) / (w - 0.5)
        assert (h - 0.5) / (w + 0.5) <= 1 / aspect
    share = erased.float().mean((1, 2))
    assert abs(float(share.mean()) - (low + high) / 2) < 0.02
    assert share.max() > 0.25
    assert share.min() < 0.08


def test_rectangles_reach_every_pixel():
    erased = _erased(torch.zeros(2000, 1, 12, 12), Augmentation(erase_probability=1))
    assert erased.any(0).all()


def test_erased_pixels_are_uniform_and_the_others_untouched():
    images = _images(300)
    out = Augmentation(erase_probability=1, erase_area=(0.3, 0.3), erase_aspect=0.9)(images, _draws(300))
    changed = out != images
    values = out[changed]
    assert abs(float(values.mean()) - 0.5) < 0.01
    assert abs(float(values.std()) - math.sqrt(1 / 12)) < 0.01
    assert abs(float(changed.float().mean()) - 0.3) < 0.03


def test_erase_probability_is_kept():
    erased = _erased(torch.zeros(2000, 1, 12, 12), Augmentation(erase_probability=0.3))
    assert abs(float(erased.any(2).any(1).float().mean()) - 0.3) < 0.04


def test_rectangle_that_never_fits_leaves_the_image():
    # The area of the image itself fits only as a square.
    narrow = Augmentation(erase_probability=1, erase_area=(1.0, 1.0))
    images = torch.zeros(200, 1, 16, 16)
    shares = _erased(images, narrow).float().mean((1, 2))
    assert set(shares.tolist()) <= {0.0, 1.0}
    assert 0.0 in shares.tolist()


def test_noise_has_its_deviation_and_is_clamped():
    grey = torch.full((100, 1, 20, 20), 0.5)
    change = Augmentation(noise_std=0.05)(grey, _draws(100)) - grey
    assert abs(float(change.std()) - 0.05) < 0.001
    assert abs(float(change.mean())) < 0.001
    white = Augmentation(noise_std=0.05)(torch.ones(100, 1, 20, 20), _draws(100))
    assert abs(float((white == 1).float().mean()) - 0.5) < 0.02
    assert white.max() == 1


def test_turning_one_on_leaves_the_others_draws():
    images, draws = torch.zeros(64, 1, 9, 11), _draws()
    alone = Augmentation(erase_probability=1)(images, draws)
    with_flip = Augmentation(erase_probability=1, horizontal_flip=True)(images, draws)
    assert torch.equal(alone, with_flip)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop_padding", -1),
        ("erase_probability", 1.1),
        ("erase_probability", -0.1),
        ("erase_area", (0.0, 0.4)),
        ("erase_area", (0.5, 0.4)),
        ("erase_area", (0.5, 1.4)),
        ("erase_aspect", 0.0),
        ("erase_aspect", 1.5),
        ("noise_std", -0.1),
        ("noise_std", float("nan")),
    ],
)
def test_fields_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        Augmentation(**{field: value})


def test_padding_as_large_as_the_image_is_refused():
    with pytest.raises(ValueError, match="smaller than the images, 9 x 11"):
        Augmentation(crop_padding=9)(_images(), _draws())


def test_a_mirrored_border_shows_the_image_and_a_black_one_is_as_before() -> None:
    images, draws = torch.rand(6, 2, 5, 7) + 0.1, _draws(6)
    cropped = Augmentation(crop_padding=2, crop_border="mirrored")(images, draws)
    offsets = draws.child("crop").integers(5, 2)
    for image, found, (top, left) in zip(images, cropped, offsets.tolist(), strict=True):
        rows = [abs(row + top - 2) if row + top - 2 < 5 else 8 - (row + top - 2) for row in range(5)]
        columns = [abs(one + left - 2) if one + left - 2 < 7 else 12 - (one + left - 2) for one in range(7)]
        assert torch.equal(found, image[:, rows][:, :, columns])
    assert (Augmentation(crop_padding=2)(images, draws) == 0).any()
    assert "crop_border" not in repr(Augmentation(crop_padding=2)), "recipes from before keep their hashes"
    assert "crop_border='mirrored'" in repr(Augmentation(crop_padding=2, crop_border="mirrored"))


def test_an_unknown_border_is_refused() -> None:
    with pytest.raises(ValueError, match="'mirrored'"):
        Augmentation(crop_padding=2, crop_border="mirror")
