"""Networks that never move two images further apart (L2): 1-Lipschitz layers, and an encoder made of them.

Every layer f has ``|f(x) - f(y)| <= |x - y|`` for all inputs, by construction and not by training: the SDP-based
Lipschitz layers (SLL) of Araujo et al. 2023 (ICLR, arXiv:2303.03169), a residual step whose size follows from a
bound of its own weights. Beside them only shifts, zero padding and space-to-depth are used, which keep every
distance. A composition of such layers is 1-Lipschitz again, so a code that is r away from a boundary proves that
every image within r in pixel units is on the same side.

Why SLL: on one core it learned Fashion-MNIST about as well as layers of orthogonal 2x2 blocks (by Cayley's
transform) for each image seen, and saw half as many images again in the same time. It needs no other activation
than the ReLU inside, and its bound is a sum over weights, not an iteration that has to converge.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.checks import check_at_least
from memory_defense.contracts import Images
from memory_defense.networks.layers import check_input, check_side

SAMPLED = 8
"""Of a weight every so many rows are looked at to see whether it has changed."""

SMALLEST_BOUND = 1e-12
"""Added to each bound, so that a filter of zeros divides by something; a larger bound is still one."""


class _Known(NamedTuple):
    """What `SllLayer` remembers, and what tells which parameters it belongs to."""

    key: tuple[object, ...]
    sample: tuple[Tensor, ...]
    back: Tensor


def sll_steps(gram: Tensor, log_q: Tensor) -> Tensor:
    """Return ``2 / t_i``, (N,), with ``t_i = sum_j |A_ij| q_j / q_i`` and ``q = exp(log_q)``.

    ``T = diag(t)`` lies above the symmetric matrix A, ``x'Ax <= x'Tx`` for every x: add up
    ``2 |x_i x_j| <= (q_j / q_i) x_i^2 + (q_i / q_j) x_j^2`` over all pairs with the weights |A_ij|.

    Parameters
    ----------
    gram
        (N, N) absolute values of A, or sums of them where a row stands for a filter at all its places.
    log_q
        (N,) free numbers, learned; they tighten the bound.
    """
    q = log_q.exp()
    return 2 / ((gram * q).sum(1) / q + SMALLEST_BOUND)


class SllLayer(nn.Module, ABC):
    """A residual step ``x - 2 V' T^-1 relu(V x + b)`` with ``T >= V V'`` (Araujo et al. 2023, Theorem 3).

    V is linear, V' its transpose and T diagonal. The Jacobian is ``J = I - 2 V' T^-1 D V`` with D diagonal in
    [0, 1] (the ReLU's slopes), so ``J'J <= I - 4 V' T^-1 (D - D^2) V <= I``: the layer is 1-Lipschitz.

    ``2 V' T^-1`` is computed at each call in training. In eval mode it is computed in float64 and, unless the
    parameters want a gradient, remembered until they change. That is told by their addresses and versions and,
    since some writes leave both as they are (a fused optimiser's, those through ``parameter.data``), by a sample of
    their rows. It is no part of the state.

    Parameters
    ----------
    *shape
        Of V's weights: hidden outputs, inputs, and the sides of a kernel where V is a convolution.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(shape[0]))
        self.log_q = nn.Parameter(torch.zeros(shape[0]))
        nn.init.xavier_normal_(self.weight)
        self._known: _Known | None = None

    @abstractmethod
    def transposed(self, weight: Tensor, log_q: Tensor) -> Tensor:
        """Return the weights of ``2 V' T^-1`` in the type of these parameters."""

    def back(self) -> Tensor:
        """Return `transposed` of the layer's own parameters, in their type."""
        weight, log_q = self.weight, self.log_q
        wanted = torch.is_grad_enabled() and (weight.requires_grad or log_q.requires_grad)
        with torch.autocast(weight.device.type, enabled=False):  # a bound in bfloat16 would be none
            if self.training:
                return self.transposed(weight, log_q)
            if wanted or weight.is_inference():
                return self._exact()
            key = (*_identity(weight), *_identity(log_q))
            sample = (weight.detach()[::SAMPLED], log_q.detach())
            known = self._known
            if known is None or known.key != key or not all(map(torch.equal, known.sample, sample)):
                with torch.inference_mode(False), torch.no_grad():
                    known = self._known = _Known(key, tuple(one.clone() for one in sample), self._exact())
            return known.back

    def _exact(self) -> Tensor:
        """Return `transposed` computed in float64 and rounded once."""
        return self.transposed(self.weight.double(), self.log_q.double()).to(self.weight.dtype).contiguous()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._known = None
        return super()._apply(fn, recurse)  # pyright: ignore[reportUnknownVariableType]

    def train(self, mode: bool = True) -> SllLayer:
        """Switch the mode; forget what was remembered if it is to train."""
        if mode:
            self._known = None
        return super().train(mode)


def _identity(parameter: Tensor) -> tuple[object, ...]:
    return parameter.data_ptr(), parameter._version, parameter.dtype  # pyright: ignore[reportPrivateUsage]


class SllConv2d(SllLayer):
    """An `SllLayer` whose V is a convolution with zero padding: (B, C, H, W) to the same shape.

    V V' is the kernel's overlaps with itself, the same at every place. At the borders some terms of them are
    missing: V sees the image alone, and with E, which surrounds it with zeros, ``V E'E V' <= V V'``.

    Parameters
    ----------
    channels
        C.
    hidden
        Channels of V's output.
    kernel
        Odd side of the kernel.

    Raises
    ------
    ValueError
        For a number below 1, or an even kernel.
    """

    def __init__(self, channels: int, hidden: int, kernel: int = 3) -> None:
        check_at_least(1, channels=channels, hidden=hidden, kernel=kernel)
        if kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}, but one that keeps the size has an odd side; use {kernel + 1}")
        super().__init__(hidden, channels, kernel, kernel)

    def transposed(self, weight: Tensor, log_q: Tensor) -> Tensor:
        """Return the kernel of ``2 V' T^-1``, (C, hidden, k, k)."""
        overlaps = F.conv2d(weight, weight, padding=weight.shape[2] - 1)  # (hidden, hidden, 2k - 1, 2k - 1)
        steps = sll_steps(overlaps.abs().sum((2, 3)), log_q)
        return (weight * steps[:, None, None, None]).transpose(0, 1).flip(2, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        padding = self.weight.shape[2] // 2
        inside = F.relu(F.conv2d(features, self.weight, self.bias, padding=padding))
        return features - F.conv2d(inside, self.back(), padding=padding)


class SllLinear(SllLayer):
    """An `SllLayer` whose V is a matrix: (B, F) to (B, F).

    Parameters
    ----------
    features
        F.
    hidden
        Rows of V.

    Raises
    ------
    ValueError
        For a number below 1.
    """

    def __init__(self, features: int, hidden: int) -> None:
        check_at_least(1, features=features, hidden=hidden)
        super().__init__(hidden, features)

    def transposed(self, weight: Tensor, log_q: Tensor) -> Tensor:
        """Return ``2 V' T^-1``, (F, hidden)."""
        return (weight * sll_steps((weight @ weight.T).abs(), log_q)[:, None]).T

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, F)."""
        return features - F.linear(F.relu(F.linear(features, self.weight, self.bias)), self.back())


class ZeroChannels(nn.Module):
    """Channels of zeros appended until there are `channels`; every distance stays."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, channels, H, W)."""
        return F.pad(features, (0, 0, 0, 0, 0, self.channels - features.shape[1]))


@dataclass(frozen=True, kw_only=True)
class LipschitzPlan:
    """The sizes of a `LipschitzEncoder`.

    Raises
    ------
    ValueError
        For a size out of range, or a width that has no room for what comes in.
    """

    channels: int
    """C of the images."""
    size: int
    """H = W of the images."""
    widths: tuple[int, ...]
    """Channels after each halving of the sides; space-to-depth makes four of one, the rest begin as zeros."""
    depths: tuple[int, ...]
    """Residual convolutions after each halving."""
    dense: tuple[int, ...]
    """Hidden widths of the residual linear layers at the end."""

    def __post_init__(self) -> None:
        check_at_least(1, channels=self.channels, halvings=len(self.widths))
        check_side(self.size, "the 1-Lipschitz encoder", 2 ** len(self.widths))
        if len(self.depths) != len(self.widths):
            raise ValueError(
                f"widths has {len(self.widths)} numbers and depths {len(self.depths)}; give both one for each "
                "halving"
            )
        came = self.channels
        for width in self.widths:
            if width < 4 * came:
                raise ValueError(
                    f"widths is {self.widths}, but halving the sides makes {4 * came} channels of {came}; "
                    f"use at least {4 * came} in place of {width}"
                )
            came = width

    @property
    def side(self) -> int:
        """H = W of the last feature map; sides that do not halve evenly are first filled up with zeros."""
        return -(-self.size // 2 ** len(self.widths))

    @property
    def code_size(self) -> int:
        """D, the length of a code."""
        return self.widths[-1] * self.side**2


class LipschitzEncoder(nn.Module):
    """Images (B, C, H, W) in [0, 1] to codes (B, D); no two codes are further apart than their images.

    The Lipschitz constant in the L2 norm is at most 1 in pixel units: pixels are shifted by constants and not
    scaled.

    Parameters
    ----------
    plan
        See `LipschitzPlan`.
    mean
        What is subtracted from the pixels, one number for each channel; a buffer.

    Raises
    ------
    ValueError
        If the mean is of other channels.
    """

    mean: Tensor

    def __init__(self, plan: LipschitzPlan, mean: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != plan.channels:
            raise ValueError(f"mean has {len(mean)} numbers for {plan.channels} channels; give one for each")
        self.plan = plan
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))  # (C, 1, 1)
        layers: list[nn.Module] = []
        for width, depth in zip(plan.widths, plan.depths, strict=True):
            layers += [nn.PixelUnshuffle(2), ZeroChannels(width)]
            layers += [SllConv2d(width, width) for _ in range(depth)]
        layers.append(nn.Flatten())
        layers += [SllLinear(plan.code_size, hidden) for hidden in plan.dense]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Images) -> Tensor:
        """Return codes (B, D); raise ValueError for images of another shape."""
        check_input(images, "the 1-Lipschitz encoder", self.plan.channels, self.plan.size)
        missing = self.plan.side * 2 ** len(self.plan.widths) - self.plan.size
        return self.layers(F.pad(images - self.mean, (0, missing, 0, missing)))
