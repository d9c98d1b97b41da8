"""The moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average of a model's weights, as a second model.

    Parameters
    ----------
    model
        The model that is trained.
    decay
        Weight of the past at each step, warmed up as ``min(decay, (1 + step) / (10 + step))``; at 0 the
        average is the model itself and costs nothing.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.source, self.decay = model, decay
        self.model = copy.deepcopy(model).requires_grad_(False) if decay else model
        self.means, self.values = (list[Tensor](one.parameters()) for one in (self.model, model))
        self.buffers = tuple(list(one.buffers()) for one in (self.model, model))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the trained weights; buffers (batch-norm statistics) are copied."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        # One call for all of them, where a loop makes three hundred; torch has it under no public name.
        torch._foreach_lerp_(self.means, self.values, 1 - decay)  # pyright: ignore
        for mean, value in zip(*self.buffers, strict=True):
            mean.copy_(value)
