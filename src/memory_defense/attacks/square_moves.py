"""What the square attack tries in each norm (Andriushchenko et al. 2020, Algorithms 2 and 3, Section 3).

A move turns numbers in [0, 1), a row for each image, into a candidate for each image, whole batches at once:
a square at its own place is a mask made of two comparisons with the pixels' coordinates.

    B images, C channels, H rows, W columns; S the side of a square.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from memory_defense.contracts import Images, PerImage

_TINY = 1e-12
_FEW = 16
"""A square is small where the image has that many times its pixels."""


class Moves(Protocol):
    """How a search starts and moves in one norm."""

    start_numbers: tuple[int, ...]
    """Shape of the numbers that `start` takes for each image."""
    numbers: int
    """How many numbers `square` takes for each image."""

    def start(self, clean: Images, noise: Tensor) -> Images:
        """Return the starting patterns (B, C, H, W)."""
        ...

    def square(self, clean: Images, best: Images, noise: Tensor, side: int) -> Images:
        """Return candidates (B, C, H, W): `best` with one random square changed."""
        ...


class LinfMoves:
    """Pixels at ``clean +- epsilon``: vertical stripes to start with, then squares of one sign per channel.

    Parameters
    ----------
    epsilon
        Radius of the ball.
    channels, height, width
        Shape of an image.
    """

    def __init__(self, epsilon: float, channels: int, height: int, width: int) -> None:
        del height
        self.epsilon = epsilon
        self.start_numbers = (channels, 1, width)
        self.numbers = 2 + channels

    def start(self, clean: Images, noise: Tensor) -> Images:
        """See `Moves`; noise (B, C, 1, W)."""
        return (clean + self.epsilon * _signs(noise)).clamp_(0, 1)

    def square(self, clean: Images, best: Images, noise: Tensor, side: int) -> Images:
        """See `Moves`; noise (B, 2 + C). Adding ``+-2 epsilon`` and projecting leaves ``clean +- epsilon``."""
        steps = self.epsilon * _signs(noise[:, 2:, None])  # (B, C, 1)
        if _FEW * side * side > clean[0, 0].numel():
            inside = _window(noise[:, 0], noise[:, 1], side, clean)
            return torch.where(inside, (clean + steps[..., None]).clamp_(0, 1), best)
        # A small square is painted pixel by pixel; late in a search nearly all are small.
        at = _pixels(noise[:, 0], noise[:, 1], side, clean)[:, None].expand(-1, clean.shape[1], -1)  # (B, C, S * S)
        painted = (clean.flatten(2).gather(2, at) + steps).clamp_(0, 1)
        return best.flatten(2).scatter(2, at, painted).view_as(best)


class L2Moves:
    """Perturbations of length epsilon: hills on a grid to start with, then squares that take over mass.

    Two windows are drawn. All that the perturbation has in both, and what it lacks to epsilon, goes into the
    first one, as a mix of what was there and of a new hill; the second is left empty.

    Parameters
    ----------
    epsilon
        Radius of the ball.
    channels, height, width
        Shape of an image.
    """

    def __init__(self, epsilon: float, channels: int, height: int, width: int) -> None:
        self.epsilon, self.channels = epsilon, channels
        self.tile = max(min(height, width) // 5, 1)
        self.start_numbers = (1 + channels, height // self.tile, width // self.tile)
        self.numbers = 5 + channels

    def start(self, clean: Images, noise: Tensor) -> Images:
        """See `Moves`; noise (B, 1 + C, rows, columns of the grid)."""
        tile, (down, across) = self.tile, noise.shape[2:]
        hills = _hills(tile, clean.device)[_coin(noise[:, 0])]  # (B, down, across, S, S)
        hills = hills.transpose(2, 3).reshape(-1, 1, down * tile, across * tile)  # (B, 1, down * S, across * S)
        signs = _signs(noise[:, 1:]).repeat_interleave(tile, 2).repeat_interleave(tile, 3)
        top, left = (clean.shape[2] - down * tile) // 2, (clean.shape[3] - across * tile) // 2
        offset = torch.zeros_like(clean)
        offset[:, :, top : top + down * tile, left : left + across * tile] = hills * signs
        return self._at_full_length(clean, offset)

    def square(self, clean: Images, best: Images, noise: Tensor, side: int) -> Images:
        """See `Moves`; noise (B, 5 + C). Squares have an odd side, 3 at least where the image allows it."""
        shorter = min(clean.shape[2:])
        side = min(max(side + 1 - side % 2, 3), shorter - 1 + shorter % 2)
        offset = best - clean
        first = _window(noise[:, 0], noise[:, 1], side, clean)  # (B, 1, H, W)
        both = first | _window(noise[:, 2], noise[:, 3], side, clean)
        unused = (self.epsilon**2 - offset.square().sum((1, 2, 3), keepdim=True)).clamp(min=0)
        budget = ((offset * both).square().sum((2, 3), keepdim=True) + unused / self.channels).sqrt()

        hill = _place(_hills(side, clean.device)[_coin(noise[:, 4])], noise[:, 0], noise[:, 1], clean) * first
        mix = hill * _signs(noise[:, 5:, None, None]) + _unit(offset * first)
        return self._at_full_length(clean, torch.where(first, _unit(mix) * budget, offset * ~both))

    def _at_full_length(self, clean: Images, offset: Tensor) -> Images:
        length = offset.square().sum((1, 2, 3), keepdim=True).sqrt()
        return (clean + offset * (self.epsilon / (length + _TINY))).clamp_(0, 1)


MOVES: dict[str, type[LinfMoves] | type[L2Moves]] = {"linf": LinfMoves, "l2": L2Moves}


def _coin(noise: Tensor) -> Tensor:
    return (noise >= 0.5).long()


def _signs(noise: Tensor) -> Tensor:
    return torch.where(noise < 0.5, -1.0, 1.0)


def _unit(channels: Tensor) -> Tensor:
    """Scale every channel (B, C, H, W) to length 1; an empty one stays empty."""
    return channels / (channels.square().sum((2, 3), keepdim=True).sqrt() + _TINY)


def _inside(noise: PerImage, side: int, length: int) -> tuple[Tensor, Tensor]:
    """Return (B, length) the coordinate relative to a random segment, and whether it lies in the segment."""
    first = (noise * (length - side + 1)).long()
    relative = torch.arange(length, device=noise.device) - first[:, None]
    return relative, (relative >= 0) & (relative < side)


def _window(down: PerImage, across: PerImage, side: int, like: Images) -> Tensor:
    """Return (B, 1, H, W) bool: each image's own square."""
    _, rows = _inside(down, side, like.shape[2])
    _, columns = _inside(across, side, like.shape[3])
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _pixels(down: PerImage, across: PerImage, side: int, like: Images) -> Tensor:
    """Return (B, S * S) the positions of the pixels, row by row, in which `_window` is true."""
    height, width = like.shape[2:]
    top, left = (down * (height - side + 1)).long(), (across * (width - side + 1)).long()
    own = torch.arange(side, device=like.device)
    return (top * width + left)[:, None] + (own[:, None] * width + own).flatten()


