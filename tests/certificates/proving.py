"""A classifier whose exact L2 radius is known, and which publishes it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from memory_defense.contracts import Certificates

SHAPE = (1, 5, 5)


class Planes(nn.Module):
    """A linear classifier of K classes; its radius is the distance to the nearest border between two classes."""

    certified_norm = "l2"
    certified_method = "distance to a border"

    def __init__(self, classes: int = 3, seed: int = 0, exaggeration: float = 1.0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, math.prod(SHAPE), generator=draw).double())
        self.exaggeration = exaggeration
        """Above 1 its certificates are unsound."""

    def forward(self, images: Tensor) -> Tensor:
        return ((images.double() - 0.5).flatten(1) @ self.weight.T).float()

    @torch.no_grad()
    def certificates(self, images: Tensor) -> Certificates:
        logits = (images.double() - 0.5).flatten(1) @ self.weight.T
        top = logits.argmax(1)
        leads = logits.gather(1, top[:, None]) - logits
        lengths = (self.weight[top][:, None] - self.weight[None]).norm(dim=2)
        radii = torch.where(lengths > 0, leads / lengths.clamp_min(1e-12), torch.inf).amin(1)
        return Certificates(top, self.exaggeration * (radii - 1e-6).clamp_min(0))

    def slack(self, images: Tensor, radius: float) -> Tensor:
        logits = (images.double() - 0.5).flatten(1) @ self.weight.T
        top = logits.argmax(1)
        lengths = (self.weight[top][:, None] - self.weight[None]).norm(dim=2)
        others = torch.nn.functional.one_hot(top, logits.shape[1]) == 0
        leads = (logits.gather(1, top[:, None]) - logits) / lengths.clamp_min(1e-12)
        return self.exaggeration * (torch.where(others, leads, torch.inf).amin(1) - 1e-6) - radius

    def surrogates(self) -> dict[str, nn.Module]:
        return {"end-to-end": self}


def images_of(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, *SHAPE), generator=torch.Generator().manual_seed(seed)).float() / 255
