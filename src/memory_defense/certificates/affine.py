"""The steps that affine layers of torch are read as: products, channels' factors, averages.

Legend: B images, L bounds for each, C channels or features, further axes after them. An affine map moves a box's
centre, and its absolute weights scale the radius (Gowal et al. 2018, arXiv:1810.12715).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.certificates.boxes import TINY, Box, growth
from memory_defense.certificates.steps import Step, doubt, own, weigh

Moments = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""From features (N, C, ...) to mean (C,), biased variance (C,) and count, over all that a batch consists of."""


class Affine(Step):
    """An affine map ``weight x + shift``, whatever kind of product it is.

    Parameters
    ----------
    terms, terms_back
        Products in each sum, and in each sum on the way back.
    """

    straight = True

    def __init__(self, terms: int, terms_back: int) -> None:
        self.terms, self.terms_back = terms, terms_back

    @abstractmethod
    def applied(self, values: Tensor) -> Tensor:
        """Return the map of values (B, ...)."""

    @abstractmethod
    def spread(self, radius: Tensor) -> Tensor:
        """Return the absolute weights times numbers (B, ...) that are at least 0."""

    @abstractmethod
    def transposed(self, lines: Tensor) -> Tensor:
        """Return lines (N, ...) of the input for lines (N, ...) of the output."""

    @abstractmethod
    def shift(self, like: Tensor) -> Tensor | None:
        """Return what is added, broadcastable over outputs (B, ...), in float64 if they are; None if nothing is."""

    def shift_size(self, like: Tensor) -> Tensor | float:
        """Return the sum of the absolute values of what the shift consists of; that of the shift by default."""
        shift = self.shift(like)
        return 0.0 if shift is None else shift.abs()

    def point(self, values: Tensor) -> Tensor:
        """Return what the layer makes of values (B, ...)."""
        return self.applied(values)

    def _box(self, box: Box, unit: float) -> Box:
        middle, radius = self.applied(box.centre), box.radius
        if not unit:
            reach = self.spread(radius)
        else:
            share = growth(self.terms, unit)
            reach = self.spread(radius + share * box.size) + share * (self.shift_size(middle) + TINY)
        return Box(middle - reach, middle + reach)

    def back(self, lines: Tensor, unit: float) -> tuple[Tensor, Tensor]:
        """Return the lines times the weights, and times what is added."""
        made = self.transposed(lines.flatten(0, 1))
        made = made.view(*lines.shape[:2], *made.shape[1:])
        shift = self.shift(lines[0])
        constant = lines.new_zeros(lines.shape[:2])
        if shift is not None:
            constant = weigh(lines, shift.expand(lines.shape[1:]))
        if unit:
            size = self.spread(self.entered.size)
            size = size + self.shift_size(size) + TINY
            share = growth(self.terms, unit) + own(self.terms + self.terms_back + lines[0, 0].numel())
            constant = constant - doubt(lines, share * size)
        return made, constant


