"""Gradients towards images, and substitutes: the value of one function with the gradient of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from memory_defense.contracts import Rows
from memory_defense.foreign import of_the_model, ours, out_of_memory, put_back, shared_modes
from memory_defense.wrappers.models import rows_of

TensorMap = Callable[[Tensor], Tensor]

_Found = TypeVar("_Found")


@dataclass
class Backward:
    """The way back from a model's answers to its images.

    Reentrant checkpoints know ``.backward()`` alone. Where one is met, the pass is made once more and taken back
    that way, and so is every later one; the images are then the only leaf, as `models.frozen` leaves them.
    """

    plain: bool = False
    """The model asks for ``.backward()``."""

    def __call__(
        self, leaf: Tensor, forward: Callable[[], tuple[Tensor, Tensor | None, _Found]]
    ) -> tuple[Tensor | None, _Found]:
        """Return the gradient at `leaf`, None where nothing depends on it, and what else `forward` returned.

        Parameters
        ----------
        leaf
            Requires a gradient.
        forward
            Makes a pass with gradients on; returns what is differentiated, its weights (None for a scalar), and
            anything.

        Raises
        ------
        foreign.ModelError
            For whatever the model raises on the way back; where memory is short, torch's own error is passed on.
        """
        ends, weights, found = forward()
        if not ends.requires_grad:
            return None, found
        modes = shared_modes()
        try:
            if not self.plain:
                try:
                    return torch.autograd.grad(ends, leaf, weights, allow_unused=True)[0], found
                except RuntimeError as error:
                    if "use_reentrant" not in str(error):
                        raise
                self.plain = True
                ends, weights, found = forward()  # the way back has used up the first graph
            leaf.grad = None
            torch.autograd.backward(ends, weights)
            gradient, leaf.grad = leaf.grad, None
        except Exception as error:
            if out_of_memory(error) or ours(error):
                raise
            raise of_the_model(error, len(leaf), "on the way back from") from error
        finally:
            put_back(modes)
        return gradient, found


def gradient_at(leaf: Tensor, ends: Callable[[], Tensor]) -> Tensor | None:
    """Return the gradient of a scalar at `leaf`, computed by `ends` with gradients on; None without any."""
    return Backward()(leaf, lambda: (ends(), None, None))[0]


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
