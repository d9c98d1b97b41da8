"""Linear layers that round as other processors do, so that one machine stands for many.

``MEMDEF_TEST_ROUNDING=small-batches|positions|blocks`` gives every linear layer of a test run one of these; tests
of the measurement use them one by one. In float32 they compute in float64 and round once, so that where they agree
does not depend on the processor that runs them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

VARIABLE = "MEMDEF_TEST_ROUNDING"

Cut = Callable[[int, int, torch.device], Tensor]
"""Rows and summands to (rows,): where each row's sum is cut in two; 0 leaves it whole."""


def _exact(rows: int, summands: int, device: torch.device) -> Tensor:
    return torch.zeros(rows, dtype=torch.int64, device=device)


def _small_batches(rows: int, summands: int, device: torch.device) -> Tensor:
    """Below 16 rows sums are cut, as matrix units do that have another kernel for a few rows."""
    return torch.full((rows,), summands // 2 if rows < 16 else 0, device=device)


def _positions(rows: int, summands: int, device: torch.device) -> Tensor:
    """Every third row is summed in another order."""
    return torch.where(torch.arange(rows, device=device) % 3 == 0, summands // 2, 0)


def _blocks(rows: int, summands: int, device: torch.device) -> Tensor:
    """Only multiples of 64 agree with each other; every other number of rows cuts elsewhere."""
    return torch.full((rows,), 0 if rows % 64 == 0 else 1 + rows % max(summands - 1, 1), device=device)


CUTS: dict[str, Cut] = {
    "exact": _exact,
    "small-batches": _small_batches,
    "positions": _positions,
    "blocks": _blocks,
}


class _Product(torch.autograd.Function):
    """``left @ right.T`` for (..., K) and (N, K), rounded by the rows of `left`; so is what comes back to it."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, cut: Cut) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.cut = cut
        return _rounded(left, right, cut)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        left, right = ctx.saved_tensors
        to_left = _Product.apply(gradient, right.T, ctx.cut) if ctx.needs_input_grad[0] else None
        to_right = None
        if ctx.needs_input_grad[1]:
            to_right = gradient.flatten(0, -2).T @ left.flatten(0, -2)
        return to_left, to_right, None


def _rounded(left: Tensor, right: Tensor, cut: Cut) -> Tensor:
    rows, summands = left.flatten(0, -2), left.shape[-1]
    where = cut(len(rows), summands, rows.device)
    wide, across = rows.double(), right.double().T
    whole = (wide @ across).to(left.dtype)
    if bool((where > 0).any()):
        upto = (torch.arange(summands, device=rows.device) < where[:, None]).to(wide.dtype)
        halves = ((wide * upto) @ across).to(left.dtype) + ((wide * (1 - upto)) @ across).to(left.dtype)
        whole = torch.where(where[:, None] > 0, halves, whole)
    return whole.reshape(*left.shape[:-1], right.shape[0])


def linear(name: str, images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what `torch.nn.functional.linear` does, rounded as this one of `CUTS` rounds."""
    alone = images.dim() == 1
    product = _Product.apply(images[None] if alone else images, weight, CUTS[name])
    product = product[0] if alone else product
    return product if bias is None else product + bias


class Linear(torch.nn.Linear):
    """A linear layer that rounds as one of `CUTS` does."""

    def __init__(self, name: str, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.name = name

    def forward(self, images: Tensor) -> Tensor:
        return linear(self.name, images, self.weight, self.bias)


_original = F.linear


def _instead(name: str, images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Round by `name` what is plain floating-point arithmetic; leave tracing, autocast and half precision alone."""
    plain = images.dtype in (torch.float32, torch.float64) and images.dtype == weight.dtype
    busy = torch.is_autocast_enabled(images.device.type) or torch.compiler.is_compiling() or torch.jit.is_tracing()
    if not plain or busy or torch.onnx.is_in_onnx_export():
        return _original(images, weight, bias)
    return linear(name, images, weight, bias)


@contextmanager
def installed(name: str) -> Generator[None]:
    """Run a block in which every linear layer rounds like this."""
    before = F.linear
    F.linear = partial(_instead, name)
    try:
        yield
    finally:
        F.linear = before


def install_from_environment() -> None:
    """Make every linear layer of this process round as the environment says, if it says so."""
    name = os.environ.get(VARIABLE)
    if name:
        assert name in CUTS, f"{VARIABLE} is {name!r}, expected one of {', '.join(CUTS)}"
        F.linear = partial(_instead, name)