class Dense(Affine):
    """`nn.Linear`."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features)
        self.layer = layer

    def applied(self, values: Tensor) -> Tensor:
        """Return what the layer makes of values (B, ..., in)."""
        return F.linear(values, _like(self.layer.weight, values), self.shift(values))

    def spread(self, radius: Tensor) -> Tensor:
        """Return the absolute weights times (B, ..., in)."""
        return F.linear(radius, _like(self.layer.weight, radius).abs())

    def transposed(self, lines: Tensor) -> Tensor:
        """Return lines (N, ..., out) times the transposed weights."""
        with torch.autocast(lines.device.type, enabled=False):  # few products, on which every bound rests
            weight = _like(self.layer.weight, lines)
            return lines.to(weight.dtype) @ weight

    def shift(self, like: Tensor) -> Tensor | None:
        """Return the bias (out,)."""
        bias = cast("Tensor | None", self.layer.bias)
        return None if bias is None else _like(bias, like)


class Convolution(Affine):
    """`nn.Conv2d` with zeros around the image."""

    def __init__(self, layer: nn.Conv2d) -> None:
        window = layer.kernel_size[0] * layer.kernel_size[1]
        super().__init__(window * layer.in_channels // layer.groups, window * layer.out_channels // layer.groups)
        self.layer = layer

    def applied(self, values: Tensor) -> Tensor:
        """Return the convolution of values (B, C, H, W)."""
        bias = self.layer.bias
        return self._convolve(
            values, _like(self.layer.weight, values), None if bias is None else _like(bias, values)
        )

    def spread(self, radius: Tensor) -> Tensor:
        """Return the convolution of (B, C, H, W) with the absolute weights."""
        return self._convolve(radius, _like(self.layer.weight, radius).abs(), None)

    def _convolve(self, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer = self.layer
        return F.conv2d(values, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    def transposed(self, lines: Tensor) -> Tensor:
        """Return the transposed convolution of lines (N, C, H, W)."""
        layer, size = self.layer, self.entered.lower.shape[2:]
        made = F.conv_transpose2d(
            lines, _like(layer.weight, lines), None, layer.stride, 0, 0, layer.groups, layer.dilation
        )
        rows, columns = (self._before(axis) for axis in (0, 1))
        missing = (rows + size[0] - made.shape[2], columns + size[1] - made.shape[3])  # no window reaches them
        made = F.pad(made, (0, max(0, missing[1]), 0, max(0, missing[0])))
        return made[:, :, rows : rows + size[0], columns : columns + size[1]]

    def _before(self, axis: int) -> int:
        """Return how many zeros stand before the first row (axis 0) or column (axis 1)."""
        layer = self.layer
        if isinstance(layer.padding, str):  # torch puts an odd zero of "same" behind
            whole = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
            return whole // 2 if layer.padding == "same" else 0
        return layer.padding[axis]

    def shift(self, like: Tensor) -> Tensor | None:
        """Return the bias (C, 1, 1)."""
        bias = self.layer.bias
        return None if bias is None else _like(bias, like)[:, None, None]


class Channels(Affine):
    """One factor and one shift for each channel: normalisation of images, batch normalisation in eval mode.

    Parameters
    ----------
    scale, shift
        (C,) for the values' second axis.
    size
        (C,) the sum of the absolute values of what the shift consists of; its own by default.
    """

    def __init__(self, scale: Tensor, shift: Tensor, size: Tensor | None = None) -> None:
        super().__init__(1, 1)
        self.scale, self.added, self.added_size = scale, shift, shift.abs() if size is None else size

    def applied(self, values: Tensor) -> Tensor:
        """Return values (B, C, ...) times the factors, plus the shifts."""
        return values * _along(self.scale, values) + self.shift(values)

    def spread(self, radius: Tensor) -> Tensor:
        """Return (B, C, ...) times the absolute factors."""
        return radius * _along(self.scale.abs(), radius)

    def transposed(self, lines: Tensor) -> Tensor:
        """Return lines (N, C, ...) times the factors."""
        return lines * _along(self.scale, lines)

    def shift(self, like: Tensor) -> Tensor:
        """Return the shifts, along the second axis."""
        return _along(self.added, like)

    def shift_size(self, like: Tensor) -> Tensor:
        """Return the sizes of what the shifts consist of."""
        return _along(self.added_size, like)


class BatchNormalisation(Channels):
    """Batch normalisation in train mode: the clean images' moments, for them and for the box (Shi et al. 2021).

    Running moments are updated as the layer itself does. The point has to go in before the box.
    """

    def __init__(self, layer: nn.BatchNorm1d | nn.BatchNorm2d, moments: Moments) -> None:
        nothing = torch.empty(0)
        super().__init__(nothing, nothing)
        self.layer, self.moments = layer, moments

    def point(self, values: Tensor) -> Tensor:
        """Return values (B, C, ...) normalised by their own moments."""
        layer = self.layer
        mean, variance, count = self.moments(values.float())
        self._remember(mean.detach(), variance.detach(), count)
        scale = (variance + layer.eps).rsqrt()
        shift = -mean * scale
        if layer.affine:
            scale, shift = scale * layer.weight, shift * layer.weight + layer.bias
        self.scale, self.added, self.added_size = scale, shift, shift.abs()
        return self.applied(values)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        layer = self.layer
        if layer.running_mean is None or layer.running_var is None or layer.num_batches_tracked is None:
            return
        layer.num_batches_tracked.add_(1)
        factor = layer.momentum
        if factor is None:
            factor = 1 / layer.num_batches_tracked.to(mean)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        layer.running_mean.lerp_(mean.to(layer.running_mean), factor)
        layer.running_var.lerp_(unbiased.to(layer.running_var), factor)


class Average(Step):
    """Average pooling.

    Parameters
    ----------
    terms
        Largest number of pixels that one average is of; None for those of a whole image.
    """

    straight = True

    def __init__(self, layer: nn.AvgPool2d | nn.AdaptiveAvgPool2d, terms: int | None) -> None:
        self.layer, self.terms = layer, terms

    def point(self, values: Tensor) -> Tensor:
        """Return the averages of values (B, C, H, W)."""
        return cast("Tensor", self.layer(values))

    def _growth(self, unit: float) -> float:
        height, width = self.entered.lower.shape[2:]
        return growth(height * width if self.terms is None else self.terms, unit)

    def _box(self, box: Box, unit: float) -> Box:
        if unit:
            box = box.widened(self._growth(unit) * (box.size + TINY))
        return Box(self.point(box.lower), self.point(box.upper))

    def back(self, lines: Tensor, unit: float) -> tuple[Tensor, Tensor]:
        """Return the lines spread over what each average is of."""
        size = self.entered.size
        flat = lines.flatten(0, 1)
        zeros = flat.new_zeros((len(flat), *size.shape[1:]))
        made = cast("Tensor", torch.func.vjp(self.point, zeros)[1](flat)[0])
        constant = lines.new_zeros(lines.shape[:2])
        if unit:
            share = self._growth(unit) + own(lines[0, 0].numel())
            constant = constant - doubt(lines, share * self.point(size + TINY))
        return made.view(*lines.shape[:2], *size.shape[1:]), constant


class Flattening(Step):
    """`nn.Flatten` of all axes but the first."""

    straight = True

    def __init__(self, layer: nn.Flatten) -> None:
        self.layer = layer

    def point(self, values: Tensor) -> Tensor:
        """Return the same numbers in another shape."""
        return self.layer(values)

    def _box(self, box: Box, unit: float) -> Box:
        del unit
        return Box(self.point(box.lower), self.point(box.upper))

    def back(self, lines: Tensor, unit: float) -> tuple[Tensor, Tensor]:
        """Return the lines in the shape of the input."""
        del unit
        made = lines.reshape(*lines.shape[:2], *self.entered.lower.shape[1:])
        return made, lines.new_zeros(lines.shape[:2])


def _like(weight: Tensor, values: Tensor) -> Tensor:
    """Return the weight in float64 where values are; autocast chooses otherwise."""
    return weight.double() if values.dtype == torch.float64 else weight


def _along(numbers: Tensor, values: Tensor) -> Tensor:
    """Return numbers (C,) so that they broadcast along the second axis of values (B, C, ...)."""
    return numbers.to(values.dtype).view(-1, *([1] * (values.dim() - 2)))
