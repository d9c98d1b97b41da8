"""A defense whose scores and errors are known, an attack on it, and images for both."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from memory_defense.contracts import Adaptation
from memory_defense.data.images import ImageSet


class Shaded(nn.Module):
    """Says 1 where the first pixel is bright; suspicious by the mean of the last column, or by its negative."""

    def __init__(self) -> None:
        super().__init__()
        self.flag_score = "dark"
        self.flag_threshold: float | None = None
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = images[:, 0, 0, 0]
        return torch.stack([0.5 - first, first - 0.5], 1)

    def surrogates(self) -> Mapping[str, nn.Module]:
        return {"end-to-end": self}

    def scores(self, images: torch.Tensor) -> Mapping[str, torch.Tensor]:
        self.seen.append(images.detach().clone())
        column = images[:, 0, :, -1].mean(1)
        return {"bright": column, "dark": 1 - column}

    def suspicious(self, images: torch.Tensor) -> torch.Tensor:
        if self.flag_threshold is None:
            raise ValueError("no threshold")
        return self.scores(images)[self.flag_score] > self.flag_threshold

    def adaptive(self) -> Mapping[str, Adaptation]:
        if self.flag_threshold is None:
            return {}
        return {"quiet": Adaptation(self, fights_flag=True), "loud": Adaptation(self)}


class Flip:
    """Turns the first pixel over; told to be loud it also sets the last column."""

    def __init__(self, column: float | None) -> None:
        self.column = column

    def __call__(self, model, images, labels, ball, draws):
        attacked = images.clone()
        attacked[:, 0, 0, 0] = 1 - attacked[:, 0, 0, 0]
        if self.column is not None:
            attacked[:, 0, :, -1] = self.column
        return attacked

    def for_transfer(self):
        return self


def some(count: int, seed: int = 0, low: float = 0.0, high: float = 0.5) -> ImageSet:
    """Images whose label is that of their first pixel; the last column lies between `low` and `high`."""
    draws = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 4, 4, generator=draws)
    images[:, 0, :, -1] = low + (high - low) * torch.rand(count, 1, generator=draws)
    labels = (images[:, 0, 0, 0] > 0.5).long()
    return ImageSet(images, labels, torch.arange(count))
