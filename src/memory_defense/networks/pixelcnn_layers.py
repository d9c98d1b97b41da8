"""Shifted, weight-normalised convolutions and gated residual blocks of PixelCNN++ (Salimans et al., ICLR 2017).

An output of a shifted convolution sees its own row and rows above, never a row below. ``wide`` kernels (odd
width) are centred on the column, the others end at it, so they never see a column to the right either.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def concat_elu(values: Tensor) -> Tensor:
    """Return ELU of the values and of their negatives, (B, F, H, W) to (B, 2F, H, W)."""
    return F.elu(torch.cat([values, -values], 1))


def shift_down(values: Tensor) -> Tensor:
    """Return the rows moved down by one, a row of zeros on top; shape as given."""
    return F.pad(values, (0, 0, 1, 0))[:, :, :-1]


def shift_right(values: Tensor) -> Tensor:
    """Return the columns moved right by one, a column of zeros at the left; shape as given."""
    return F.pad(values, (1, 0, 0, 0))[:, :, :, :-1]


class ShiftedConv(nn.Module):
    """A causal convolution whose weights are a direction and a length for each output (Salimans & Kingma 2016).

    Parameters
    ----------
    inputs, outputs
        Channels.
    kernel
        Height and width. An odd width is centred, an even one ends at the output's column.
    stride
        1, or 2 to halve rows and columns (H and W even).
    scale
        Deviation of the outputs after `initialise`.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], *, stride: int = 1, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.scale = kernel, stride, scale
        self.direction = nn.Parameter(0.05 * torch.randn(outputs, inputs, *kernel))
        self.gain = nn.Parameter(torch.ones(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def weight(self) -> Tensor:
        """Return the weights (outputs, inputs, height, width): gain times unit direction."""
        length = self.direction.square().sum((1, 2, 3), keepdim=True).sqrt()
        return self.direction * (self.gain[:, None, None, None] / length)

    def forward(self, values: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride)."""
        height, width = self.kernel
        above, left = height - 1, width // 2
        rows, columns = values.shape[2] // self.stride, values.shape[3] // self.stride
        result = F.conv2d(values, self.weight(), self.bias, self.stride, (above, left))
        return result[:, :, :rows, :columns]

    @torch.no_grad()
    def initialise(self, outputs: Tensor) -> Tensor:
        """Choose gain and bias so that these outputs get mean 0 and deviation `scale`; return them changed."""
        mean, deviation = _moments(outputs)
        factor = self.scale / deviation
        self.gain.mul_(factor)
        self.bias.sub_(mean).mul_(factor)
        return (outputs - mean[:, None, None]) * factor[:, None, None]


class ShiftedUpsampling(nn.Module):
    """The transposed counterpart of a `ShiftedConv` with stride 2: it doubles rows and columns, causally.

    Parameters
    ----------
    inputs, outputs
        Channels.
    width
        3: a column's kernel reaches one fine column to either side (the stream of rows above); 2: each coarse
        position fills its own four fine ones (the stream that also sees the left).
    """

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        assert width in (2, 3)
        self.width = width
        self.direction = nn.Parameter(0.05 * torch.randn(inputs, outputs, 2, width))
        self.gain = nn.Parameter(torch.ones(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def weight(self) -> Tensor:
        """Return the weights (inputs, outputs, 2, width): gain times unit direction."""
        length = self.direction.square().sum((0, 2, 3), keepdim=True).sqrt()
        return self.direction * (self.gain[:, None, None] / length)

    def forward(self, values: Tensor) -> Tensor:
        """Return (B, outputs, 2H, 2W)."""
        result = F.conv_transpose2d(values, self.weight(), self.bias, stride=2)
        return result if self.width == 2 else result[:, :, :, 1:]

    @torch.no_grad()
    def initialise(self, outputs: Tensor) -> Tensor:
        """Choose gain and bias so that these outputs get mean 0 and deviation 1; return them changed."""
        mean, deviation = _moments(outputs)
        self.gain.div_(deviation)
        self.bias.sub_(mean).div_(deviation)
        return (outputs - mean[:, None, None]) / deviation[:, None, None]


def _moments(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return each channel's mean and deviation, (F,) both; 1 for a channel that is constant.

    At the coarsest resolution of a tiny image, a stream may see padding only.
    """
    variance, mean = torch.var_mean(outputs, dim=(0, 2, 3), correction=0)
    return mean, torch.where(variance > 1e-8, variance, 1.0).sqrt()


class GatedBlock(nn.Module):
    """A gated residual block: ``x + a * sigmoid(b)`` from two shifted convolutions.

    Parameters
    ----------
    filters
        F, channels in and out.
    kernel
        Of both convolutions.
    skips
        Streams of F channels that come in by a 1x1 convolution; 0 for none.
    dropout
        Between the convolutions.
    """

    def __init__(self, filters: int, kernel: tuple[int, int], skips: int, dropout: float) -> None:
        super().__init__()
        self.first = ShiftedConv(2 * filters, filters, kernel)
        self.skip = ShiftedConv(2 * filters * skips, filters, (1, 1)) if skips else None
        self.dropout = nn.Dropout(dropout)
        self.second = ShiftedConv(2 * filters, 2 * filters, kernel, scale=0.1)

    def forward(self, values: Tensor, active: Tensor, *skips: Tensor) -> Tensor:
        """Return (B, F, H, W).

        Parameters
        ----------
        values
            (B, F, H, W).
        active
            (B, 2F, H, W): `concat_elu` of the values, which others need too.
        skips
            (B, 2F, H, W) each, activated as well.
        """
        hidden = self.first(active)
        if self.skip is not None:
            hidden = hidden + self.skip(skips[0] if len(skips) == 1 else torch.cat(skips, 1))
        return values + F.glu(self.second(self.dropout(concat_elu(hidden))), 1)
