"""Networks as steps that intervals go forward through and linear bounds go back through.

Legend: B images, L bounds for each image, any further axes. *Lines* (L, B, ...) are the coefficients of linear
functions of a layer's numbers. Going back, the lower bound of a function of a step's output becomes that of a
function of its input plus a constant (CROWN, Zhang et al. 2018, arXiv:1811.00866); where it ends, the function's
minimum over the box there is a number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from memory_defense.certificates.boxes import OWN, UNITS, Box, growth

_ADDED = 2.0**-44
"""Relative error, of the sum of absolute values, of adding up to 500 constants in float64."""

_SAFE = 1 + 2.0**-20
"""Factor that pays for the rounding of sums of up to 2**25 errors."""


class Step(ABC):
    """One layer. It is made anew for every pass, as it remembers the box that went in."""

    straight: bool = False
    """Whether it is affine, so that going back through it loses nothing."""
    entered: Box
    """The box that went in last."""

    @abstractmethod
    def point(self, values: Tensor) -> Tensor:
        """Return what the layer makes of values (B, ...)."""

    def box(self, box: Box, unit: float = 0.0) -> Box:
        """Return a box around what the layer makes of anything in `box`, and remember `box`.

        Parameters
        ----------
        unit
            `boxes.UNIT` where rounding counts, as in a proof; 0 where it does not, as in training.
        """
        self.entered = box
        return self._box(box, unit)

    @abstractmethod
    def _box(self, box: Box, unit: float) -> Box: ...

    @abstractmethod
    def back(self, lines: Tensor, unit: float) -> tuple[Tensor | None, Tensor]:
        """Return lines (L, B, ...) of the input and constants (L, B).

        Together they are nowhere above the lines of the output. None means that the constants alone are the bound.
        """


def follow(
    steps: Sequence[Step], box: Box, unit: float = 0.0, point: Tensor | None = None
) -> tuple[Box, Tensor | None]:
    """Return the box behind all steps, and what they make of `point` (B, ...) if one goes along."""
    for step in steps:
        if point is not None:
            point = step.point(point)
        box = step.box(box, unit)
    return box, point


def back_through(steps: Sequence[Step], lines: Tensor, unit: float) -> tuple[Tensor | None, list[Tensor]]:
    """Return lines of the input of all steps, and the constants that came together on the way back to it."""
    constants: list[Tensor] = []
    left: Tensor | None = lines
    for step in reversed(steps):
        if left is None:
            break
        left, constant = step.back(left, unit)
        constants.append(constant)
    return left, constants


def lower_bounds(steps: Sequence[Step], lines: Tensor, end: Box, unit: float = 0.0) -> Tensor:
    """Return (L, B) lower bounds of functions of what these steps put out, after a pass of boxes through them.

    Parameters
    ----------
    steps
        The last ones of a network, back to where the functions are bounded by the box that went in there.
    lines
        (L, B, ...) the functions.
    end
        The box behind the last step.
    unit
        As in `Step.box`.
    """
    left, constants = back_through(steps, lines, unit)
    if left is not None:
        constants.append(least(left, steps[0].entered if steps else end, unit))
    summed = torch.stack(constants)
    total = summed.sum(0)
    return total - _ADDED * summed.abs().sum(0) if unit else total


def least(lines: Tensor, box: Box, unit: float) -> Tensor:
    """Return (L, B) the smallest values of linear functions (L, B, ...) in a box (B, ...)."""
    radius = box.radius
    if unit:
        radius = radius + own(lines[0, 0].numel()) * box.size
    return weigh(lines, box.centre) - weigh(lines.abs(), radius) * (_SAFE if unit else 1)


def weigh(lines: Tensor, values: Tensor) -> Tensor:
    """Return (L, B) the sums of lines (L, B, ...) times values (B, ...)."""
    with torch.autocast(lines.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(lines.dtype, values.dtype), torch.float32)
        return torch.einsum("lbn,bn->lb", lines.flatten(2).to(dtype), values.flatten(1).to(dtype))


def own(terms: int) -> float:
    """Return the relative error of a float64 sum of so many products, and of `UNITS` more roundings."""
    return (terms + UNITS) * OWN


def doubt(lines: Tensor, errors: Tensor) -> Tensor:
    """Return (L, B) how much lines (L, B, ...) make of errors (B, ...), at least 0."""
    return weigh(lines.abs(), errors) * _SAFE


class Branches(Step):
    """The sum of what several lists of steps make of the same input; an empty list hands it on."""

    def __init__(self, branches: Sequence[Sequence[Step]]) -> None:
        self.branches = branches
        self.straight = all(step.straight for branch in branches for step in branch)
        self.ends: list[Box] = []

    def point(self, values: Tensor) -> Tensor:
        """Return the sum (B, ...)."""
        return torch.stack([_points(branch, values) for branch in self.branches]).sum(0)

    def _box(self, box: Box, unit: float) -> Box:
        self.ends = [follow(branch, box, unit)[0] for branch in self.branches]
        total = Box(
            torch.stack([end.lower for end in self.ends]).sum(0),
            torch.stack([end.upper for end in self.ends]).sum(0),
        )
        return total.widened(self._rounding(unit)) if unit else total

    def _rounding(self, unit: float) -> Tensor:
        return growth(len(self.ends), unit) * torch.stack([end.size for end in self.ends]).sum(0)

    def back(self, lines: Tensor, unit: float) -> tuple[Tensor | None, Tensor]:
        """Return the sum of the branches' lines, and of their constants."""
        found: list[Tensor] = []
        constants: list[Tensor] = []
        for branch in self.branches:
            left, more = back_through(branch, lines, unit)
            constants.extend(more)
            if left is not None:
                found.append(left)
        if unit:
            constants.append(-doubt(lines, self._rounding(unit)))
            errors = own(len(found)) * self.entered.size
            constants.extend(-doubt(one, errors) for one in found)
        total = torch.stack(constants) if constants else lines.new_zeros((1, *lines.shape[:2]))
        constant = total.sum(0) - (_ADDED * total.abs().sum(0) if unit else 0)
        return (torch.stack(found).sum(0) if found else None), constant


def _points(steps: Sequence[Step], values: Tensor) -> Tensor:
    for step in steps:
        values = step.point(values)
    return values
