"""A `PixelCnn` asked pixel after pixel, at the cost of one pass over the whole image.

When a pixel is written, only what sees it and was not asked before is computed: the stream of rows above once
for each row, the other one place by place, and the coarse resolutions at every second, fourth, ... row and column.

Every tensor has its images last, (columns, channels, B): the window of a convolution is then one piece of
memory, a matrix of (columns x channels, B), and no layer copies its input.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.networks.pixelcnn import GatedBlock, PixelCnn, ShiftedConv, ShiftedUpsampling


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
    """Return ``bias + weight @ column`` for each column, (W, outputs, B).

    The bias is (outputs, 1) or (W, outputs, B), the weight (outputs, inputs), the columns (W, inputs, B).
    """
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


class _Node:
    """The activated values of both streams at one depth of one resolution."""

    def __init__(self, width: int, channels: int, images: int, like: Tensor) -> None:
        self.above = Lines(width, channels, images, 3, like)
        self.left = Lines(width, channels, images, 2, like)


class _Level:
    """One resolution: its blocks, the nodes between them and the ways to and from the next coarser one."""

    def __init__(self, net: PixelCnn, level: int, images: int) -> None:
        self.scale = 2**level
        width, filters, like = net.plan.size // self.scale, net.plan.filters, net.output.bias

        def row_blocks(blocks: nn.Module) -> list[RowBlock]:
            return [RowBlock(cast("GatedBlock", block), width, images) for block in blocks.children()]

        def cell_blocks(blocks: nn.Module) -> list[CellBlock]:
            return [CellBlock(cast("GatedBlock", block), width, images) for block in blocks.children()]

        def node() -> _Node:
            return _Node(width, 2 * filters, images, like)

        self.down_above, self.down_left = row_blocks(net.down_above[level]), cell_blocks(net.down_left[level])
        self.up_above, self.up_left = row_blocks(net.up_above[level]), cell_blocks(net.up_left[level])
        self.down = [node() for _ in range(len(self.down_above) + 1)]
        self.coarsest = level + 1 == net.plan.resolutions
        self.up = [node() for _ in range(len(self.up_above) + 1)]
        if self.coarsest:
            self.up[0] = self.down[-1]
        self.skips = list(reversed(self.down[:-1] if self.coarsest else self.down))
        self.top_above = like.new_zeros(width, filters, images)
        self.top_left = [like.new_zeros(filters, images)] * width
        if not self.coarsest:
            self.plain_above = Lines(width, filters, images, 3, like)
            self.plain_left = Lines(width, filters, images, 2, like)
            self.halve_above = RowConv(cast("ShiftedConv", net.halve_above[level]))
            self.halve_left = CellConv(cast("ShiftedConv", net.halve_left[level]))
            self.double_above = RowUpsampling(cast("ShiftedUpsampling", net.double_above[level]))
            self.double_left = CellUpsampling(cast("ShiftedUpsampling", net.double_left[level]))

    def row_down(self, above: Tensor, y: int) -> Tensor:
        """Return row y of the stream above at the end of the way down; prepare the other stream's row."""
        activate(above, self.down[0].above.row(y))
        pairs = zip(self.down_above, self.down_left, strict=True)
        for here, there, (to_above, to_left) in zip(self.down, self.down[1:], pairs, strict=False):
            above = to_above(above, here.above, y)
            activate(above, there.above.row(y))
            to_left.start_row(here.left, y, there.above.row(y))
        return above

    def row_up(self, above: Tensor, y: int) -> None:
        """Finish row y of the stream above; prepare the other stream's row."""
        if not self.coarsest:
            activate(above, self.up[0].above.row(y))
        for j, (to_above, to_left) in enumerate(zip(self.up_above, self.up_left, strict=True)):
            here, there = self.up[j], self.up[j + 1]
            above = to_above(above, here.above, y, self.skips[j].above.row(y))
            activate(above, there.above.row(y))
            to_left.start_row(here.left, y, there.above.row(y))
        self.top_above = above

    def cell_down(self, left: Tensor, y: int, x: int) -> Tensor:
        """Return the other stream at (y, x) at the end of the way down."""
        activate(left, self.down[0].left.cell(y, x))
        for j, to_left in enumerate(self.down_left):
            left = to_left(left, self.down[j].left, y, x)
            activate(left, self.down[j + 1].left.cell(y, x))
        return left

    def cell_up(self, left: Tensor, y: int, x: int) -> None:
        """Finish the other stream at (y, x)."""
        if not self.coarsest:
            activate(left, self.up[0].left.cell(y, x))
        last = len(self.up_left) - 1
        for j, to_left in enumerate(self.up_left):
            left = to_left(left, self.up[j].left, y, x, self.skips[j].left.cell(y, x))
            if j < last:
                activate(left, self.up[j + 1].left.cell(y, x))
        self.top_left[x] = left


