"""Training objectives of classifiers: cross-entropy on clean images, or on adversarial ones.

`Benign` also serves the paper's offline set, which is made beforehand. `Online` is adversarial training with any
`Attack` inside a `Ball` (Madry et al. 2018); `SingleStep` is noise plus one step (N-FGSM, de Jorge et al. 2022);
`WarmStart` is one step from where the previous epoch's step ended (ATTA, Zheng et al. 2020; FGSM-EP, Jia et al.
2022), which follows a many-step attack across epochs at the cost of one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.contracts import Attack, Ball, Batch, Images, Labels, Losses, Rows
from memory_defense.threat import ball
from memory_defense.wrappers import evaluating


@dataclass(frozen=True)
class ClassificationLosses:
    """Cross-entropy of a batch, with its logits and labels."""

    total: Tensor
    logits: Tensor
    labels: Labels

    def parts(self) -> Mapping[str, float]:
        """Return the loss, and the accuracy on the images trained on."""
        accuracy = (self.logits.argmax(1) == self.labels).float().mean()
        return {"loss": self.total.item(), "batch accuracy": accuracy.item()}


def classify(model: nn.Module, images: Images, labels: Labels, smoothing: float = 0.0) -> ClassificationLosses:
    """Return the cross-entropy of a batch, computed in float32 for every precision of the model."""
    logits = model(images).float()
    return ClassificationLosses(F.cross_entropy(logits, labels, label_smoothing=smoothing), logits, labels)


def ascend(model: nn.Module, points: Images, labels: Labels, step: float, norm: Ball) -> Images:
    """Return points moved one step up the cross-entropy, model in eval mode, parameters untouched."""
    leaf = points.detach().requires_grad_()
    with evaluating(model), torch.enable_grad():
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf).float(), labels, reduction="sum"), leaf)
    return points + step * norm.ascent(gradient)


@dataclass(frozen=True, kw_only=True)
class Benign:
    """Cross-entropy on the images as they come."""

    label_smoothing: float = 0.0

    def __call__(self, model: nn.Module, batch: Batch, /) -> ClassificationLosses:
        """Return the loss of one batch."""
        return classify(model, batch.images, batch.labels, self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class AdversarialObjective(ABC):
    """Base of the objectives on adversarial images: the ball, and how its radius grows."""

    norm: str = "linf"
    epsilon: float = 0.1
    """Final radius in pixel units."""
    warm_up: float = 0.25
    """Share of training over which the radius grows from 0."""
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        ball(self.norm, self.epsilon)
        if not 0 <= self.warm_up <= 1:
            raise ValueError(f"warm_up is {self.warm_up}, but a share of training must be in [0, 1]")

    def radius(self, progress: float) -> float:
        """Return the radius when a share `progress` of training is done."""
        return self.epsilon * min(1.0, progress / self.warm_up) if self.warm_up else self.epsilon

    @abstractmethod
    def craft(self, model: nn.Module, batch: Batch) -> Images:
        """Return the images that the loss is taken on; see `weight_perturbation.Crafting`."""

    def losses(self, model: nn.Module, images: Images, batch: Batch) -> Losses:
        """Return the losses of crafted images; see `weight_perturbation.Crafting`."""
        return classify(model, images, batch.labels, self.label_smoothing)

    def __call__(self, model: nn.Module, batch: Batch, /) -> Losses:
        """Return the loss of one batch."""
        return self.losses(model, self.craft(model, batch), batch)


@dataclass(frozen=True, kw_only=True)
class Online(AdversarialObjective):
    """Cross-entropy on adversarial images of the current model (Madry et al. 2018)."""

    attack: Attack
    """Its step size should follow the radius, as it does if `step_size` is left out."""

    def craft(self, model: nn.Module, batch: Batch) -> Images:
        """Return the attack's images (B, C, H, W)."""
        within = ball(self.norm, self.radius(batch.progress))
        return self.attack(model, batch.images, batch.labels, within, batch.draws.child("attack"))


@dataclass(frozen=True, kw_only=True)
class SingleStep(AdversarialObjective):
    """Noise, then one step, not projected back (N-FGSM, de Jorge et al. 2022)."""

    noise: float = 2.0
    """Half-width of the uniform noise, in radii."""
    step: float = 1.0
    """Length of the step, in radii."""

    def craft(self, model: nn.Module, batch: Batch) -> Images:
        """Return these images (B, C, H, W) after noise and a step, in [0, 1] but not in the ball."""
        radius = self.radius(batch.progress)
        noise = (2 * batch.draws.uniform(*batch.images.shape[1:]) - 1).to(batch.images)
        start = batch.images + self.noise * radius * noise
        return ascend(model, start, batch.labels, self.step * radius, ball(self.norm, radius)).clamp_(0, 1)


@dataclass(frozen=True, kw_only=True)
class WarmStart(AdversarialObjective):
    """One step from where this image's perturbation stood an epoch ago (ATTA 2020; FGSM-EP 2022).

    The perturbations are kept as int8 in units of ``epsilon / 127``, in the orientation of the stored
    image, and travel with the checkpoint. Flips are done here, since the perturbation must follow them.
    """

    step: float = 0.5
    """Length of the step, in radii."""
    horizontal_flip: bool = True
    memory: dict[str, Tensor] = field(default_factory=dict[str, Tensor], repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != "linf":
            raise ValueError(f"norm is {self.norm!r}, but perturbations are remembered pixel by pixel: use 'linf'")

    def craft(self, model: nn.Module, batch: Batch) -> Images:
        """Return these images (B, C, H, W), some of them mirrored, one step further than an epoch ago."""
        radius = self.radius(batch.progress)
        within = ball(self.norm, radius)
        flip = batch.draws.child("flip").uniform() < (0.5 if self.horizontal_flip else 0.0)
        images = _flipped(batch.images, flip)
        remembered = self._all(batch.ids, batch.images)[batch.ids].float() * (self.epsilon / 127)
        start = images + _flipped(remembered, flip)
        moved = within.project(
            ascend(model, within.project(start, images), batch.labels, self.step * radius, within), images
        )
        levels = (_flipped(moved - images, flip) * (127 / self.epsilon)).round_().clamp_(-127, 127)
        self.memory["perturbations"][batch.ids] = levels.to(torch.int8)
        return moved

    def _all(self, ids: Rows, like: Tensor) -> Tensor:
        """Return everything remembered, long enough for these images and on their device."""
        known = self.memory.get("perturbations")
        needed = int(ids.max()) + 1
        if known is None or len(known) < needed:
            grown = torch.zeros((needed, *like.shape[1:]), dtype=torch.int8, device=like.device)
            if known is not None:
                grown[: len(known)] = known
            known = grown
        self.memory["perturbations"] = known.to(like.device)
        return self.memory["perturbations"]

    def recall(self, ids: Rows) -> Mapping[str, Tensor]:
        """Return the perturbations of these images, (B, C, H, W) int8; see `team.PerImageState`."""
        return {"perturbations": self.memory["perturbations"][ids]}

    def remember(self, ids: Rows, rows: Mapping[str, Tensor]) -> None:
        """Put what `recall` returned, here or in another process."""
        self._all(ids, rows["perturbations"])[ids] = rows["perturbations"]

    def state(self) -> Mapping[str, Tensor]:
        """Return the remembered perturbations."""
        return self.memory

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self.memory.clear()
        self.memory.update(state)


def _flipped(images: Tensor, which: Tensor) -> Tensor:
    """Mirror the chosen images left to right."""
    return torch.where(which[:, None, None, None], images.flip(3), images)
