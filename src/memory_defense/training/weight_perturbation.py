"""Adversarial weight perturbation (Wu et al. 2020, arXiv:2004.05884): train at the worst weights nearby.

    min over w of  L(w + v),   v_l = gamma * ||w_l|| * g_l / ||g_l||,   g = grad L(w)

for every weight tensor l of at least two dimensions. One step: craft adversarial images with the weights as they
are, differentiate the loss there, and return the loss at the perturbed weights. The perturbation is a constant,
so the gradient of what is returned is that of the perturbed loss, at the original parameters: the module is never
changed, and nothing has to be restored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from memory_defense.contracts import Batch, Images, Losses, Objective, Rows, Stateful
from memory_defense.ranks import current
from memory_defense.training.team import PerImageState, unshareable

_TINY = 1e-12


@runtime_checkable
class Crafting(Protocol):
    """An objective in two parts, so that images are crafted once and the loss there is taken twice."""

    def craft(self, model: nn.Module, batch: Batch) -> Images:
        """Return what the loss is taken on, without a gradient."""
        ...

    def losses(self, model: nn.Module, images: Images, batch: Batch) -> Losses:
        """Return the losses of these images."""
        ...


class _ObjectiveModule(nn.Module):
    """An objective as a module around the model, so that parameters can be replaced for one call."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, images: Images | None, batch: Batch) -> Losses:
        """Return the losses on crafted images, or (None) those of the objective as a whole."""
        if images is None:
            return self.objective(self.model, batch)
        return cast("Crafting", self.objective).losses(self.model, images, batch)


@dataclass(frozen=True, kw_only=True)
class WeightPerturbation:
    """Another objective, at adversarially perturbed weights.

    An objective that is `Crafting` crafts once in a step. Any other is called as a whole, twice with the same
    draws; it must not set ``requires_grad`` of the model's parameters.

    Raises
    ------
    ValueError
        For a negative gamma or a share outside [0, 1].
    """

    objective: Objective
    gamma: float = 5e-3
    """Size of the perturbation relative to each weight tensor, at least 0; published: 0.005 with TRADES, 0.01 with
    adversarial training. At 0 the objective is the inner one."""
    warm_up: float = 0.0
    """Share of training that is done before weights are perturbed."""

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise ValueError(f"gamma is {self.gamma}, but the perturbation's relative size must be at least 0")
        if not 0 <= self.warm_up <= 1:
            raise ValueError(f"warm_up is {self.warm_up}, but a share of training must be in [0, 1]")

    def __call__(self, model: nn.Module, batch: Batch, /) -> Losses:
        """Return the losses of one batch at the perturbed weights; without gradients, at the weights themselves."""
        if self.gamma == 0 or batch.progress < self.warm_up or not torch.is_grad_enabled():
            return self.objective(model, batch)
        images = self.objective.craft(model, batch) if isinstance(self.objective, Crafting) else None
        whole = _ObjectiveModule(model, self.objective)
        whole.training = model.training  # a flag of this wrapper alone: the model keeps its own
        perturbed = perturbations(whole, images, batch, self.gamma)
        return functional_call(whole, perturbed, (images, batch))

    def state(self) -> Mapping[str, Tensor]:
        """Return what the inner objective remembers; see `contracts.Stateful`."""
        return self.objective.state() if isinstance(self.objective, Stateful) else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Give back what `state` returned."""
        if isinstance(self.objective, Stateful):
            self.objective.restore(state)

    def recall(self, ids: Rows) -> Mapping[str, Tensor]:
        """Return what the inner objective remembers of these images; see `team.PerImageState`.

        Raises ValueError if it remembers something that processes cannot exchange.
        """
        if isinstance(self.objective, PerImageState):
            return self.objective.recall(ids)
        if isinstance(self.objective, Stateful):
            raise unshareable(self.objective)
        return {}

    def remember(self, ids: Rows, rows: Mapping[str, Tensor]) -> None:
        """Put what `recall` returned, here or in another process."""
        if isinstance(self.objective, PerImageState):
            self.objective.remember(ids, rows)


def perturbations(whole: nn.Module, images: Images | None, batch: Batch, gamma: float) -> dict[str, Tensor]:
    """Return the perturbed weights by name, each still a function of its parameter.

    Parameters
    ----------
    whole
        Images and batch to losses. Its parameters and buffers are left as they are: the buffers (batch-norm
        statistics) of this pass are copies.
    images, batch
        Arguments of the call. With several processes the gradient is that of their common batch.
    gamma
        Norm of each perturbation relative to its weight's.
    """
    weights = {
        name: parameter
        for name, parameter in whole.named_parameters()
        if parameter.requires_grad and parameter.dim() > 1
    }
    copies = {name: buffer.clone() for name, buffer in whole.named_buffers()}
    losses = cast("Losses", functional_call(whole, copies, (images, batch)))
    gradients = cast(
        "tuple[Tensor | None, ...]",
        torch.autograd.grad(_share(losses, batch), list(weights.values()), allow_unused=True),
    )
    found = {name: gradient for name, gradient in zip(weights, gradients, strict=True) if gradient is not None}
    _add_over_ranks(found)
    return {
        name: weights[name] + gradient * (gamma * _norm(weights[name].detach()) / (_norm(gradient) + _TINY))
        for name, gradient in found.items()
    }


def _norm(tensor: Tensor) -> Tensor:
    return tensor.float().square().sum().sqrt()


def _share(losses: Losses, batch: Batch) -> Tensor:
    """Return this process's part of the loss of all processes' images."""
    ranks = current()
    if ranks.world == 1:
        return losses.total
    (everyone,) = ranks.total(len(batch.images))
    return losses.total * (len(batch.images) / everyone)


def _add_over_ranks(gradients: dict[str, Tensor]) -> None:
    """Replace each gradient by its sum over all processes, in one message."""
    ranks = current()
    if ranks.world == 1 or not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients.values()])
    ranks.add_(flat)
    start = 0
    for name, gradient in list(gradients.items()):
        gradients[name] = flat[start : start + gradient.numel()].view_as(gradient)
        start += gradient.numel()
