"""Random changes of training images, for a whole batch at once.

Legend: B images, C channels, H rows, W columns, T tries. Every number comes from the image's own draws, so an
image is changed in the same way in every batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from memory_defense.contracts import Draws, Images
from memory_defense.model_spec import shown
from memory_defense.names import check_name

Border = Literal["black", "mirrored"]

LATER = ("crop_border",)
"""Fields that joined later, and are left out of hashes where they have their defaults."""

_TRIES = 10
"""Rectangles drawn for each image; the first that fits is used."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Augmentation:
    """Crop, mirror, erase, add noise, in this order; the default changes nothing.

    Random erasing is that of Zhong et al. 2020 (Algorithm 1, with random values): with a probability, one
    rectangle is filled with uniform noise, pixel by pixel and channel by channel. Its share of the image's area
    and its height over width are uniform; a rectangle that does not fit is drawn again, and an image for which
    none of 10 fits is left as it is.

    Raises
    ------
    ValueError
        For a field outside its range.
    """

    crop_padding: int = 0
    """Pixels added on each side before a random crop back to (H, W); 0 turns cropping off."""
    crop_border: Border = "black"
    """What they are: black, or the image mirrored at its edge, which makes no edge of its own."""
    horizontal_flip: bool = False
    """Mirror left and right, for every other image."""
    vertical_flip: bool = False
    """Mirror top and bottom, for every other image."""
    erase_probability: float = 0.0
    """Share of the images that get a rectangle of noise, in [0, 1]; 0 turns erasing off."""
    erase_area: tuple[float, float] = (0.02, 0.4)
    """Smallest and largest area of the rectangle, as a share of the image's, in (0, 1]."""
    erase_aspect: float = 0.3
    """Smallest height over width, in (0, 1]; the largest is one over it."""
    noise_std: float = 0.0
    """Standard deviation of the Gaussian noise, in pixel units of [0, 1]; the sum is clamped to [0, 1]."""

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise ValueError(f"crop_padding is {self.crop_padding}, but it must be at least 0 pixels")
        check_name(self.crop_border, get_args(Border), "crop_border")
        if not 0 <= self.erase_probability <= 1:
            raise ValueError(f"erase_probability is {self.erase_probability}, but it must be in [0, 1]")
        low, high = self.erase_area
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"erase_area is ({low}, {high}), but it must be the smallest and largest share, both in (0, 1]"
            )
        if not 0 < self.erase_aspect <= 1:
            raise ValueError(
                f"erase_aspect is {self.erase_aspect}, but the smallest height over width must be in (0, 1]; "
                "the largest is one over it"
            )
        if not (self.noise_std >= 0 and math.isfinite(self.noise_std)):
            raise ValueError(f"noise_std is {self.noise_std}, but it must be finite and at least 0")

    def __repr__(self) -> str:
        """Return the fields; see `model_spec.shown`."""
        return shown(self, *LATER)

    def __call__(self, images: Images, draws: Draws) -> Images:
        """Return changed copies of the images, still in [0, 1]; what comes in is never written to.

        Raises ValueError where `crop_padding` is not smaller than the images.
        """
        images = self._move(images, draws)
        if self.erase_probability:
            images = self._erase(images, draws.child("erase"))
        if self.noise_std:
            noise = draws.child("noise").normal(*images.shape[1:]).to(images)
            images = (images + self.noise_std * noise).clamp_(0, 1)
        return images

    def _move(self, images: Images, draws: Draws) -> Images:
        """Crop and mirror in one gather: pixel (i, j) becomes the padded image's (rows[i], columns[j])."""
        if not (self.crop_padding or self.horizontal_flip or self.vertical_flip):
            return images
        count, channels, height, width = images.shape
        padding, device = self.crop_padding, images.device
        if padding >= min(height, width):
            raise ValueError(
                f"crop_padding is {padding}, but it must be smaller than the images, {height} x {width}"
            )
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        rows, columns = rows.expand(count, -1), columns.expand(count, -1)  # (B, H), (B, W)
        if self.vertical_flip:
            rows = torch.where(_coin(draws.child("vertical flip"), device), height - 1 - rows, rows)
        if self.horizontal_flip:
            columns = torch.where(_coin(draws.child("horizontal flip"), device), width - 1 - columns, columns)
        if padding:
            offsets = draws.child("crop").integers(2 * padding + 1, 2).to(device)  # (B, 2)
            rows, columns = rows + offsets[:, :1], columns + offsets[:, 1:]
            mode = "reflect" if self.crop_border == "mirrored" else "constant"
            images = F.pad(images, (padding, padding, padding, padding), mode=mode)
        index = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]  # (B, H, W)
        index = index.view(count, 1, height * width).expand(-1, channels, -1)  # (B, C, H * W)
        return images.flatten(2).gather(2, index).view(count, channels, height, width)

    def _erase(self, images: Images, draws: Draws) -> Images:
        _, _, height, width = images.shape
        top, left, tall, wide = self._rectangles(height, width, draws, images.device)
        rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
        in_rows = (rows >= top) & (rows < top + tall)  # (B, H)
        in_columns = (columns >= left) & (columns < left + wide)  # (B, W)
        inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]  # (B, 1, H, W)
        return torch.where(inside, draws.child("values").uniform(*images.shape[1:]).to(images), images)

    def _rectangles(
        self, height: int, width: int, draws: Draws, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return top, left, height, width of each image's rectangle, (B, 1) each; no height means none."""
        low, high = self.erase_area
        area = height * width * (low + (high - low) * draws.child("area").uniform(_TRIES).to(device))  # (B, T)
        thin, flat = self.erase_aspect, 1 / self.erase_aspect
        aspect = thin + (flat - thin) * draws.child("aspect").uniform(_TRIES).to(device)
        tall = (area * aspect).sqrt().round().long().clamp(min=1)
        wide = (area / aspect).sqrt().round().long().clamp(min=1)
        fits = (tall <= height) & (wide <= width)
        first = fits.int().argmax(1, keepdim=True)  # (B, 1)
        tall, wide, fits = (values.gather(1, first) for values in (tall, wide, fits))
        chosen = draws.child("chosen").uniform(1).to(device) < self.erase_probability
        place = draws.child("place").uniform(2).to(device)
        top = (place[:, :1] * (height - tall + 1)).long()
        left = (place[:, 1:] * (width - wide + 1)).long()
        return top, left, tall * (chosen & fits), wide


def _coin(draws: Draws, device: torch.device) -> Tensor:
    """Return (B, 1) bool, true for half of the images."""
    return (draws.uniform(1) < 0.5).to(device)
