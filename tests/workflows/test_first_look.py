"""The look before the attack: preprocessing that is not the model's, and weights that nobody trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memory_defense.data.images import image_set
from memory_defense.systems.preprocessing import Preprocessing
from memory_defense.workflows.first_look import ASKED, look

CLASSES = 4


def images(count: int):
    """Return images whose class is how bright they are, a quarter of [0, 1] each."""
    labels = torch.arange(count) % CLASSES
    levels = (labels + 0.5) / CLASSES
    return image_set(levels.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).float().contiguous(), labels)


class ByBrightness(nn.Module):
    """Right on `images` whose pixels were preprocessed by ``(scale x - mean) / std``."""

    def __init__(self, wanted: Preprocessing) -> None:
        super().__init__()
        self.wanted = wanted
        self.passes = 0

    def forward(self, pixels):
        self.passes += 1
        mean, std = self.wanted.mean or (0.0,), self.wanted.std or (1.0,)
        levels = (pixels[:, 0, 0, 0] * std[0] + mean[0]) / self.wanted.scale
        centres = (torch.arange(CLASSES) + 0.5) / CLASSES
        return -(levels[:, None] - centres).abs()


@pytest.mark.parametrize("text", ["127", "255"])
def test_the_preprocessing_that_a_model_was_trained_with_is_found_and_named(text) -> None:
    wanted = Preprocessing.parse(text)
    seen = look(ByBrightness(wanted), Preprocessing(), images(20), CLASSES)
    assert seen is not None
    assert seen.best == wanted
    assert seen.best_right == 20
    assert seen.right < 20
    assert seen.clearly
    assert seen.warning.endswith(f"give --preprocess {text} if it was trained so")
    assert f"{seen.right} of 20 are right" in seen.line


def test_where_the_stated_one_is_right_nothing_else_is_tried() -> None:
    wanted = Preprocessing.parse("127")
    model = ByBrightness(wanted)
    seen = look(model, wanted, images(200), CLASSES)
    assert seen is not None
    assert (seen.right, seen.images, seen.best, seen.warning) == (ASKED, ASKED, None, "")
    assert seen.line == f"with (x - 127) / 128, x from 0 to 255 {ASKED} of {ASKED} are right"
    assert model.passes == ASKED / 16


def test_a_difference_that_may_be_chance_is_no_warning() -> None:
    seen = look(ByBrightness(Preprocessing.parse("127")), Preprocessing(), images(4), CLASSES)
    assert seen is not None
    assert seen.best_right == 4
    assert not seen.clearly  # three more of four: one chance in eight
    assert seen.warning == ""


class Always(nn.Module):
    def __init__(self, logits) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, pixels):
        return self.logits[: len(pixels)] if len(self.logits) > 1 else self.logits.expand(len(pixels), -1)


def test_guesses_are_told_from_answers() -> None:
    some = images(16)
    constant = look(Always(torch.tensor([[0.0, 1.0, 0.0, 0.0]])), Preprocessing(), some, CLASSES)
    assert constant is not None
    assert constant.chance == "all 16 images get the answer 1"
    guesses = torch.eye(CLASSES)[torch.tensor([0, 1, 3, 2] * 2 + [1, 2, 3, 0] * 2)]  # 4 of 16 right
    found = look(Always(guesses), Preprocessing(), some, CLASSES)
    assert found is not None
    assert found.chance == "4 of 16 images are right, no more than guesses among 4 classes give"
    half = torch.eye(CLASSES)[torch.tensor([0, 1, 2, 3] * 3 + [1, 2, 3, 0])]  # 12 of 16
    found = look(Always(half), Preprocessing(), some, CLASSES)
    assert found is not None
    assert found.chance == ""


def test_too_few_images_tell_nothing() -> None:
    found = look(Always(torch.tensor([[0.0, 1.0, 0.0, 0.0]])), Preprocessing(), images(3), CLASSES)
    assert found is not None
    assert found.chance == ""


def test_a_model_that_raises_is_left_to_the_evaluation() -> None:
    assert look(nn.Linear(7, 2), Preprocessing(), images(8), CLASSES) is None
