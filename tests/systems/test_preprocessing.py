"""What networks want their pixels to be: as it is written, and as it is computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memory_defense.systems.preprocessed import Preprocessed
from memory_defense.systems.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

IMAGES = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def numbers(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1)


WANTED = {
    "none": IMAGES,
    "255": IMAGES * 255,
    "127": (IMAGES * 255 - 127) / 128,
    "bgr": IMAGES[:, [2, 1, 0]],
    "imagenet": (IMAGES - numbers(IMAGENET_MEAN)) / numbers(IMAGENET_STD),
    "mean=0.485/0.456/0.406,std=0.229/0.224/0.225": (IMAGES - numbers(IMAGENET_MEAN)) / numbers(IMAGENET_STD),
    "bgr,imagenet": ((IMAGES - numbers(IMAGENET_MEAN)) / numbers(IMAGENET_STD))[:, [2, 1, 0]],
    "bgr,255,mean=104/117/123": IMAGES[:, [2, 1, 0]] * 255 - numbers((104.0, 117.0, 123.0)),
    "mean=0.5,std=0.25": (IMAGES - 0.5) / 0.25,
    "scale=2,mean=1": IMAGES * 2 - 1,
}


@pytest.mark.parametrize("text", WANTED)
def test_a_line_is_a_first_layer_and_is_written_as_it_is_read(text) -> None:
    found = Preprocessing.parse(text)
    assert torch.allclose(Preprocessed(nn.Identity(), found, 3)(IMAGES), WANTED[text], atol=1e-5)
    assert Preprocessing.parse(str(found) or "none") == found
    assert found.words


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rgb", "at 'rgb'"),
        ("", "at ''"),
        ("mean=0.5,mean=0.4", "at 'mean=0.4'"),
        ("mean=half", "no numbers at 'half'"),
        ("127,mean=1", "127 says mean already"),
        ("imagenet,std=1", "imagenet says std already"),
        ("none,255", "none says 255 already"),
        ("255,scale=3", "255 says scale already"),
        ("std=0", "must be finite"),
        ("scale=-1", "must be finite"),
        ("mean=nan", "must be finite"),
    ],
)
def test_what_says_nothing_or_two_things_is_refused(text, says) -> None:
    with pytest.raises(ValueError, match=says):
        Preprocessing.parse(text)


def test_as_many_numbers_as_channels() -> None:
    with pytest.raises(ValueError, match="mean has 3 numbers, but the images have 1 channels"):
        Preprocessed(nn.Identity(), Preprocessing.parse("imagenet"), 1)
    with pytest.raises(ValueError, match="bgr is for images of 3 channels"):
        Preprocessed(nn.Identity(), Preprocessing.parse("bgr"), 1)
    assert torch.equal(
        Preprocessed(nn.Identity(), Preprocessing.parse("mean=0.5"), 1)(IMAGES[:, :1]), IMAGES[:, :1] - 0.5
    )
