"""The speed of training, for people to read: images per second, and the share of the processor's peak rate.

No result depends on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_SIDES = {"cpu": 768, "cuda": 8192}
_PROBE_SECONDS = 0.2
_WINDOW_SECONDS = 2.0


class CountFlop(TorchDispatchMode):
    """Count the floating-point operations of products and convolutions, forward and backward, in a block.

    A multiplication and an addition are two. Kernels run as they would without it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation and count it where the registry of torch knows how."""
        del types
        named = dict(kwargs or {})
        result = func(*args, **named)
        formula = flop_registry.get(getattr(func, "_overloadpacket", None))
        if formula is not None:
            self.total += int(formula(*args, **named, out_val=result))
        return result


@cache
def matrix_rate(device: torch.device, precision: str) -> float:
    """Return the FLOP/s of a large matrix product on this device, the best of a fraction of a second; above 0.

    Parameters
    ----------
    device
        Its threads or clock as they are now; asked once in a process.
    precision
        ``float32`` or ``bfloat16``.
    """
    side = _SIDES.get(device.type, 2048)
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    matrix = (torch.arange(side * side, device=device) % 251).view(side, side).to(kind) / 251
    best, deadline = float("inf"), time.perf_counter() + _PROBE_SECONDS
    torch.mm(matrix, matrix)  # the first product pays for what the others find ready
    while True:
        wait_for(device)
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        wait_for(device)
        best = min(best, time.perf_counter() - started)
        if time.perf_counter() > deadline:
            return 2 * side**3 / max(best, 1e-9)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; a processor has when a call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Speed:
    """The rate of a run: counts the FLOP of its first step, then reads the clock every other second.

    Parameters
    ----------
    device, precision
        Device and precision of the computation.
    batch
        Images in a step, over all processes.
    processes
        Each on a processor of its own, which does its share.
    clock
        Seconds from anywhere.
    """

    def __init__(
        self,
        device: torch.device,
        precision: str,
        batch: int,
        processes: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.batch, self.processes, self.clock = batch, processes, clock
        self.rate = matrix_rate(device, precision)
        self.flop = CountFlop()
        self.counted = False
        self._steps, self._started, self._said = 0, clock(), ""

    def first(self) -> AbstractContextManager[object]:
        """Return the context of a step: the first one is counted."""
        return nullcontext() if self.counted else self.flop

    def step(self) -> str:
        """Count a step done and return what to say of the last seconds; nothing at first."""
        if not self.counted:  # it also paid for what the others find ready
            self.counted, self._started = True, self.clock()
            return ""
        self._steps += 1
        seconds = self.clock() - self._started
        if seconds >= _WINDOW_SECONDS:
            self._said = self._rate(self._steps / seconds)
            self._steps, self._started = 0, self.clock()
        return self._said

    def _rate(self, steps: float) -> str:
        """Return the text for so many steps in a second; the first step's FLOP are this process's."""
        share = steps * self.flop.total / self.rate
        each = " each" if self.processes > 1 else ""
        return (
            f"{steps * self.batch:,.0f} images/s, {share:.0%} of the measured {self.rate / 1e12:.3g} TFLOP/s{each}"
        )
