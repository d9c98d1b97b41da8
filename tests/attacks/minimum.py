"""The shortest step that fools a two-class affine victim, in closed form up to one bisection."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks import victims
from memory_defense.losses import margin
from memory_defense.wrappers import frozen


def lead(model: torch.nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    """Return (B,) by how much the wrong class leads."""
    with frozen(model), torch.no_grad():
        return margin(model(points), labels)


def least_distance(
    model: victims.Affine, clean: Tensor, labels: Tensor, norm: str, confidence: float = 0
) -> Tensor:
    """Return (B,) the norm of the shortest step inside [0, 1] to a lead of `confidence`; inf if there is none."""
    d = model.weight[1 - labels] - model.weight[labels]  # (B, D)
    along = d.sign() if norm == "linf" else d
    needed = (confidence - lead(model, clean, labels))[:, None]
    flat = clean.flatten(1).double()
    low, high = torch.zeros(len(d), 1).double(), torch.full((len(d), 1), 1e3).double()
    for _ in range(80):
        middle = (low + high) / 2
        gain = (((flat + middle * along).clamp(0, 1) - flat) * d).sum(1, keepdim=True)
        low, high = torch.where(gain < needed, middle, low), torch.where(gain < needed, high, middle)
    offset = (flat + high * along).clamp(0, 1) - flat
    length = offset.abs().amax(1) if norm == "linf" else offset.norm(dim=1)
    return torch.where((offset * d).sum(1) >= needed[:, 0] - 1e-9, length, torch.inf)
