"""Optimisers and learning-rate schedules as plain values; the rate is a pure function of progress."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from memory_defense.names import check_name

_OPTIMIZERS = ("adam", "adamw", "sgd")
_FUSED = ("cpu", "cuda")
"""Devices on which one kernel reads and writes each weight once: a ResNet-18's AdamW takes a fifth of the time."""
_FACTOR = "rate_factor"
_SCHEDULES = ("constant", "one-cycle", "cosine", "step")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimiser and the schedule of its learning rate."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = 1e-4
    """Highest learning rate of the schedule. The paper's: Adam, 1e-4 (section 4)."""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam and AdamW only."""
    momentum: float = 0.9
    """SGD only (Nesterov)."""
    schedule: Literal["constant", "one-cycle", "cosine", "step"] = "constant"
    """one-cycle: cosine up over 30 % and down; cosine: down to 0; step: a tenth after each third."""
    clip: float | None = None
    """Largest L2 norm of a step's gradient over all weights; a longer one is scaled down to it. None leaves all."""
    vector_rate: float = 1.0
    """Factor of the learning rate for parameters with one axis, such as biases, which decay as slowly as others."""

    def __post_init__(self) -> None:
        check_name(self.name, _OPTIMIZERS, "optimizer")
        check_name(self.schedule, _SCHEDULES, "schedule")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}, but it must be positive")
        if not (self.vector_rate > 0 and math.isfinite(self.vector_rate)):
            raise ValueError(f"vector_rate is {self.vector_rate}, but a factor must be above 0; 1 changes nothing")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(
                f"clip is {self.clip}, but a gradient's largest norm must be above 0; leave it out to clip nothing"
            )

    def __repr__(self) -> str:
        """Return it without what came later and changes nothing, so that recipes from before keep their hashes."""
        shown = [f"{name}={value!r}" for name, value in self.settings().items()]
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def settings(self) -> dict[str, Any]:
        """Return what decides the weights: the fields by name, without idle ones that came later."""
        idle = {"clip": None, "vector_rate": 1.0}
        return {name: value for name, value in vars(self).items() if name not in idle or value != idle[name]}

    def build(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimiser over these parameters; one kernel updates them all where torch has one."""
        rate, decay = self.learning_rate, self.weight_decay
        fused = True if parameters and all(one.device.type in _FUSED for one in parameters) else None
        groups = self._groups(parameters)
        if self.name == "sgd":
            return torch.optim.SGD(
                groups,
                rate,
                momentum=self.momentum,
                weight_decay=decay,
                nesterov=self.momentum > 0,
                fused=fused,
            )
        kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        return kind(groups, rate, betas=self.betas, weight_decay=decay, eps=1e-8, fused=fused)

    def _groups(self, parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
        """Return the parameters with the factor of their rate; a step's decay is rate times weight decay."""
        vectors = [one for one in parameters if one.dim() == 1] if self.vector_rate != 1 else []
        others = [one for one in parameters if one.dim() != 1] if vectors else list(parameters)
        groups: list[dict[str, Any]] = [{"params": others, _FACTOR: 1.0}]
        if vectors:
            decay = self.weight_decay / self.vector_rate
            groups.append({"params": vectors, _FACTOR: self.vector_rate, "weight_decay": decay})
        return groups

    def limit(self, parameters: Sequence[nn.Parameter]) -> None:
        """Scale the gradients of all parameters down to the norm of `clip` together, where theirs is larger."""
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.clip)

    def rate_at(self, progress: float) -> float:
        """Return the learning rate when a share `progress` in [0, 1) of training is done."""
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "cosine":
            return self.learning_rate * _half_cosine(progress)
        if self.schedule == "step":
            return self.learning_rate * 0.1 ** int(3 * progress)
        if progress < 0.3:
            return self.learning_rate * (1 - (1 - 0.04) * _half_cosine(progress / 0.3))
        return self.learning_rate * _half_cosine((progress - 0.3) / 0.7)

    def schedule_step(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Set the learning rate for the next step."""
        for group in optimizer.param_groups:
            group["lr"] = group[_FACTOR] * self.rate_at(progress)


def _half_cosine(progress: float) -> float:
    """Return 1 at the start and 0 at the end."""
    return 0.5 * (1 + math.cos(math.pi * progress))
