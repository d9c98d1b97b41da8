"""The choice of bfloat16, channels-last and compiling, by the processor's capabilities, never by a clock."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Literal, cast

import torch
from torch import nn

from memory_defense.contracts import Images
from memory_defense.machine import bfloat16_units

Precision = Literal["auto", "float32", "bfloat16"]
Compile = bool | Literal["auto"]

COMPILE_STEPS = 20_000
"""Steps from which compiling pays on a GPU: translating a network's modes and batch sizes takes minutes."""


def resolve(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return the precision of gradient passes: ``auto`` is bfloat16 only where it is done in hardware.

    On processors without it, emulated bfloat16 is several times slower than float32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        return "bfloat16" if bfloat16_units() else "float32"
    return "float32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which convolutions and products run in `precision`."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def lay_out(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model with its convolution weights laid out the faster way.

    Channels last measured 1.1 to 2 times faster on processors and on accelerators with bfloat16 units.
    """
    if device.type in ("cpu", "cuda"):
        return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportUnknownVariableType]
    return model


def lay_out_images(images: Images) -> Images:
    """Return the images laid out like the weights on a GPU; elsewhere as they are."""
    return images.contiguous(memory_format=torch.channels_last) if images.device.type == "cuda" else images


def compiled(model: nn.Module, choice: Compile, device: torch.device, steps: int) -> nn.Module:
    """Return the model, or its translation by torch.compile with the same weights.

    ``auto`` translates on a GPU that Triton can write for, when at least `COMPILE_STEPS` steps are left.
    """
    if choice == "auto":
        choice = device.type == "cuda" and steps >= COMPILE_STEPS and find_spec("triton") is not None
    return cast("nn.Module", torch.compile(model)) if choice else model


@contextmanager
def untuned() -> Generator[None]:
    """Run a block inside `tuned` in which nothing is chosen by trying, as its batches have many sizes."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def tuned(device: torch.device) -> Generator[None]:
    """Run a block in which a GPU's convolutions are chosen by trying, since all batches have one size.

    Nothing changes if deterministic algorithms are asked for.
    """
    before = torch.backends.cudnn.benchmark
    if device.type == "cuda" and not torch.backends.cudnn.deterministic:
        torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
