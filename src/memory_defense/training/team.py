"""The cooperation of the ranks of one training run; with one rank there is none.

A step's batch is cut into contiguous parts whose sizes differ by at most one. Each rank's loss is weighted by its
share of the rows before it is differentiated, and gradients are summed: for a loss that is a mean over images, this
is the gradient of the whole batch's loss. A loss that is not (a sigmoid of a mean, say) becomes the weighted mean
of what it is on the parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from memory_defense.contracts import Losses, Objective, Rows, Stateful
from memory_defense.ranks import Ranks
from memory_defense.training.synchronised import part_of_batch


@runtime_checkable
class PerImageState(Protocol):
    """A `Stateful` objective that remembers something of each image; ranks tell each other what they changed."""

    def recall(self, ids: Rows) -> Mapping[str, Tensor]:
        """Return what is remembered of these images, (B, ...) each."""
        ...

    def remember(self, ids: Rows, rows: Mapping[str, Tensor]) -> None:
        """Put what `recall` returned, here or on another rank."""
        ...


def unshareable(objective: Objective) -> ValueError:
    """Return the error for an objective whose state processes cannot exchange."""
    return ValueError(
        f"{type(objective).__name__} remembers something between steps, but has no recall(ids) and "
        "remember(ids, rows) by which processes could tell each other; train it in one process"
    )


class Team:
    """The ranks of a run, and this one's part of each batch.

    Raises
    ------
    ValueError
        If a batch has fewer images than there are ranks, or the objective remembers something that ranks cannot
        tell each other.
    """

    def __init__(self, ranks: Ranks, batch: int, objective: Objective) -> None:
        if batch < ranks.world:
            raise ValueError(
                f"batch_size is {batch}, but {ranks.world} processes share each batch; "
                f"use at most {batch} processes, or a larger batch_size"
            )
        if ranks.world > 1 and isinstance(objective, Stateful) and not isinstance(objective, PerImageState):
            raise unshareable(objective)
        self.ranks, self.batch, self.objective = ranks, batch, objective
        self.sizes = [len(part) for part in torch.tensor_split(torch.arange(batch), ranks.world)]
        self.start = sum(self.sizes[: ranks.rank])
        self.stop = self.start + self.sizes[ranks.rank]
        self.weight = self.sizes[ranks.rank] / batch

    def own(self, rows: Rows) -> Rows:
        """Return this rank's part of a batch's rows."""
        return rows[self.start : self.stop]

    def own_seed(self) -> tuple[str | int, ...]:
        """Return the seed's suffix that makes this rank's draws from the global generator its own."""
        return () if self.ranks.world == 1 else ("rank", self.ranks.rank)

    def step(self, seed: int, step: int, device: torch.device) -> AbstractContextManager[None]:
        """Return the context of one step; see `synchronised`."""
        return part_of_batch(self.ranks, (self.start, self.stop, self.batch), (seed, step), device)

    def backward(self, losses: Losses, share: float = 1.0) -> None:
        """Differentiate this rank's share of the loss, or `share` of that."""
        weight = share * self.weight
        (losses.total if weight == 1 else losses.total * weight).backward()

    def add_gradients(self, parameters: Sequence[nn.Parameter], stop: bool) -> bool:
        """Sum gradients over ranks in one message; return whether any rank wants to stop.

        A parameter that has a gradient on some ranks only counts as 0 on the others.
        """
        if self.ranks.world == 1:
            return stop
        present = [float(parameter.grad is not None) for parameter in parameters]
        flags = torch.tensor([float(stop), *present], device=parameters[0].device)
        parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        flat = torch.cat([flags, *(part.detach().reshape(-1) for part in parts)])
        self.ranks.add_(flat)
        stops, *anywhere = cast("list[float]", flat[: len(flags)].tolist())
        start = len(flags)
        for parameter, there in zip(parameters, anywhere, strict=True):
            gradient = flat[start : start + parameter.numel()]
            start += parameter.numel()
            if there:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.copy_(gradient.view_as(parameter))
        return stops > 0

    def exchange(self, ids: Rows) -> None:
        """Send the other ranks what the objective now remembers of this part's images."""
        if self.ranks.world == 1 or not isinstance(self.objective, PerImageState):
            return
        recalled = self.objective.recall(ids)
        everyone = torch.cat(self.ranks.stack(ids, self.sizes))
        self.objective.remember(
            everyone, {name: torch.cat(self.ranks.stack(rows, self.sizes)) for name, rows in recalled.items()}
        )

    def first(self, score: float) -> float:
        """Return the first rank's score, so that all choose the same weights."""
        if self.ranks.world == 1:
            return score
        agreed = torch.tensor([score], dtype=torch.float64)
        self.ranks.copy_([agreed])
        return agreed.item()

    def mean(self, parts: Mapping[str, float]) -> dict[str, float]:
        """Return the mean over all ranks of named numbers, weighted by their images."""
        if self.ranks.world == 1:
            return dict(parts)
        values = torch.tensor(list(parts.values()), dtype=torch.float64) * self.weight
        gathered = self.ranks.gather({"values": values})
        total = torch.stack([one["values"] for one in gathered]).sum(0)
        return dict(zip(parts, cast("list[float]", total.tolist()), strict=True))
