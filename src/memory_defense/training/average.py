"""Weight averaging: the exponential moving average of the trained weights, warmed up."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average:
    """A second copy of a model whose weights follow the first one's slowly.

    Parameters
    ----------
    model
        Followed.
    decay
        Weight of the past at each step, warmed up as ``min(decay, (1 + step) / (10 + step))``; at 0 the
        average is the model itself and costs nothing.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.source, self.decay = model, decay
        self.model = copy.deepcopy(model).requires_grad_(False) if decay else model

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the followed weights; buffers (batch-norm statistics) are copied."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        for mean, value in zip(self.model.parameters(), self.source.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        for mean, value in zip(self.model.buffers(), self.source.buffers(), strict=True):
            mean.copy_(value)