def _place(patches: Tensor, down: PerImage, across: PerImage, like: Images) -> Tensor:
    """Return (B, 1, H, W): patches (B, S, S) where `_window` is true; anything elsewhere."""
    side = patches.shape[1]
    rows, _ = _inside(down, side, like.shape[2])
    columns, _ = _inside(across, side, like.shape[3])
    images = torch.arange(len(patches), device=patches.device)[:, None, None]
    last = side - 1
    return patches[images, rows.clamp(0, last)[:, :, None], columns.clamp(0, last)[:, None, :]][:, None]


@lru_cache(maxsize=32)
def _hills(side: int, device: torch.device) -> Tensor:
    """Return (2, S, S) of length 1 each: a hill above a valley (Eq. 2 of the paper), and side by side."""
    upper = side // 2
    pattern = torch.cat([_hill(upper, side), -_hill(side - upper, side)])
    pattern = pattern / pattern.square().sum().sqrt()
    return torch.stack([pattern, pattern.T]).to(device)


def _hill(height: int, width: int) -> Tensor:
    """Return (height, width) of length 1: sums of ``1 / k**2`` over ever larger squares around the centre."""
    if height == 0:
        return torch.zeros(0, width)
    reach = max(height, width) // 2 + 1
    heights = torch.arange(1.0, reach + 1).pow(-2).flip(0).cumsum(0).flip(0)  # (reach,) from the centre out
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    hill = heights[torch.maximum(rows[:, None], columns[None, :])]
    return hill / hill.square().sum().sqrt()
