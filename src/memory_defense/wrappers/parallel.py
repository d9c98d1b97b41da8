"""Models wrapped for training by several processes, called as they are."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch.nn.parallel import DistributedDataParallel

from memory_defense.wrappers.models import modules_of


@contextmanager
def apart(model: object) -> Generator[None]:
    """Run a block in which every `DistributedDataParallel` is its module alone.

    Wrapped, each call sends buffers to the other processes, which are at images of their own or not there at all,
    and a backward pass waits for the gradients of weights that are frozen here.
    """
    found = [one for one in modules_of(model) if isinstance(one, DistributedDataParallel)]
    wrapped = [one for one in found if "forward" not in vars(one)]  # not those of a block around this one
    try:
        for one in wrapped:
            object.__setattr__(one, "forward", one.module.__call__)
        yield
    finally:
        for one in wrapped:
            object.__delattr__(one, "forward")
