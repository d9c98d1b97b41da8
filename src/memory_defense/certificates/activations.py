"""The steps that activations and maximum pooling are read as: functions that never fall, applied to both ends.

Legend: B images, L bounds for each, further axes after them.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.certificates.boxes import OWN, TINY, UNITS, Box, growth
from memory_defense.certificates.steps import Step, doubt, least, own, weigh

_LEAST_WIDTH = 1e-30
"""Width below which an interval counts as a point."""


class Rectifier(Step):
    """ReLU, or leaky ReLU with a slope in [0, 1] below 0; a convex function that never falls.

    Going back, the chord bounds it from above, and from below the line through 0 that leaves the smaller area (the
    adaptive bound of CROWN).
    """

    def __init__(self, slope: float = 0.0) -> None:
        self.slope = slope

    def point(self, values: Tensor) -> Tensor:
        """Return the activations (B, ...)."""
        return F.leaky_relu(values, self.slope) if self.slope else F.relu(values)

    def _box(self, box: Box, unit: float) -> Box:
        made = Box(self.point(box.lower), self.point(box.upper))
        return made.widened(growth(1, unit) * (made.size + TINY)) if unit and self.slope else made

    def back(self, lines: Tensor, unit: float) -> tuple[Tensor, Tensor]:
        """Return positive lines times the lower bound's slope, and negative ones times the chord's."""
        lower, upper = self.entered
        low, high = self.point(lower), self.point(upper)
        chord = ((high - low) / (upper - lower).clamp(min=_LEAST_WIDTH)).clamp(0, 1)
        below = torch.where(upper > -lower, 1.0, self.slope).to(lower)
        rising, falling = lines.clamp(min=0), lines.clamp(max=0)
        constant = weigh(falling, low - chord * lower)
        if unit:
            share = (UNITS + 1) * OWN + (growth(1, unit) if self.slope else 0.0)
            constant = constant - doubt(lines, (share + own(lines[0, 0].numel())) * (self.entered.size + TINY))
        return rising * below + falling * chord, constant


class Largest(Step):
    """Maximum pooling. Going back ends here: what comes before is bounded by its intervals."""

    def __init__(self, layer: nn.MaxPool2d | nn.AdaptiveMaxPool2d) -> None:
        self.layer = layer

    def point(self, values: Tensor) -> Tensor:
        """Return the maxima of values (B, C, H, W)."""
        return cast("Tensor", self.layer(values))

    def _box(self, box: Box, unit: float) -> Box:
        del unit
        return Box(self.point(box.lower), self.point(box.upper))

    def back(self, lines: Tensor, unit: float) -> tuple[None, Tensor]:
        """Return the smallest values in the box of the maxima."""
        return None, least(lines, self._box(self.entered, unit), unit)
