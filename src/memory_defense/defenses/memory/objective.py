"""The training objective of section 3.4: Eq. 13, and a cross-entropy for classifier-B.

    L = L_target - beta * sigmoid(L_non-target / (K - 1)) + lambda * cross-entropy(B(x-hat), y)

Reconstructions are compared in normalised space. Only clean images are used. In training, and nowhere else, the
label may choose the slot.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.checks import check_at_least
from memory_defense.contracts import Batch, Images, Labels
from memory_defense.defenses.losses import LossTerms
from memory_defense.defenses.memory.slots import class_mask
from memory_defense.defenses.memory.slotted import SlottedClassifier


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryLosses(LossTerms):
    """The terms of Eq. 13."""

    target_reconstruction: Tensor
    """First term of Eq. 13a: squared error summed over pixels, mean over images."""
    target_entropy: Tensor
    """H(w), mean over images, before its factor alpha."""
    nontarget_reconstruction: Tensor
    """First term of Eq. 13b, from the complement."""
    nontarget_entropy: Tensor
    """H(w-hat), mean over images, before its factor alpha."""
    nontarget_term: Tensor
    """``beta * sigmoid(L_non-target / (K - 1))``, which is subtracted."""
    cross_entropy: Tensor
    """Cross-entropy of classifier-B on reconstructions, before its factor."""


def entropy(weights: Tensor) -> Tensor:
    """Return the entropy of each row, (B, M) to (B,), with ``0 log 0 = 0`` and a gradient of 0 there (A7)."""
    positive = weights > 0
    return -(weights * torch.where(positive, weights, 1).log()).sum(1)


@dataclass(frozen=True, kw_only=True)
class MemoryObjective:
    """Eq. 13 as an objective on a `SlottedClassifier`: trains all of it but the selector.

    Raises
    ------
    ValueError
        For a negative factor or an unknown choice.
    """

    alpha: float = 2e-4
    """Factor of the entropies; not given in the paper, as in Gong et al. 2019 (A7)."""
    beta: float = 1e-4
    """Factor of the non-target term."""
    cross_entropy: float = 1.0
    """lambda; Eq. 13 has no such term, but the text trains autoencoder and classifier jointly (A11)."""
    nontarget_reduction: Literal["sum", "mean"] = "sum"
    """Reduction of the non-target error over pixels. With ``sum``, as in Eq. 13b, the sigmoid is saturated and
    the term has no effect on training."""
    noise_std: float = 1e-4
    """Standard deviation of the noise on training images, in pixel units; the clean image is the target (A40)."""
    slot_source: Literal["label", "selector"] = "label"
    """The slot in training is the label, or the selector's choice."""

    def __post_init__(self) -> None:
        check_at_least(0, alpha=self.alpha, beta=self.beta)
        check_at_least(0, cross_entropy=self.cross_entropy, noise_std=self.noise_std)
        if self.nontarget_reduction not in ("sum", "mean"):
            raise ValueError(f"nontarget_reduction is {self.nontarget_reduction!r}, expected 'sum' or 'mean'")
        if self.slot_source not in ("label", "selector"):
            raise ValueError(f"slot_source is {self.slot_source!r}, expected 'label' or 'selector'")

    def __call__(self, model: SlottedClassifier, batch: Batch) -> MemoryLosses:
        """Return the losses of one batch; noise is drawn in train mode only."""
        seen = batch.images
        if model.training and self.noise_std:
            seen = seen + self.noise_std * batch.draws.normal(*seen.shape[1:]).to(seen)
        return self.losses(model, batch.images, batch.labels, seen)

    def losses(self, model: SlottedClassifier, clean: Images, labels: Labels, seen: Images) -> MemoryLosses:
        """Return the losses when the defense sees `seen` and is to reconstruct `clean`, both (B, C, H, W)."""
        slots = labels if self.slot_source == "label" else model.choose_slots(clean)
        goal = model.normalize(clean)
        codes = model.encoder(model.normalize(seen))
        weights = model.memory.address(codes, class_mask(slots, model.classes))
        target = model.decoder(model.memory.read(weights.target))
        with statistics_kept(model.decoder):
            other = model.decoder(model.memory.read(weights.complement))
        logits = model.classifier_b(target)

        target_error = _squared_error(goal, target).sum(1).mean()
        other_error = _squared_error(goal, other)
        other_error = (other_error.sum(1) if self.nontarget_reduction == "sum" else other_error.mean(1)).mean()
        target_entropy, other_entropy = entropy(weights.target).mean(), entropy(weights.complement).mean()
        loss_target = target_error + self.alpha * target_entropy  # Eq. 13a
        loss_other = other_error + self.alpha * other_entropy  # Eq. 13b
        penalty = self.beta * torch.sigmoid(loss_other / (model.classes - 1))
        cross_entropy = F.cross_entropy(logits.float(), labels)
        return MemoryLosses(
            total=loss_target - penalty + self.cross_entropy * cross_entropy,
            target_reconstruction=target_error,
            target_entropy=target_entropy,
            nontarget_reconstruction=other_error,
            nontarget_entropy=other_entropy,
            nontarget_term=penalty,
            cross_entropy=cross_entropy,
        )


def nontarget_gradient_share(
    model: SlottedClassifier, images: Images, labels: Labels, objective: MemoryObjective | None = None
) -> float:
    """Return how much of the memory's training gradient comes from the non-target term, in [0, 1] when inert.

    The length of the gradient of ``beta * sigmoid(...)`` with respect to the memory items, divided by that of
    the total; 0 where the total has none. The model's mode, gradients and ``requires_grad`` stay as they are.
    """
    objective = objective or MemoryObjective()
    items = model.memory.items
    wanted = items.requires_grad
    try:
        items.requires_grad_(True)
        with torch.enable_grad():
            losses = objective.losses(model, images, labels, images)
            (of_term,) = torch.autograd.grad(losses.nontarget_term, items, retain_graph=True)
            (of_total,) = torch.autograd.grad(losses.total, items)
    finally:
        items.requires_grad_(wanted)
    term, total = (float(gradient.square().sum().sqrt()) for gradient in (of_term, of_total))
    return term / total if total else 0.0


def _squared_error(goal: Tensor, reconstruction: Tensor) -> Tensor:
    """Return (B, C H W) squared differences in float32 or better."""
    return (goal - reconstruction.to(goal.dtype)).square().flatten(1)


@contextmanager
def statistics_kept(module: nn.Module) -> Generator[None]:
    """Run a block in which batch normalisation leaves its running statistics alone.

    The complement is decoded by its own batch's statistics; those remembered for the deployed defense
    describe target reconstructions only, the ones it will see.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
