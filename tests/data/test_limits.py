from __future__ import annotations

import numpy as np
import pytest
import torch

from memory_defense.data.array_shapes import framed_all
from memory_defense.data.limits import Limits, Words, check_sides, fit
from memory_defense.data.places import check_size, check_trained_size

NOISE = np.random.default_rng(5)


@pytest.mark.parametrize("name", ["file_bytes", "file_pixels", "images", "classes", "memory"])
def test_limits_are_at_least_1(name):
    with pytest.raises(ValueError, match=f"limit {name} is 0"):
        Limits(**{name: 0})


@pytest.mark.parametrize("size", [3, 1025, 0, -4])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(ValueError, match=f"size is {size}, but it must be from 4 to 1024"):
        check_size(size)
    check_trained_size("folder", 128)
    with pytest.raises(ValueError, match="size is 129, but it must be from 4 to 128"):
        check_trained_size("folder", 129)


def test_sides():
    trained, typed = Limits(side=128, square=True), Limits(words=Words(size="--size {}"))
    check_sides("x", 4, 4, None)
    check_sides("x", 20, 30, None)
    check_sides("x", 1024, 1024, None)
    check_sides("x", 128, 128, None, trained)
    check_sides("x", 400, 300, 32, trained)
    for height, width, size, limits, said in (
        (3, 8, None, None, "x is 8 x 3 pixels, but each side must have at least 4"),
        (3, 8, 32, None, "at least 4"),
        (20, 30, None, trained, "x is 30 x 20 pixels, but images must be square; .* size=20"),
        (129, 129, None, trained, "at most 128 pixels a side; .* size=128"),
        (20, 1025, None, None, "at most 1024 pixels a side; .* size=224"),
        (20, 1025, None, typed, r"at most 1024 pixels a side; resize .* with --size 224, say$"),
    ):
        with pytest.raises(ValueError, match=said):
            check_sides("x", height, width, size, limits)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_image_of_the_right_size_is_not_touched(shape):
    pixels = NOISE.integers(0, 256, shape, dtype=np.uint8)
    assert fit(pixels, 8) is pixels


def _triangle(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resample rows, then columns, with a triangle as wide as the step: the textbook filter, in float64."""
    step = len(pixels) / size
    reach = max(step, 1.0)
    centres = (np.arange(size) + 0.5) * step
    distance = np.abs(np.arange(len(pixels)) + 0.5 - centres[:, None]) / reach  # (size, H)
    weights = np.clip(1 - distance, 0, None)
    weights /= weights.sum(1, keepdims=True)
    return weights @ pixels @ weights.T


@pytest.mark.parametrize("size", [4, 9, 13, 40])
def test_resampling_equals_the_textbook_filter(size):
    pixels = NOISE.random((13, 13)).astype(np.float32)
    assert np.abs(fit(pixels, size) - _triangle(pixels.astype(np.float64), size)).max() < 1e-6
    levels = NOISE.integers(0, 256, (13, 13), dtype=np.uint8)
    assert np.abs(fit(levels, size) - _triangle(levels.astype(np.float64), size)).max() < 1.01


def test_the_middle_square_is_kept_and_channels_stay_apart():
    pixels = NOISE.integers(0, 256, (10, 6, 3), dtype=np.uint8)
    assert np.array_equal(fit(pixels, 6), pixels[2:8])
    fitted = fit(pixels, 5)
    for channel in range(3):
        assert np.array_equal(fitted[..., channel], fit(pixels[2:8, :, channel], 5))


def test_all_are_fitted_one_by_one():
    images = torch.from_numpy(NOISE.random((4, 3, 10, 8)).astype(np.float32))
    fitted = framed_all("x", images, 6, Limits())
    assert fitted.shape == (4, 3, 6, 6)
    for image, result in zip(images, fitted, strict=True):
        assert np.array_equal(result.permute(1, 2, 0).numpy(), fit(image.permute(1, 2, 0).numpy(), 6))
