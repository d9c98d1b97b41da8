"""Every refusal names what is wrong and how to put it right."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memory_defense.checks import check_images, check_labels, nearest

GOOD = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_good_images_pass() -> None:
    check_images(GOOD, channels=3, size=8)
    check_images(torch.cat([torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)]))
    check_images((GOOD + 5e-7).clamp(max=1 + 5e-7))


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (GOOD[0], r"\(3, 8, 8\), expected \(B, C, H, W\); add the missing axis"),
        (GOOD.flatten(1), r"\(4, 192\), expected"),
        (GOOD[:0], "no images"),
        (GOOD.permute(0, 2, 3, 1), r"use images.permute\(0, 3, 1, 2\)"),
        ((GOOD * 255).byte(), r"images.float\(\) / 255"),
        (GOOD.double(), r"float64, expected torch.float32"),
        (GOOD.half(), r"float16, expected torch.float32"),
        (GOOD * 255, r"use x / 255"),
        ((GOOD - 0.5) / 0.2, "look normalised"),
        (GOOD + 0.5, "clip or rescale"),
        (GOOD.index_fill(0, torch.tensor([1]), torch.nan), "192 pixels are NaN"),
        (GOOD.index_fill(0, torch.tensor([1]), torch.inf), "192 pixels are NaN or infinite"),
    ],
)
def test_bad_images_are_refused_with_a_remedy(images: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_images(images)


def test_the_expected_format_can_be_fixed() -> None:
    with pytest.raises(ValueError, match="3 channels, the model takes 1"):
        check_images(GOOD, channels=1)
    with pytest.raises(ValueError, match=r"\(8, 8\) pixels, the model takes \(28, 28\)"):
        check_images(GOOD, size=28)
    with pytest.raises(ValueError, match=r"the model takes \(8, 8\)"):
        check_images(GOOD[:, :, :4], size=8)


def test_good_labels_pass() -> None:
    check_labels(torch.tensor([0, 2]), 2)
    check_labels(torch.tensor([0, 2]), 2, classes=3)


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (torch.eye(3).long(), r"use labels.argmax\(1\)"),
        (torch.tensor([0, 1]), r"\(2,\), expected \(3,\)"),
        (torch.tensor(1), r"\(\), expected \(3,\)"),
        (torch.tensor([0.0, 1.0, 2.0]), r"use labels.long\(\)"),
        (torch.tensor([0, 1, 3]), r"span 0..3, expected at least 0 and below 3"),
        (torch.tensor([0, -1, 2]), r"span -1..2"),
    ],
)
def test_bad_labels_are_refused_with_a_remedy(labels: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_labels(labels, 3, classes=3)


def test_an_unknown_name_brings_the_nearest_known_one() -> None:
    close = str(nearest("fgms", ["pgd", "fgsm"], "attack"))
    assert close == "unknown attack 'fgms'; did you mean 'fgsm'? Known: fgsm, pgd"
    assert "did you mean" not in str(nearest("zzzz", ["pgd", "fgsm"], "attack"))


@pytest.mark.parametrize(
    ("low", "high", "remedy"),
    [(-0.11, 1.13, "clamp"), (-2e-5, 0.99, "clamp"), (-0.286, 0.714, "normalised"), (-0.13, 0.87, "normalised")],
)
def test_what_resizing_leaves_is_told_from_a_mean_that_was_subtracted(low, high, remedy) -> None:
    images = torch.linspace(low, high, 16).reshape(1, 1, 4, 4)
    with pytest.raises(ValueError, match=remedy):
        check_images(images)
