"""Place to compute: device, threads, and several processes that share one evaluation; torch is imported on use."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import torch

LAUNCHED = "WORLD_SIZE"
"""Environment variable that torchrun sets in every process it starts."""

_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Place to compute.

    Raises
    ------
    ValueError
        For a device that is not written as one; `ready` raises it for one that is not there.
    """

    device: str = "cpu"
    threads: int | None = None
    processes: int = 1

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise ValueError(f"unknown device {self.device!r}; use cpu, cuda or cuda:N")

    def ready(self) -> torch.device:
        """Return the device; under torchrun each process gets its own GPU for a plain ``cuda``.

        Raises ValueError when the device is not there.
        """
        import torch

        device = torch.device(self.device)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError("there is no CUDA device here (or torch has no CUDA); use --device cpu")
        if self.device == "cuda" and LAUNCHED in os.environ:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return device

    def launch(self) -> None:
        """Run this command line again in several processes and exit with their status; do nothing if one is enough.

        Each gets its share of the processor's threads, unless their number was given.

        Raises
        ------
        typer.Exit
            If the processes have ended, with their exit status.
        """
        if self.processes == 1 or LAUNCHED in os.environ:
            return
        from memory_defense.cli.processes import run_together

        raise typer.Exit(run_together(self.processes, threads=self.share(self.processes)))

    def share(self, processes: int) -> int:
        """Return how many threads each of several processes may use: the number that was given, or its share."""
        return self.threads or max(1, _cores() // processes)

    def at_once(self) -> int:
        """Return how many processes of that many threads this processor has cores for; one thread by default."""
        return max(1, _cores() // (self.threads or 1))


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def joined(device: torch.device) -> Generator[bool]:
    """Join the processes that torchrun started, if any; yield whether this one prints and writes for all.

    Processors talk through gloo, GPUs through nccl.
    """
    if int(os.environ.get(LAUNCHED, "1")) == 1:
        yield True
        return
    import torch.distributed as dist

    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()
