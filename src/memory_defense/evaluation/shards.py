"""Several processes, one evaluation: every rank attacks its own images, decisions are taken on common counts.

Without ``torch.distributed`` there is one rank and nothing is sent. What travels is tensors only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from safetensors.torch import load as load_bytes  # pyright: ignore[reportUnknownVariableType]
from safetensors.torch import save as save_bytes  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from memory_defense.contracts import Rows


@dataclass(frozen=True)
class Shard:
    """The share of one process: every `world`-th one, beginning at `rank`."""

    rank: int = 0
    world: int = 1

    def rows(self, images: int) -> Rows:
        """Return the positions of this rank's images."""
        return torch.arange(self.rank, images, self.world)

    def total(self, *counts: int) -> list[int]:
        """Return the sums of these counts over all ranks; every rank must ask, in the same order."""
        if self.world == 1:
            return list(counts)
        values = torch.tensor(counts, dtype=torch.int64, device=_device())
        dist.all_reduce(values)
        return cast("list[int]", values.tolist())

    def gather(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return what every rank handed in, in the order of ranks, on every rank."""
        if self.world == 1:
            return [dict(tensors)]
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        payload = torch.frombuffer(bytearray(save_bytes(plain)), dtype=torch.uint8).to(_device())
        sizes = [torch.zeros(1, dtype=torch.int64, device=_device()) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(payload)], dtype=torch.int64, device=_device()))
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8, device=_device())
        padded[: len(payload)] = payload
        received = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(received, padded)
        return [
            load_bytes(bytes(one[: int(size)].cpu().numpy())) for one, size in zip(received, sizes, strict=True)
        ]


def current_shard() -> Shard:
    """Return this process's share: that of ``torch.distributed`` where it is running, else everything."""
    if dist.is_available() and dist.is_initialized():
        return Shard(dist.get_rank(), dist.get_world_size())
    return Shard()


def _device() -> torch.device:
    """Return where the backend wants its tensors."""
    return (
        torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    )
