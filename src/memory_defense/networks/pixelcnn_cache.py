"""A PixelCNN asked pixel after pixel: what one pass over the whole image costs, instead of one pass for each pixel.

When a pixel is written, only what sees it and was not asked before is computed: the stream of rows above once
for each row, the other one place by place, and the coarse resolutions at every second, fourth, ... row and column.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.networks.pixelcnn import PixelCnn
from memory_defense.networks.pixelcnn_cells import (
    CellBlock,
    CellConv,
    CellUpsampling,
    Lines,
    RowBlock,
    RowConv,
    RowUpsampling,
    activate,
)
from memory_defense.networks.pixelcnn_layers import GatedBlock, ShiftedConv, ShiftedUpsampling


class _Node:
    """What both streams hold, activated, at one depth of one resolution."""

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
    """The state of one batch on its way through a network: start at (0, 0), ask and write every pixel in turn.

    Parameters
    ----------
    net
        Its weights are read once, here; dropout is off.
    images
        B.
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
                above = everywhere_sum(
                    above, (weight[:, :, 0, x], upper[reach]), (weight[:, :, 1, x], lower[reach])
                )
                row = everywhere_sum(row, (self.stem_row.weight()[:, :, 0, x], lower[reach]))
            known = everywhere_sum(self.stem_left.bias[:, None] + zero, (self.corner, lower[: self.plan.size]))
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


def everywhere_sum(total: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
    """Return ``total + sum of weight @ column``, (W, F, B), over pairs of (F, C) and (W, C, B)."""
    for weight, columns in terms:
        total = torch.baddbmm(total, weight.expand(len(columns), -1, -1), columns)
    return total
