"""Layers that look at a whole batch, when several ranks hold a part of it each.

Batch normalisation in train mode uses the mean and variance of the global batch, through a differentiable
all-reduce; dropout draws the mask of the global batch and takes its own rows. So ranks compute what one process
computes on the same batch, up to the order of float32 sums.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from memory_defense.randomness import derive
from memory_defense.ranks import Ranks


@dataclass(frozen=True)
class BatchShare:
    """The rows of the global batch that a rank holds, and the generator that a single process would draw from."""

    ranks: Ranks
    start: int
    stop: int
    batch: int
    generator: torch.Generator


_share: ContextVar[BatchShare | None] = ContextVar("batch share", default=None)


class _Sum(torch.autograd.Function):
    """The sum over ranks; its gradient is the sum of gradients, so it can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        total = tensor.clone()
        ranks.add_(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return cast("Tensor", _Sum.apply(grad_outputs[0].contiguous(), ctx.ranks)), None


def moments(features: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (C,), biased variance (C,) and count () of features (N, C, ...) of all ranks, in float32.

    Ranks' own moments travel and are combined as in Chan, Golub & LeVeque 1983, which does not cancel.
    """
    dims = [dim for dim in range(features.dim()) if dim != 1]
    variance, mean = torch.var_mean(features, dims, correction=0)
    count = mean.new_full((1,), features.numel() // features.shape[1])
    own = torch.cat([mean, variance, count])
    mine = (torch.arange(ranks.world, device=own.device) == ranks.rank)[:, None]
    table = cast("Tensor", _Sum.apply(torch.where(mine, own, 0.0), ranks))  # (world, 2 C + 1)
    means, variances = table[:, :-1].chunk(2, 1)
    counts = table[:, -1:].detach()
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + (means - mean).square())).sum(0) / total
    return mean, variance, total


def batch_moments(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (C,), biased variance (C,) and count () of features (N, C, ...), over all ranks of a batch."""
    share = _share.get()
    if share is not None:
        return moments(features, share.ranks)
    variance, mean = torch.var_mean(features, [dim for dim in range(features.dim()) if dim != 1], correction=0)
    return mean, variance, mean.new_full((), features.numel() // features.shape[1])


class _Normalisation(_BatchNorm):
    """Batch normalisation over all ranks while training; otherwise what it was."""

    def forward(self, input: Tensor) -> Tensor:
        share = _share.get()
        if share is None or not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        features = input.float()
        mean, variance, count = moments(features, share.ranks)
        self._remember(mean.detach(), variance.detach(), count)
        scale = (variance + self.eps).rsqrt()
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        shape = (1, -1, *(1,) * (input.dim() - 2))
        return torch.addcmul(shift.view(shape), features, scale.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), factor)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var), factor)


class _Dropout(nn.Module):
    """Dropout whose mask is this rank's rows of the global batch's."""

    p: float

    def forward(self, input: Tensor) -> Tensor:
        share = _share.get()
        own = 0 if share is None else share.stop - share.start
        if share is None or not self.training or self.p in (0.0, 1.0) or not len(input) or len(input) % own:
            return super().forward(input)
        repeats = len(input) // own  # clean and adversarial images in one pass, say
        shape = input.shape[1:2] + (1,) * (input.dim() - 2) if isinstance(self, nn.Dropout2d) else input.shape[1:]
        last = input.dim() == 4 and not input.is_contiguous() and shape == input.shape[1:]
        layout = torch.channels_last if last else torch.contiguous_format
        mask = torch.empty(
            (repeats * share.batch, *shape), dtype=input.dtype, device=input.device, memory_format=layout
        )
        mask.bernoulli_(1 - self.p, generator=share.generator).div_(1 - self.p)
        starts = [number * share.batch + share.start for number in range(repeats)]
        return input * torch.cat([mask[start : start + own] for start in starts])


@cache
def _joint(kind: type[nn.Module]) -> type[nn.Module] | None:
    """Return the class of a layer of this kind that looks at all ranks; None where it need not."""
    if issubclass(kind, nn.SyncBatchNorm):
        return None
    if issubclass(kind, _BatchNorm):
        if kind.forward is not _BatchNorm.forward:
            raise ValueError(
                f"{kind.__name__} normalises batches in its own way, which several processes cannot share; "
                "build it on the forward of nn.BatchNorm2d, or train in one process"
            )
        return type(f"Ranked{kind.__name__}", (_Normalisation, kind), {"stands_for": kind})
    if kind in (nn.Dropout, nn.Dropout2d):
        return type(f"Ranked{kind.__name__}", (_Dropout, kind), {"stands_for": kind})
    return None


@contextmanager
def synchronised(model: nn.Module, ranks: Ranks) -> Generator[None]:
    """Run a block in which the model's batch normalisation and dropout look at all ranks; they are restored.

    Raises
    ------
    ValueError
        For a batch normalisation with a forward of its own.
    """
    if ranks.world == 1:
        yield
        return
    before = [(module, type(module)) for module in model.modules()]
    joint = [(module, _joint(kind)) for module, kind in before]
    try:
        for module, kind in joint:
            if kind is not None:
                module.__class__ = kind
        yield
    finally:
        for module, kind in before:
            module.__class__ = kind


@contextmanager
def part_of_batch(
    ranks: Ranks, rows: tuple[int, int, int], seed: tuple[int, int], device: torch.device
) -> Generator[None]:
    """Run one training step on rows ``start`` to ``stop`` of a batch; `seed` is the run's, and the step."""
    if ranks.world == 1:
        yield
        return
    start, stop, batch = rows
    generator = torch.Generator(device).manual_seed(derive(seed[0], "step", seed[1]))
    token = _share.set(BatchShare(ranks, start, stop, batch, generator))
    try:
        yield
    finally:
        _share.reset(token)
