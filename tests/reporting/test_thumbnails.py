from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from memory_defense.reporting.gallery import OPTIONAL, Gallery
from memory_defense.reporting.thumbnails import examples, perturbation, picture, png


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("channels", [1, 3])
def test_png_holds_the_pixels(channels):
    levels = torch.arange(channels * 6).view(channels, 2, 3) * 9
    image = pixels(png(levels / 255))
    expected = levels[0] if channels == 1 else levels.permute(1, 2, 0)
    assert np.array_equal(image, expected.numpy())


def test_png_clamps_and_is_the_same_each_time():
    image = torch.tensor([[[-3.0, 0.5, 7.0]]])
    assert pixels(png(image)).tolist() == [[0, 128, 255]]
    assert png(image) == png(image)


def test_picture_is_inline_and_tells_its_size():
    shown = picture(torch.zeros(1, 2, 5), "nothing")
    assert (shown.width, shown.height, shown.text) == (5, 2, "nothing")
    head, data = shown.uri.split(",")
    assert head == "data:image/png;base64"
    assert pixels(base64.b64decode(data)).shape == (2, 5)


def test_the_largest_change_gets_full_colour():
    shown, magnification = perturbation(torch.tensor([[[0.1, -0.05, 0.0]]]))
    assert magnification == pytest.approx(10.0)
    bright, dark, same = shown[:, 0].T
    assert bright[0] > bright[2]  # red over blue
    assert dark[2] > dark[0]
    assert torch.allclose(same, same[0].expand(3))
    half, _ = perturbation(torch.tensor([[[0.1, -0.1]]]))
    assert torch.allclose((dark - same) * 2, half[:, 0, 1] - same, atol=1e-6)


def test_colour_images_change_around_grey():
    offset = torch.zeros(3, 1, 2)
    offset[0, 0, 0], offset[2, 0, 0] = 0.2, -0.2
    shown, magnification = perturbation(offset)
    assert magnification == pytest.approx(5.0)
    assert shown[:, 0, 0].tolist() == [1.0, 0.5, 0.0]
    assert shown[:, 0, 1].tolist() == [0.5, 0.5, 0.5]


def test_no_change_is_not_magnified(write_gallery):
    gallery = Gallery.read(write_gallery({"adversarial": Gallery.read(write_gallery()).images.clone()}))
    view = examples(gallery, 1)[0]
    assert view.change == "not changed"
    assert perturbation(torch.zeros(1, 2, 2))[1] == 0


def test_examples_say_what_happened(write_gallery):
    first, second = examples(Gallery.read(write_gallery()), 5)
    assert (first.truth, first.clean.label, first.clean.right) == ("coat", "coat", True)
    assert (first.adversarial.label, first.adversarial.right) == ("shoe", False)
    assert second.adversarial.right
    assert (first.slot_clean, first.slot_adversarial) == ("coat", "shoe")
    assert first.change == "L-inf change 0.1, shown ×10"
    assert [slot.chosen_clean for slot in first.slots] == [True, False, False]
    assert [slot.chosen_adversarial for slot in first.slots] == [False, False, True]


def test_attention_is_summed_over_each_slots_block(write_gallery):
    first, second = examples(Gallery.read(write_gallery()), 2)
    assert [slot.share_clean for slot in first.slots] == pytest.approx([0.8, 0.2, 0.0])
    assert [slot.share_adversarial for slot in second.slots] == pytest.approx([0.2, 0.4, 0.4])


def test_no_attention_at_all_is_zero_and_not_nan(write_gallery):
    path = write_gallery({"attention_clean": torch.zeros(2, 6)})
    assert [slot.share_clean for slot in examples(Gallery.read(path), 1)[0].slots] == [0.0, 0.0, 0.0]


def test_an_undefended_model_has_no_slots(write_gallery):
    view = examples(Gallery.read(write_gallery(dict.fromkeys(OPTIONAL))), 1)[0]
    assert view.slots == ()
    assert view.slot_clean == ""


def test_l2_change_is_a_length(write_gallery):
    view = examples(Gallery.read(write_gallery(header={"norm": "l2"})), 1)[0]
    assert view.change == f"L2 change {(0.1**2 + 0.05**2) ** 0.5:.4g}, shown ×10"


def test_colour_galleries_and_limits(write_gallery):
    gallery = Gallery.read(write_gallery(channels=3))
    assert len(examples(gallery, 1)) == 1
    assert examples(gallery, 0) == ()
