"""PixelCNN++ (Salimans et al., ICLR 2017): an exact likelihood of images, pixel after pixel in raster order.

Two streams run side by side at several resolutions: one sees the rows above a pixel, the other those and the
pixels to its left in the same row. Both go down and up again like a U-Net, with a short cut from every layer.
No output sees its own pixel or a later one: an output of a shifted convolution sees its own row and rows above,
never a row below. Kernels of odd width are centred on the column; those of even width end at it, so they never see
a column to the right either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.checks import check_at_least, check_images
from memory_defense.contracts import Images, PerImage
from memory_defense.networks.layers import check_side
from memory_defense.networks.pixelcnn_mixture import LEVELS, Mixture, levels_of, parameter_count, scaled
from memory_defense.wrappers import frozen, replace_value


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
        Height and width of both convolutions.
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


ABOVE, LEFT = (2, 3), (2, 2)
"""Kernels of the stream of rows above and of the stream that also sees the left."""


@dataclass(frozen=True, kw_only=True)
class PixelCnnPlan:
    """The architecture of a `PixelCnn`; `PIXELCNN_PRESETS` has three by name.

    Raises
    ------
    ValueError
        For numbers that no network can be built with.
    """

    channels: int
    """C."""
    size: int
    """H = W, a multiple of ``2 ** (resolutions - 1)``."""
    filters: int
    """F, channels of either stream."""
    blocks: int
    """R, gated residual blocks of a resolution on the way down; one more on the way up at all but the coarsest."""
    resolutions: int = 3
    mixtures: int = 10
    """K, logistic components."""
    dropout: float = 0.5
    """Probability of dropout inside the blocks, in train mode."""

    def __post_init__(self) -> None:
        check_at_least(1, channels=self.channels, filters=self.filters, blocks=self.blocks)
        check_at_least(1, resolutions=self.resolutions, mixtures=self.mixtures)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, but it must be in [0, 1)")
        check_side(self.size, "this network")
        if self.size % (factor := 2 ** (self.resolutions - 1)):
            raise ValueError(
                f"size is {self.size}, but {self.resolutions} resolutions need a multiple of {factor}; "
                "lower resolutions, or resize the images"
            )


@dataclass(frozen=True, kw_only=True)
class PixelCnnPreset:
    """A `PixelCnnPlan` without the shape of the images."""

    summary: str
    filters: int
    blocks: int
    mixtures: int = 10
    dropout: float = 0.5

    def plan(self, channels: int, size: int) -> PixelCnnPlan:
        """Return the plan for images of this shape; raise ValueError for a size that is no multiple of 4."""
        values = {name: value for name, value in vars(self).items() if name != "summary"}
        return PixelCnnPlan(channels=channels, size=size, **values)


PIXELCNN_PRESETS: dict[str, PixelCnnPreset] = {
    "cifar-10": PixelCnnPreset(
        summary="PixelDefend's for CIFAR-10: 160 filters, 53.7 M parameters; needs an accelerator for days",
        filters=160,
        blocks=5,
    ),
    "fashion-mnist": PixelCnnPreset(
        summary="PixelDefend's for Fashion-MNIST: 40 filters, 3.4 M parameters; needs an accelerator for hours",
        filters=40,
        blocks=5,
    ),
    "small": PixelCnnPreset(
        summary="a twentieth of the work, for minutes on a processor",
        filters=16,
        blocks=1,
        mixtures=5,
        dropout=0.0,
    ),
}
"""The two of the paper, and one for processors."""


class PixelCnn(nn.Module):
    """Images (B, C, H, W) in [0, 1], rounded to 256 levels, to the mixture parameters of every pixel.

    `initialise` it once with some training images before it is trained.

    Parameters
    ----------
    plan
        The architecture.
    """

    initialised: Tensor

    def __init__(self, plan: PixelCnnPlan) -> None:
        super().__init__()
        self.plan = plan
        seen, filters, coarsest = plan.channels + 1, plan.filters, plan.resolutions - 1

        def stage(kernel: tuple[int, int], skips: int, count: int) -> nn.ModuleList:
            return nn.ModuleList(GatedBlock(filters, kernel, skips, plan.dropout) for _ in range(count))

        up_counts = [plan.blocks + (level < coarsest) for level in range(plan.resolutions)]
        self.stem_above = ShiftedConv(seen, filters, ABOVE)
        self.stem_row = ShiftedConv(seen, filters, (1, 3))
        self.stem_left = ShiftedConv(seen, filters, (2, 1))
        self.down_above = nn.ModuleList(stage(ABOVE, 0, plan.blocks) for _ in range(plan.resolutions))
        self.down_left = nn.ModuleList(stage(LEFT, 1, plan.blocks) for _ in range(plan.resolutions))
        self.halve_above = nn.ModuleList(ShiftedConv(filters, filters, ABOVE, stride=2) for _ in range(coarsest))
        self.halve_left = nn.ModuleList(ShiftedConv(filters, filters, LEFT, stride=2) for _ in range(coarsest))
        self.up_above = nn.ModuleList(stage(ABOVE, 1, count) for count in up_counts)
        self.up_left = nn.ModuleList(stage(LEFT, 2, count) for count in up_counts)
        self.double_above = nn.ModuleList(ShiftedUpsampling(filters, filters, 3) for _ in range(coarsest))
        self.double_left = nn.ModuleList(ShiftedUpsampling(filters, filters, 2) for _ in range(coarsest))
        self.output = ShiftedConv(filters, parameter_count(plan.channels, plan.mixtures), (1, 1))
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, images: Images) -> Tensor:
        """Return mixture parameters (B, P, H, W); see `Mixture.split`.

        Raises
        ------
        ValueError
            For images of another shape or outside [0, 1].
        """
        check_images(images, channels=self.plan.channels, size=self.plan.size)
        return self.parameters_of(scaled(levels_of(images), self.output.bias.dtype))

    def parameters_of(self, values: Tensor) -> Tensor:
        """Return mixture parameters (B, P, H, W) of values (B, C, H, W) in [-1, 1], differentiably."""
        seen = torch.cat([values, torch.ones_like(values[:, :1])], 1)  # padding is told from black
        above = shift_down(self.stem_above(seen))
        left = shift_down(self.stem_row(seen)) + shift_right(self.stem_left(seen))
        skips: list[tuple[Tensor, Tensor]] = []
        coarsest = self.plan.resolutions - 1
        above_on, left_on = concat_elu(above), concat_elu(left)
        for level in range(self.plan.resolutions):
            skips.append((above_on, left_on))
            for to_above, to_left in _pairs(self.down_above[level], self.down_left[level]):
                above = to_above(above, above_on)
                above_on = concat_elu(above)
                left = to_left(left, left_on, above_on)
                left_on = concat_elu(left)
                skips.append((above_on, left_on))
            if level < coarsest:
                above, left = self.halve_above[level](above), self.halve_left[level](left)
                above_on, left_on = concat_elu(above), concat_elu(left)
        skips.pop()
        for level in reversed(range(self.plan.resolutions)):
            for to_above, to_left in _pairs(self.up_above[level], self.up_left[level]):
                skip_above, skip_left = skips.pop()
                above = to_above(above, above_on, skip_above)
                above_on = concat_elu(above)
                left = to_left(left, left_on, above_on, skip_left)
                left_on = concat_elu(left)
            if level:
                above, left = self.double_above[level - 1](above), self.double_left[level - 1](left)
                above_on, left_on = concat_elu(above), concat_elu(left)
        assert not skips
        return self.output(left_on[:, : self.plan.filters])  # ELU of the stream

    def log_likelihood(self, images: Images) -> PerImage:
        """Return (B,) the log probability of each image, in nats, after rounding to 256 levels.

        If a gradient to the images is wanted, rounding is the identity in the backward pass.
        """
        check_images(images, channels=self.plan.channels, size=self.plan.size)
        levels = levels_of(images).to(self.output.bias.dtype)
        if torch.is_grad_enabled() and images.requires_grad:
            levels = replace_value(levels, (LEVELS - 1) * images)
        parameters = self.parameters_of(scaled(levels, levels.dtype)).movedim(1, 0)  # (P, B, H, W)
        mixture = Mixture.split(parameters, self.plan.channels)
        levels = levels.movedim(1, 0)  # (C, B, H, W)
        values = scaled(levels, mixture.means.dtype)
        total = sum(
            mixture.log_probabilities(channel, values, levels[channel], 1)[0]  # (B, H, W)
            for channel in range(self.plan.channels)
        )
        assert isinstance(total, Tensor)
        return total.flatten(1).sum(1)

    def logits(self, images: Images) -> Tensor:
        """Return (B, C, 256, H, W) log probabilities of every level, given the image's own earlier pixels."""
        levels = levels_of(images).movedim(1, 0)
        mixture = Mixture.split(self(images).movedim(1, 0), self.plan.channels)
        values, lowest = scaled(levels, mixture.means.dtype), torch.zeros_like(levels[0])
        each = [mixture.log_probabilities(c, values, lowest, LEVELS) for c in range(self.plan.channels)]
        return torch.stack(each).permute(2, 0, 1, 3, 4)  # (C, V, B, H, W) to (B, C, V, H, W)

    def bits_per_dimension(self, images: Images) -> PerImage:
        """Return (B,) bits for each pixel and channel, without dropout, with a gradient to the images alone.

        8 is what a uniform guess needs. The weights' own precision is used, also under autocast.
        """
        with frozen(self), torch.autocast(images.device.type, enabled=False):
            return -self.log_likelihood(images) / (images[0].numel() * math.log(2))

    @torch.no_grad()
    def initialise(self, images: Images) -> None:
        """Choose every gain and bias so that layers start at unit deviation on these images (100 are enough)."""
        layers = [module for module in self.modules() if isinstance(module, (ShiftedConv, ShiftedUpsampling))]
        hooks = [layer.register_forward_hook(_initialise) for layer in layers]
        try:
            with frozen(self), torch.autocast(images.device.type, enabled=False):
                self(images)
        finally:
            for hook in hooks:
                hook.remove()
        self.initialised.fill_(True)


def _pairs(above: nn.Module, left: nn.Module) -> Iterator[tuple[GatedBlock, GatedBlock]]:
    """Yield the blocks of both streams side by side."""
    pairs = zip(above.children(), left.children(), strict=True)
    return cast("Iterator[tuple[GatedBlock, GatedBlock]]", pairs)


def _initialise(layer: nn.Module, inputs: object, outputs: Tensor) -> Tensor:
    del inputs
    assert isinstance(layer, (ShiftedConv, ShiftedUpsampling))
    return layer.initialise(outputs)
