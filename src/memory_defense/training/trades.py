"""TRADES (Zhang et al. 2019, arXiv:1901.08573): accuracy on clean images, and one answer throughout their balls.

cross-entropy(f(x), y) + beta * KL(p(x) || p(x')),   x' = argmax of the same divergence inside the ball
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.checks import nearest
from memory_defense.contracts import Ball, Batch, Images, Labels, Logits
from memory_defense.threat import ball
from memory_defense.training.adversarial import AdversarialObjective
from memory_defense.wrappers import evaluating

_STARTS = ("near", "uniform")
_NEAR = 1e-3
"""Standard deviation of the published start, in pixel units; at the clean image the divergence has no gradient."""


@dataclass(frozen=True)
class TradesLosses:
    """Both terms of TRADES and the accuracy on clean and on adversarial images."""

    total: Tensor
    cross_entropy: Tensor
    divergence: Tensor
    """KL(p(x) || p(x')), the mean over the batch, not yet multiplied by beta."""
    clean: Logits
    adversarial: Logits
    labels: Labels

    def parts(self) -> Mapping[str, float]:
        """Return the terms and the accuracies by name."""
        return {
            "loss": self.total.item(),
            "cross-entropy": self.cross_entropy.item(),
            "divergence": self.divergence.item(),
            "clean batch accuracy": (self.clean.argmax(1) == self.labels).float().mean().item(),
            "batch accuracy": (self.adversarial.argmax(1) == self.labels).float().mean().item(),
        }


@dataclass(frozen=True, kw_only=True)
class Trades(AdversarialObjective):
    """TRADES; adversarial images are made with the model in eval mode.

    Raises
    ------
    ValueError
        For a negative beta, no step, a step that is not positive, or an unknown start.
    """

    beta: float = 6.0
    """Weight of the divergence, at least 0; the published one is 6."""
    steps: int = 10
    """Steps of the inner maximisation."""
    step: float = 0.25
    """Length of a step, in radii; 2/255 of 8/255 as published."""
    start: Literal["near", "uniform"] = "near"
    """Start of the maximisation: as published, normal noise of standard deviation 0.001 around the clean image, or
    a uniform point of the ball, which suits few long steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta >= 0:
            raise ValueError(f"beta is {self.beta}, but the divergence's weight must be at least 0")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, but the inner maximisation needs at least 1")
        if not self.step > 0:
            raise ValueError(f"step is {self.step}, but a step's length in radii must be above 0")
        if self.start not in _STARTS:
            raise nearest(self.start, _STARTS, "start")

    def craft(self, model: nn.Module, batch: Batch) -> Images:
        """Return images (B, C, H, W) inside the ball at which the answer differs most; see `Crafting`."""
        within = ball(self.norm, self.radius(batch.progress))
        if within.epsilon == 0:
            return batch.images
        points = self._begin(within, batch)
        # Gradients for the clean answer too: autocast keeps the weights as first converted.
        with evaluating(model), torch.enable_grad():
            clean = F.log_softmax(model(batch.images).float(), 1).detach()
            for _ in range(self.steps):
                leaf = points.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(_divergence(model(leaf), clean, "sum"), leaf)
                moved = points + self.step * within.epsilon * within.ascent(gradient)
                points = within.project(moved, batch.images)
        return points

    def _begin(self, within: Ball, batch: Batch) -> Images:
        if self.start == "uniform":
            return within.random_point(batch.images, batch.draws.child("start"))
        noise = batch.draws.child("start").normal(*batch.images.shape[1:]).to(batch.images)
        return within.project(batch.images + _NEAR * noise, batch.images)

    def losses(self, model: nn.Module, images: Images, batch: Batch) -> TradesLosses:
        """Return the loss on clean images and what was crafted of them; see `Crafting`."""
        clean, adversarial = model(batch.images).float(), model(images).float()
        cross_entropy = F.cross_entropy(clean, batch.labels, label_smoothing=self.label_smoothing)
        divergence = _divergence(adversarial, F.log_softmax(clean, 1), "batchmean")
        total = cross_entropy + self.beta * divergence
        return TradesLosses(total, cross_entropy, divergence, clean, adversarial, batch.labels)


def _divergence(logits: Logits, clean: Tensor, reduction: str) -> Tensor:
    """Return KL(p || q) in float32, where `clean` (B, K) is log p and `logits` (B, K) are q's."""
    return F.kl_div(F.log_softmax(logits.float(), 1), clean, reduction=reduction, log_target=True)
