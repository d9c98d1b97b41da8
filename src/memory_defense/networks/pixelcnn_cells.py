"""The layers of a PixelCNN a row or a pixel at a time: each number is computed once and kept while it is needed.

Every tensor has its images last, (columns, channels, B): the window of a convolution is then one piece of
memory, a matrix of (columns x channels, B), and no layer copies its input.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from memory_defense.networks.pixelcnn_layers import GatedBlock, ShiftedConv, ShiftedUpsampling


class Lines:
    """The current row of a layer's input and the one above it, with the columns of padding that a kernel reaches.

    Parameters
    ----------
    width, channels, images
        W, C and B.
    reach
        Width of the kernel: 3 pads a column on both sides, 2 one at the left.
    like
        Gives device and type.
    """

    def __init__(self, width: int, channels: int, images: int, reach: int, like: Tensor) -> None:
        self.width, self.reach = width, reach
        self.data = like.new_zeros(2, width + reach - 1, channels, images)
        self._rows = [line[1 : 1 + width] for line in self.data]
        self._cells = [list(row) for row in self._rows]
        self._windows = [[line[x : x + reach].flatten(0, 1) for x in range(width)] for line in self.data]

    def row(self, y: int) -> Tensor:
        """Return row y, (W, C, B), as a view."""
        return self._rows[y % 2]

    def cell(self, y: int, x: int) -> Tensor:
        """Return one place, (C, B), as a view."""
        return self._cells[y % 2][x]

    def window(self, y: int, x: int) -> Tensor:
        """Return what the kernel sees of row y at column x, (reach C, B), as a view."""
        return self._windows[y % 2][x]

    def windows(self, y: int, stride: int) -> Tensor:
        """Return what the kernel sees of row y at every column, (W / stride, reach C, B), as a view."""
        line = self.data[y % 2]  # (W + reach - 1, C, B)
        channels, images = line.shape[1:]
        shape = (self.width // stride, self.reach * channels, images)
        return line.as_strided(shape, (stride * channels * images, images, 1))


def activate(values: Tensor, out: Tensor) -> None:
    """Write the ELU of the values (..., F, B) and of their negatives to `out` (..., 2F, B)."""
    positive, negative = out.chunk(2, -2)
    positive.copy_(values)
    torch.neg(values, out=negative)
    F.elu_(out)


class _Halves(NamedTuple):
    """A kernel of two rows as two matrices (outputs, reach x inputs), and its bias (outputs, 1)."""

    upper: Tensor
    lower: Tensor
    bias: Tensor

    @classmethod
    def of(cls, conv: ShiftedConv) -> _Halves:
        upper, lower = (row.permute(0, 2, 1).flatten(1).contiguous() for row in conv.weight().unbind(2))
        return cls(upper, lower, conv.bias[:, None])


def everywhere(bias: Tensor, weight: Tensor, columns: Tensor) -> Tensor:
    """Return ``bias + weight @ column`` for each column: (W, outputs, B) from columns (W, inputs, B)."""
    return torch.baddbmm(bias, weight.expand(len(columns), -1, -1), columns)


class RowConv:
    """A convolution of the stream of rows above, a whole row at a time."""

    def __init__(self, conv: ShiftedConv) -> None:
        self.halves, self.stride = _Halves.of(conv), conv.stride

    def __call__(self, lines: Lines, y: int) -> Tensor:
        """Return the output (W / stride, outputs, B) whose lowest row of input is y."""
        partial = everywhere(self.halves.bias, self.halves.upper, lines.windows(y - 1, self.stride))
        return everywhere(partial, self.halves.lower, lines.windows(y, self.stride))


class CellConv:
    """A convolution of the stream that sees the left, a pixel at a time: the row above is done in advance."""

    def __init__(self, conv: ShiftedConv) -> None:
        self.halves, self.stride = _Halves.of(conv), conv.stride
        self.known: list[Tensor] = []

    def start_row(self, lines: Lines, y: int, more: Tensor | float = 0.0) -> None:
        """Compute what the row above y and `more` (W / stride, outputs, B) contribute to row y."""
        upper = everywhere(self.halves.bias, self.halves.upper, lines.windows(y - 1, self.stride))
        self.known = list(upper + more)

    def __call__(self, lines: Lines, y: int, x: int) -> Tensor:
        """Return the output (outputs, B) whose lowest right input is (y, x)."""
        return torch.addmm(self.known[x // self.stride], self.halves.lower, lines.window(y, x))


class RowBlock:
    """A `GatedBlock` of the stream of rows above."""

    def __init__(self, block: GatedBlock, width: int, images: int) -> None:
        self.first, self.second = RowConv(block.first), RowConv(block.second)
        self.skip = _matrix(block.skip) if block.skip else None
        self.skip_bias = block.skip.bias[:, None] if block.skip else None
        self.hidden = Lines(width, block.second.direction.shape[1], images, 3, block.first.bias)

    def __call__(self, values: Tensor, active: Lines, y: int, skip: Tensor | None = None) -> Tensor:
        """Return row y of the output, (W, F, B); `skip` is (W, 2F, B), activated."""
        hidden = self.first(active, y)
        if self.skip is not None:
            assert skip is not None
            assert self.skip_bias is not None
            hidden = everywhere(hidden + self.skip_bias, self.skip, skip)
        activate(hidden, self.hidden.row(y))
        return values + F.glu(self.second(self.hidden, y), 1)


class CellBlock:
    """A `GatedBlock` of the stream that sees the left."""

    def __init__(self, block: GatedBlock, width: int, images: int) -> None:
        assert block.skip is not None
        channels = block.second.direction.shape[1]  # 2F
        self.first, self.second = CellConv(block.first), CellConv(block.second)
        matrix = _matrix(block.skip)
        self.skip_above, self.skip_left = matrix[:, :channels].contiguous(), matrix[:, channels:].contiguous()
        self.skip_bias = block.skip.bias[:, None]
        self.hidden = Lines(width, channels, images, 2, block.first.bias)

    def start_row(self, active: Lines, y: int, above: Tensor) -> None:
        """Compute all that does not depend on row y's own pixels; `above` is (W, 2F, B), activated."""
        self.first.start_row(active, y, everywhere(self.skip_bias, self.skip_above, above))
        self.second.start_row(self.hidden, y)

    def __call__(self, values: Tensor, active: Lines, y: int, x: int, skip: Tensor | None = None) -> Tensor:
        """Return the output (F, B) at (y, x); `skip` is (2F, B), activated."""
        hidden = self.first(active, y, x)
        if skip is not None:
            hidden = torch.addmm(hidden, self.skip_left, skip)
        activate(hidden, self.hidden.cell(y, x))
        return values + F.glu(self.second(self.hidden, y, x), 0)