class PixelCnnCache:
    """The state of a batch of B images on its way through a network: ask and write every pixel in raster order.

    The weights are read once, by the constructor; dropout is off.
    """

    def __init__(self, net: PixelCnn, images: int) -> None:
        plan, bias = net.plan, net.output.bias
        self.plan, self.levels = plan, [_Level(net, level, images) for level in range(plan.resolutions)]
        self.seen = bias.new_zeros(plan.size + 2, plan.size + 2, plan.channels + 1, images)
        self.seen[2:, 1:-1, -1] = 1.0  # told from padding
        self.stem_above, self.stem_row, self.stem_left = net.stem_above, net.stem_row, net.stem_left
        self.corner, self.own = net.stem_left.weight()[..., 0].unbind(2)  # (F, C + 1) each
        self.output, self.output_bias = net.output.weight()[:, :, 0, 0], net.output.bias[:, None]
        self.stem_known: list[Tensor] = []

    def start_row(self, y: int) -> None:
        """Take in the rows above y; every pixel of theirs has been written."""
        above = self._start_stem(y)
        deepest = -1
        for level in self.levels:
            if y % level.scale:
                break
            deepest, own = deepest + 1, y // level.scale
            above = level.row_down(above, own)
            if not level.coarsest:
                level.plain_above.row(own).copy_(above)
                if own % 2 == 0:
                    above = level.halve_above(level.plain_above, own)
                    level.halve_left.start_row(level.plain_left, own)
        for index in range(deepest, -1, -1):
            level = self.levels[index]
            own = y // level.scale
            if not level.coarsest:
                above = level.double_above(self.levels[index + 1].top_above, own)
            level.row_up(above, own)

    def _start_stem(self, y: int) -> Tensor:
        """Return row y of the stream above after its stem, (W, F, B); prepare the other stream's."""
        zero = self.levels[0].top_above.new_zeros(self.levels[0].top_above.shape)
        if y == 0:
            above = row = zero
            known = self.stem_left.bias[:, None]
        else:
            upper, lower = self.seen[y], self.seen[y + 1]  # (W + 2, C + 1, B) of rows y - 2 and y - 1
            weight = self.stem_above.weight()  # (F, C + 1, 2, 3)
            above, row = self.stem_above.bias[:, None] + zero, self.stem_row.bias[:, None] + zero
            for x in range(3):
                reach = slice(x, x + self.plan.size)
                above = everywhere(above, weight[:, :, 0, x], upper[reach])
                above = everywhere(above, weight[:, :, 1, x], lower[reach])
                row = everywhere(row, self.stem_row.weight()[:, :, 0, x], lower[reach])
            known = everywhere(self.stem_left.bias[:, None] + zero, self.corner, lower[: self.plan.size])
        total = row + known
        total[0] = row[0]
        self.stem_known = list(total)
        return above

    def parameters_at(self, y: int, x: int) -> Tensor:
        """Return the mixture parameters (P, B) of pixel (y, x); all pixels before it have been written."""
        left = self.stem_known[x]
        if x:
            left = torch.addmm(left, self.own, self.seen[y + 2, x])
        deepest = -1
        for level in self.levels:
            if y % level.scale or x % level.scale:
                break
            deepest, row, column = deepest + 1, y // level.scale, x // level.scale
            left = level.cell_down(left, row, column)
            if not level.coarsest:
                level.plain_left.cell(row, column).copy_(left)
                if row % 2 == 0 and column % 2 == 0:
                    left = level.halve_left(level.plain_left, row, column)
        for index in range(deepest, -1, -1):
            level = self.levels[index]
            row, column = y // level.scale, x // level.scale
            if not level.coarsest:
                left = level.double_left(self.levels[index + 1].top_left[column // 2], row, column)
            level.cell_up(left, row, column)
        return torch.addmm(self.output_bias, self.output, F.elu(self.levels[0].top_left[x]))

    def write(self, y: int, x: int, values: Tensor) -> None:
        """Set pixel (y, x) to values (C, B) in [-1, 1]."""
        self.seen[y + 2, x + 1, :-1] = values
