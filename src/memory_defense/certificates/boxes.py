"""Boxes: for each number of a layer the interval in which it lies, and how much rounding may move it.

Legend: B images, any further axes; a box is two tensors of the same shape.

Rounding. A certificate is about the network that runs, in float32. Let u = 2**-24. A float32 sum of n products
differs from the exact one by at most ``g = (n + 1) u / (1 - (n + 1) u)`` times the sum of the products' absolute
values, whatever the order of the additions and whether or not products are fused with them (Higham 2002, section
3.1). So every layer's box is widened by that much: it then holds what the network computes from any numbers in the
box before it. Bounds themselves are computed in float64, whose own error is smaller by 2**29; `UNITS` more units
than the sum asks for pay for it, for the conversion from lower and upper bound to centre and radius, and for the
few roundings of a layer's constants. `TINY` pays for numbers below float32's normal range, which a processor may
round to 0.

It does not hold for lower precisions (bfloat16, half, TF32), for convolutions by Winograd's or Fourier's transform,
which add in other ways, nor where the network overflows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from memory_defense.contracts import Images

UNIT = 2.0**-24
"""Largest relative error of one float32 operation."""

UNITS = 8
"""Units of rounding that each layer is given beyond the terms of its sums."""

TINY = 2.0**-90
"""Absolute error, before it is multiplied by a layer's relative one, that stands for underflow."""

OWN = 2.0**-50
"""Relative error of one step of the float64 arithmetic here: eight of its units of 2**-53."""


def growth(terms: int, unit: float) -> float:
    """Return the relative error of a sum of so many products, and of `UNITS` more roundings; 0 for a unit of 0."""
    share = (terms + UNITS) * unit
    return share / (1 - share) if share < 1 else float("inf")


class Box(NamedTuple):
    """An interval for each number of a layer, ends included."""

    lower: Tensor
    """(B, ...)."""
    upper: Tensor
    """(B, ...), nowhere below `lower`."""

    @property
    def centre(self) -> Tensor:
        """The middle (B, ...)."""
        return (self.lower + self.upper) * 0.5

    @property
    def radius(self) -> Tensor:
        """Half the width (B, ...), at least 0."""
        return (self.upper - self.lower) * 0.5

    @property
    def size(self) -> Tensor:
        """(B, ...) the largest absolute value inside."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    def widened(self, by: Tensor) -> Box:
        """Return the box with its ends moved outwards by this much (B, ...), at least 0."""
        return Box(self.lower - by, self.upper + by)


def image_box(images: Images, epsilon: float | Tensor, unit: float = 0.0) -> Box:
    """Return the images within `epsilon` of these and inside [0, 1], in their type.

    Parameters
    ----------
    images
        (B, C, H, W) in [0, 1].
    epsilon
        L-inf radius in pixel units, for all images or (B,) for each.
    unit
        Above 0, the ends are moved outwards by more than float64 rounds them.
    """
    if isinstance(epsilon, Tensor):
        epsilon = epsilon.to(images.dtype).view(-1, *([1] * (images.dim() - 1)))
    radius = epsilon + OWN if unit else epsilon
    return Box((images - radius).clamp(0, 1), (images + radius).clamp(0, 1))
