"""ComDefend's training objective (Jia et al. 2019, section 3.3), on clean images alone; no classifier takes part.

    s = sigmoid(ComCNN(x) - phi * n),   n ~ N(0, I)
    L = mean (RecCNN(s) - x)^2 + lambda * mean s^2

Strong noise before the sigmoid makes codes near 0 or 1 the only ones that get through, so that the threshold at
test costs little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from memory_defense.contracts import Batch
from memory_defense.defenses.comdefend import ComDefend


@dataclass(frozen=True, kw_only=True, eq=False)
class ComDefendLosses:
    """The terms of the objective, all scalars."""

    total: Tensor
    """What is minimised."""
    reconstruction: Tensor
    """Mean squared error over pixels and images, in pixel units."""
    code_size: Tensor
    """Mean square of the soft code, before its factor lambda."""

    def parts(self) -> Mapping[str, float]:
        """Return every term as a number."""
        return {name: float(value.detach()) for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class ComDefendObjective:
    """The objective for a `ComDefend`: trains its `purifier` only.

    Raises
    ------
    ValueError
        For a negative factor.
    """

    noise_std: float = 20.0
    """phi, the deviation of the noise on the code before the sigmoid, in train mode only."""
    code_weight: float = 1e-4
    """lambda, the factor of the code's mean square."""

    def __post_init__(self) -> None:
        for name in ("noise_std", "code_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be at least 0")

    def __call__(self, model: ComDefend, batch: Batch) -> ComDefendLosses:
        """Return the losses of one batch; where its images were attacked, their clean counterparts are used."""
        patches = model.cut(batch.clean)  # (B, P, C, h, w)
        goal = patches.flatten(0, 1)
        scores = model.purifier.compressor(goal)  # (B P, N, h, w)
        if model.training and self.noise_std:
            noise = batch.draws.normal(patches.shape[1], *scores.shape[1:]).flatten(0, 1)
            scores = scores - self.noise_std * noise.to(scores)
        soft = scores.sigmoid()
        rebuilt = model.purifier.reconstructor(soft)
        error = (rebuilt.float() - goal.float()).square().mean()
        code_size = soft.float().square().mean()
        return ComDefendLosses(
            total=error + self.code_weight * code_size, reconstruction=error, code_size=code_size
        )
