"""Where bfloat16 and channels-last pay: decided by what the processor has, not by a clock."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

Precision = Literal["auto", "float32", "bfloat16"]


def resolve(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return the precision of gradient passes: ``auto`` is bfloat16 only where it is done in hardware.

    On processors without it, emulated bfloat16 is several times slower than float32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return "bfloat16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "float32"
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
