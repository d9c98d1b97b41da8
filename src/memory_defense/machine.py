"""What computes here: the name of a device and of its processor, for records and for what rounding depends on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def processor() -> str:
    """Return the processor's model name where the system says it, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def bfloat16_units() -> str:
    """Return the instructions that this processor multiplies bfloat16 numbers with: AMX, AVX-512, or none (empty).

    PyTorch says it from 2.7 on.
    """
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities.get("amx_bf16"):
        return "AMX"
    return "AVX-512" if capabilities.get("avx512_bf16") else ""


def device_name(device: torch.device) -> str:
    """Return the device as records name it, such as ``cpu, 2 threads, AMD EPYC (bfloat16 by AVX-512)``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    units = bfloat16_units()
    name = f"{processor()} (bfloat16 by {units})" if units else processor()
    return f"{device.type}, {torch.get_num_threads()} threads, {name}"