class RowUpsampling:
    """A `ShiftedUpsampling` of width 3, a fine row at a time."""

    def __init__(self, layer: ShiftedUpsampling) -> None:
        self.weights = [list(row.unbind(2)) for row in layer.weight().transpose(0, 1).unbind(2)]  # [2][3] (F, F)
        self.bias = layer.bias[:, None]

    def __call__(self, values: Tensor, y: int) -> Tensor:
        """Return fine row y, (2W, F, B), of coarse values (W, F, B)."""
        left, own, right = self.weights[y % 2]
        even = everywhere(self.bias, own, values)
        odd = everywhere(self.bias, right, values)
        odd[:-1] += everywhere(torch.zeros_like(self.bias), left, values[1:])
        return torch.stack([even, odd], 1).flatten(0, 1)


class CellUpsampling:
    """A `ShiftedUpsampling` of width 2, a fine pixel at a time."""

    def __init__(self, layer: ShiftedUpsampling) -> None:
        rows = layer.weight().transpose(0, 1).unbind(2)
        self.weights = [[part.contiguous() for part in row.unbind(2)] for row in rows]  # [2][2] (F, F)
        self.bias = layer.bias[:, None]

    def __call__(self, values: Tensor, y: int, x: int) -> Tensor:
        """Return the fine output (F, B) at (y, x) of the coarse value (F, B) that covers it."""
        return torch.addmm(self.bias, self.weights[y % 2][x % 2], values)


def _matrix(conv: ShiftedConv) -> Tensor:
    """Return the weights of a 1x1 convolution, (outputs, inputs)."""
    return conv.weight()[:, :, 0, 0]
