"""Resizing and cropping against Pillow itself, and what cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from memory_defense.data.geometry import INTERPOLATIONS, Geometry


def _picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_it_does_what_pillow_does(interpolation: str) -> None:
    pixels = _picture(60, 90)
    geometry = Geometry(resize=40, crop=(32, 32), interpolation=interpolation)
    resized = Image.fromarray(pixels).resize((60, 40), INTERPOLATIONS[interpolation])
    assert (geometry.apply(pixels) == np.asarray(resized)[4:36, 14:46]).all()


def test_an_image_that_fits_keeps_its_pixels() -> None:
    pixels = _picture(32, 48)
    assert (Geometry(resize=32, crop=(32, 48), interpolation="bicubic").apply(pixels) == pixels).all()


def test_floats_stay_in_their_range() -> None:
    edge = np.zeros((16, 16), np.float32)
    edge[:, 8:] = 1
    resized = Geometry(resize=37, interpolation="lanczos").apply(edge)
    assert resized.shape == (37, 37)
    assert resized.dtype == np.float32
    assert resized.min() == 0
    assert resized.max() == 1


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(),
        Geometry(resize=256, crop=(224, 224), interpolation="bicubic"),
        Geometry(resize=(30, 50)),
        Geometry(crop=(28, 20)),
    ],
)
def test_it_is_read_as_it_is_written(geometry: Geometry) -> None:
    assert Geometry.parse(str(geometry)) == geometry


def test_the_sides_are_the_image_s() -> None:
    assert Geometry(resize=20).size_of(40, 63) == (20, 31)
    assert Geometry(resize=(20, 30)).size_of(40, 63) == (20, 30)
    for sides in ((40, 63), (64, 33), (50, 50)):
        geometry = Geometry(resize=36, crop=(30, 34))
        assert geometry.apply(_picture(*sides)).shape[:2] == geometry.size_of(*sides) == (30, 34)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("256", "at '256'"),
        ("resize=256,resize=3", "at 'resize=3'"),
        ("resize=large", "no size at 'large'"),
        ("resize=3", "not 3"),
        ("crop=2000", "not 2000"),
        ("resize=224,interpolation=cubic", "bicubic"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Geometry.parse(text)


def test_a_crop_beyond_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="resize to at least the crop"):
        Geometry(resize=32, crop=(40, 32)).apply(_picture(60, 90))
