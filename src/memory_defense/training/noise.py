"""Training for randomized smoothing: images under normal noise, answers that agree under it, attacks through it.

The loss on an image's noisy copies x + d_i, i = 1..m, is

    mean cross-entropy(f(x + d_i), y) + consistency * mean KL(q || p_i) + entropy * H(q),

where p_i is the classifier's distribution at a copy and q their mean: noise alone (Cohen et al. 2019,
arXiv:1902.02918) with both weights 0, consistency regularisation (Jeong & Shin 2020, arXiv:2006.04062) with both
above. With steps, the image is first moved inside an L2 ball to where the copies' mean distribution q gives the
true class the least (SmoothAdv, Salman et al. 2019, arXiv:1906.04584), under the same noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.contracts import Batch, Images, Labels, Logits
from memory_defense.threat import L2
from memory_defense.wrappers import evaluating


@dataclass(frozen=True)
class NoiseLosses:
    """The terms of the loss, and how often the copies are classified correctly."""

    total: Tensor
    cross_entropy: Tensor
    consistency: Tensor
    """Mean of KL(q || p_i), not yet weighted."""
    logits: Logits
    """(m B, K), copy after copy of the whole batch."""
    labels: Labels
    """(B,)"""

    def parts(self) -> Mapping[str, float]:
        """Return the terms and the accuracy by name."""
        copies = len(self.logits) // len(self.labels)
        right = self.logits.argmax(1) == self.labels.repeat(copies)
        return {
            "loss": self.total.item(),
            "cross-entropy": self.cross_entropy.item(),
            "consistency": self.consistency.item(),
            "batch accuracy": right.float().mean().item(),
        }


@dataclass(frozen=True, kw_only=True)
class NoiseTraining:
    """Training on noisy copies; see this file's head.

    Raises
    ------
    ValueError
        For a sigma that is not above 0, fewer copies than 1, or 2 where they are compared, a weight below 0, or
        steps without a radius.
    """

    sigma: float
    """Standard deviation of the noise, in pixel units; that of the certificate."""
    copies: int = 2
    """Noisy copies of each image in a step."""
    consistency: float = 0.0
    entropy: float = 0.0
    epsilon: float = 0.0
    """L2 radius within which images are moved, in pixel units."""
    steps: int = 0
    """Steps of that move, each of two radii divided by their number."""
    warm_up: float = 0.1
    """Share of training over which the radius grows from 0."""
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma is {self.sigma}, but the noise needs a standard deviation above 0")
        if self.copies < 1 + (self.consistency > 0):
            raise ValueError(f"copies is {self.copies}; one is needed, and two where they are to agree")
        if min(self.consistency, self.entropy, self.epsilon, self.steps) < 0:
            raise ValueError("consistency, entropy, epsilon and steps must not be below 0")
        if (self.steps > 0) != (self.epsilon > 0):
            raise ValueError(
                f"steps is {self.steps} and epsilon {self.epsilon}: images are moved by both, or by none"
            )

    def __call__(self, model: nn.Module, batch: Batch, /) -> NoiseLosses:
        """Return the losses of one batch."""
        noise = batch.draws.child("noise").normal(self.copies, *batch.images.shape[1:]).to(batch.images)
        noise = self.sigma * noise.transpose(0, 1)  # (m, B, C, H, W)
        images = self._moved(model, batch, noise) if self.steps else batch.images
        logits = model(_copies(images, noise)).float()
        labels = batch.labels.repeat(self.copies)
        cross_entropy = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        logs = F.log_softmax(logits, 1).view(self.copies, len(batch.labels), -1)
        mean = logs.exp().mean(0)  # q
        log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
        divergence = (mean * (log_mean - logs)).sum(2).mean()
        total = cross_entropy + self.consistency * divergence
        if self.entropy:
            total = total - self.entropy * (mean * log_mean).sum(1).mean()
        return NoiseLosses(total, cross_entropy, divergence, logits, batch.labels)

    def _moved(self, model: nn.Module, batch: Batch, noise: Tensor) -> Images:
        """Return images within the ball and [0, 1] whose copies get the true class least likely on average."""
        within = L2(self.epsilon * (min(1.0, batch.progress / self.warm_up) if self.warm_up else 1.0))
        if within.epsilon == 0:
            return batch.images
        points = batch.images
        with evaluating(model):
            for _ in range(self.steps):
                leaf = points.detach().requires_grad_()
                with torch.enable_grad():
                    logs = F.log_softmax(model(_copies(leaf, noise)).float(), 1).view(self.copies, len(leaf), -1)
                    true = logs.gather(2, batch.labels.expand(self.copies, -1)[..., None])
                    unlikely = -torch.logsumexp(true, 0).sum()
                (gradient,) = torch.autograd.grad(unlikely, leaf)
                points = within.project(
                    points + 2 * within.epsilon / self.steps * within.ascent(gradient), batch.images
                ).detach()
        return points


def _copies(images: Images, noise: Tensor) -> Images:
    """Return (m B, C, H, W): every image under each of its noises (m, B, C, H, W)."""
    return (images + noise).flatten(0, 1)
