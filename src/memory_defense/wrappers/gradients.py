"""Substitute gradients: the value of one function with the gradient of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from memory_defense.contracts import Rows
from memory_defense.wrappers.models import rows_of

TensorMap = Callable[[Tensor], Tensor]


class _Replace(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, carrier: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        del ctx, carrier
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        del ctx
        return None, gradient


def replace_value(value: Tensor, carrier: Tensor) -> Tensor:
    """Return exactly `value`; the gradient that arrives is handed to `carrier`, of the same shape.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if value.shape != carrier.shape:
        raise ValueError(
            f"the forward value has shape {tuple(value.shape)} and its differentiable stand-in "
            f"{tuple(carrier.shape)}; they must agree"
        )
    return cast("Tensor", _Replace.apply(value.detach(), carrier))


@dataclass(frozen=True)
class Bpda:
    """Backward pass differentiable approximation (Athalye, Carlini & Wagner 2018).

    The value is `forward`'s, bit for bit; the gradient is `backward`'s at the same input. Without a gradient
    to compute, `backward` is not run.

    Parameters
    ----------
    forward
        What the defense really computes: a classifier, or one stage of it.
    backward
        A differentiable stand-in with the same output shape.
    """

    forward: TensorMap
    backward: TensorMap

    def __call__(self, images: Tensor) -> Tensor:
        """Return the value of `forward` carrying the gradient of `backward`."""
        if not (torch.is_grad_enabled() and images.requires_grad):
            return self.forward(images)
        with torch.no_grad():
            value = self.forward(images)
        return replace_value(value, self.backward(images))

    def rows(self, index: Rows) -> Bpda:
        """Return the same pair for these rows."""
        return Bpda(rows_of(self.forward, index), rows_of(self.backward, index))


def _same(images: Tensor) -> Tensor:
    return images.view_as(images)


def StraightThrough(forward: TensorMap) -> Bpda:  # noqa: N802 - reads as the wrapper it makes
    """Return `Bpda` with the identity on the way back (Bengio et al. 2013), for maps of images to images."""
    return Bpda(forward, _same)
