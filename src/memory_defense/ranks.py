"""Several processes at one piece of work: which one this is, its share, and what they tell each other.

Without ``torch.distributed`` there is one rank and nothing is sent. What travels is tensors and JSON, never a
pickle. Every rank must ask for the same things in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from safetensors.torch import load as load_bytes  # pyright: ignore[reportUnknownVariableType]
from safetensors.torch import save as save_bytes  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from memory_defense.contracts import Rows


@dataclass(frozen=True)
class Ranks:
    """Rank of this process, and the number of processes."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def rows(self, images: int) -> Rows:
        """Return the positions of this rank's images: every `world`-th one, beginning at `rank`."""
        return torch.arange(self.rank, images, self.world)

    def add_(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks; on the GPU where the backend is nccl."""
        if self.world > 1:
            dist.all_reduce(tensor)

    def total(self, *counts: int) -> list[int]:
        """Return the sums of these counts over all ranks."""
        if self.world == 1:
            return list(counts)
        values = torch.tensor(counts, dtype=torch.int64, device=_device())
        dist.all_reduce(values)
        return cast("list[int]", values.tolist())

    def gather(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return what every rank handed in, in the order of ranks, on every rank."""
        if self.world == 1:
            return [dict(tensors)]
        payload = _bytes(tensors).to(_device())
        sizes = [torch.zeros(1, dtype=torch.int64, device=_device()) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(payload)], dtype=torch.int64, device=_device()))
        received = self.stack(payload, [int(size) for size in sizes])
        return [load_bytes(bytes(one.cpu().numpy())) for one in received]

    def agree(self, fault: str) -> None:
        """Raise ValueError, on every rank, with the first fault that any rank has; "" is none.

        So no rank goes on to wait for one that has refused.
        """
        said = torch.frombuffer(bytearray(json.dumps(fault).encode()), dtype=torch.uint8)
        for one in self.gather({"said": said}):
            first = json.loads(bytes(one["said"].cpu().numpy()))
            if first:
                raise ValueError(first)

    def stack(self, tensor: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Return every rank's tensor (n, ...) on every rank, where `sizes` holds each rank's n."""
        if self.world == 1:
            return [tensor]
        padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        received = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(received, padded)
        return [one[:size] for one, size in zip(received, sizes, strict=True)]

    def copy_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite these tensors by the first rank's."""
        if self.world > 1:
            for tensor in tensors:
                sent = tensor.detach().to(_device(), copy=True).contiguous()
                dist.broadcast(sent, 0)
                with torch.no_grad():
                    tensor.copy_(sent)

    def lead(self, make: Callable[[], tuple[dict[str, Tensor], Any]]) -> tuple[dict[str, Tensor], Any]:
        """Run `make` on the first rank alone; return its tensors and its JSON value on every rank.

        Raises ValueError on every rank where `make` did on the first.
        """
        if self.world == 1:
            return make()
        tensors: dict[str, Tensor] = {}
        said: dict[str, Any] = {}
        if self.leads:
            try:
                tensors, value = make()
                said = {"value": value}
            except ValueError as error:
                said = {"error": str(error)}
        text = self._send(torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8))
        said = json.loads(bytes(text.numpy()))
        if "error" in said:
            raise ValueError(said["error"])
        return load_bytes(bytes(self._send(_bytes(tensors)).numpy())), said["value"]

    def _send(self, payload: Tensor) -> Tensor:
        """Return the first rank's bytes (N,) uint8 on every rank."""
        size = torch.tensor([len(payload)], dtype=torch.int64, device=_device())
        dist.broadcast(size, 0)
        sent = payload.to(_device()) if self.leads else torch.empty(int(size), dtype=torch.uint8, device=_device())
        dist.broadcast(sent, 0)
        return sent.cpu()


def current() -> Ranks:
    """Return this process's place: that of ``torch.distributed`` where it is running, else the only one."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


def _bytes(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return tensors as bytes (N,) uint8 on the CPU."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return torch.frombuffer(bytearray(save_bytes(plain)), dtype=torch.uint8)


def _device() -> torch.device:
    """Return where the backend wants its tensors."""
    return (
        torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    )
