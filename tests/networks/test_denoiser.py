"""The denoiser: any size in, as large out, and one whose weights pen and paper can follow."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memory_defense.networks.denoiser import CENTRE, Denoiser, DenoiserPlan


def seeing_everything(channels: int = 1) -> Denoiser:
    """Return one level without blocks that takes the whole image for noise: identities, and the centre put back."""
    made = Denoiser(DenoiserPlan(channels=channels, widths=(4 * channels,), blocks=0))
    with torch.no_grad():
        for layer, bias in ((made.stem, CENTRE), (made.output, 0.0)):
            nn.init.dirac_(layer.weight)
            layer.bias.fill_(bias)
    return made


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 16), (28, 28), (33, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_noise_is_as_large_as_the_image(channels: int, size: tuple[int, int]) -> None:
    made = Denoiser(DenoiserPlan(channels=channels, widths=(4, 8, 16), blocks=1)).eval()
    nn.init.normal_(made.output.weight)
    images = torch.rand(2, channels, *size)

    levels = made.encode(images)

    assert [level.shape[1] for level in levels] == [4, 8, 16]
    assert levels[-1].shape[2:] == tuple(-(-side // made.plan.stride) for side in size)
    assert made(images).shape == images.shape
    assert made(images).std() > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_squares_of_pixels_come_back_where_they_were(channels: int) -> None:
    images = torch.rand(2, channels, 5, 6)
    assert torch.allclose(seeing_everything(channels)(images), images, atol=1e-6)


def test_before_any_training_it_sees_no_noise() -> None:
    made = Denoiser(DenoiserPlan(channels=3, widths=(8, 16), blocks=2))
    assert not made(torch.rand(2, 3, 12, 12)).any()


def test_what_lies_at_an_upper_level_goes_past_the_lower_ones() -> None:
    made = Denoiser(DenoiserPlan(channels=1, widths=(4, 8), blocks=0)).eval()
    nn.init.normal_(made.output.weight)
    upper, lower = made.encode(torch.rand(1, 1, 8, 8))
    with torch.no_grad():
        made.grow[0].weight.zero_()
        made.grow[0].bias.zero_()
    assert torch.equal(made.decode((upper, lower), 8, 8), made.decode((upper, 0 * lower), 8, 8))
    assert not torch.equal(made.decode((upper, lower), 8, 8), made.decode((0 * upper, lower), 8, 8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DenoiserPlan(channels=0, widths=(4,), blocks=1), "channels is 0"),
        (lambda: DenoiserPlan(channels=1, widths=(4,), blocks=-1), "blocks is -1"),
        (lambda: DenoiserPlan(channels=1, widths=(), blocks=1), r"widths is \(\)"),
        (lambda: DenoiserPlan(channels=1, widths=(4, 0), blocks=1), r"widths is \(4, 0\)"),
        (lambda: seeing_everything(1)(torch.rand(2, 3, 8, 8)), r"takes \(B, 1, H, W\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
