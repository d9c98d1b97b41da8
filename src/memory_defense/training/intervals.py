"""Training for interval bounds: the network is made so that its own bounds can prove something.

    kappa * cross-entropy(f(x), y) + (1 - kappa) * cross-entropy(worst logits in the box around x, y)

With an attack, x in the first term is moved inside the same box first: MTL-IBP (De Palma et al. 2024,
arXiv:2305.13991), where a small weight of the second term keeps an attack of few steps honest, and a network
gains accuracy for what it loses in proof. The worst logits are minus the lower bounds of ``logit[y] - logit[j]``
(Gowal et al. 2018, arXiv:1810.12715), by plain intervals or mixed with CROWN-IBP's (Zhang et al. 2020,
arXiv:1906.06316); the last affine layers are merged with the differences. The radius grows from 0 while kappa
falls. Batch normalisation takes its moments from the images of the first term (Shi et al. 2021,
arXiv:2103.17268). Bounds here are those of arithmetic without rounding, in the precision of training; proofs are
`certificates.intervals`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.certificates.activations import Rectifier
from memory_defense.certificates.affine import Convolution, Dense
from memory_defense.certificates.boxes import Box, image_box
from memory_defense.certificates.intervals import Method, check_method, margins
from memory_defense.certificates.reading import steps_of
from memory_defense.certificates.steps import Branches, Step, follow
from memory_defense.contracts import Batch, Images, Labels, Logits
from memory_defense.threat import ball
from memory_defense.training.adversarial import ascend
from memory_defense.training.synchronised import batch_moments

_TOLERANCE = 0.5
"""Growth of the boxes, and imbalance of the ReLUs, that `regularisation` leaves alone (tau of Shi et al.)."""
_TINY = 1e-12


@dataclass(frozen=True)
class IntervalLosses:
    """Both cross-entropies, the accuracy on clean or attacked images, and the share that is certified."""

    total: Tensor
    clean: Tensor
    """Cross-entropy on the clean images, or on those that the attack made of them."""
    worst: Tensor
    """Cross-entropy of the worst logits."""
    regularisation: Tensor
    """Not yet multiplied by its weight."""
    logits: Logits
    margins: Tensor
    """(B, K) lower bounds of ``logit[y] - logit[j]``."""
    labels: Labels
    attacked: bool = False
    """Whether `clean` and `logits` are those of attacked images."""

    def parts(self) -> Mapping[str, float]:
        """Return the terms, the accuracy and the certified share at the present radius by name."""
        seen = "attacked" if self.attacked else "clean"
        others = F.one_hot(self.labels, self.margins.shape[1]) == 0
        certified = ((self.margins > 0) | ~others).all(1)
        return {
            "loss": self.total.item(),
            f"{seen} loss": self.clean.item(),
            "worst-case loss": self.worst.item(),
            "regularisation": self.regularisation.item(),
            f"{seen} batch accuracy": (self.logits.argmax(1) == self.labels).float().mean().item(),
            "certified batch accuracy": certified.float().mean().item(),
        }


@dataclass(frozen=True, kw_only=True)
class IntervalTraining:
    """Interval bound propagation, or CROWN-IBP; the model is one that `certificates.reading.steps_of` reads.

    Raises
    ------
    ValueError
        For an unknown method, a radius that no ball has, a share outside [0, 1], shares in the wrong order, or a
        negative weight.
    """

    epsilon: float = 0.1
    """Final L-inf radius in pixel units; somewhat above the one to be certified, where that is small."""
    method: Method = "ibp"
    """``crown-ibp`` begins with CROWN-IBP's bounds, which cost K times as much, and ends with plain intervals."""
    start: float = 0.0
    """Share of training before the radius grows from 0."""
    warm_up: float = 0.45
    """Share of training from which on the radius is `epsilon`; it grows in a straight line."""
    clean_weight: float = 0.25
    """Final weight kappa of the clean loss; it falls from 1 as the radius grows."""
    regularisation: float = 0.0
    """Weight of the two terms of Shi et al. 2021 that keep boxes from growing and ReLUs balanced (published: 0.5);
    it falls to 0 as the radius grows."""
    steps: int = 0
    """Steps up the cross-entropy by which the images of the first term are moved, from a random point of the box;
    0 leaves them clean."""
    step: float = 0.75
    """Length of such a step, in radii."""

    def __post_init__(self) -> None:
        ball("linf", self.epsilon)
        check_method(self.method)
        if not 0 <= self.start <= self.warm_up <= 1:
            raise ValueError(
                f"start is {self.start} and warm_up {self.warm_up}, but they are shares of training in this order; "
                "give numbers with 0 <= start <= warm_up <= 1"
            )
        if not 0 <= self.clean_weight <= 1:
            raise ValueError(
                f"clean_weight is {self.clean_weight}, but the clean loss's share of both must be in [0, 1]"
            )
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}, but an attack has at least 0")
        if not self.step > 0:
            raise ValueError(f"step is {self.step}, but a step's length in radii must be above 0")
        if not self.regularisation >= 0:
            raise ValueError(f"regularisation is {self.regularisation}, but its weight must be at least 0")

    def grown(self, progress: float) -> float:
        """Return the share in [0, 1] of its final radius when a share `progress` of training is done."""
        if progress >= self.warm_up:
            return 1.0
        return (progress - self.start) / (self.warm_up - self.start) if progress > self.start else 0.0

    def radius(self, progress: float) -> float:
        """Return the radius when a share `progress` of training is done."""
        return self.epsilon * self.grown(progress)

    def __call__(self, model: nn.Module, batch: Batch, /) -> IntervalLosses:
        """Return the losses of one batch."""
        grown = self.grown(batch.progress)
        kappa = 1 - (1 - self.clean_weight) * grown
        points = self._points(model, batch)
        steps = steps_of(model, batch_moments)
        start = image_box(batch.images, self.radius(batch.progress))
        end, logits = follow(steps, start, point=points)
        assert logits is not None
        found = margins(steps, Box(end.lower.float(), end.upper.float()), batch.labels)
        if self.method == "crown-ibp" and grown < 1:
            tighter = margins(steps, Box(end.lower.float(), end.upper.float()), batch.labels, to_the_image=True)
            found = grown * found + (1 - grown) * tighter
        logits = logits.float()
        clean, worst = F.cross_entropy(logits, batch.labels), F.cross_entropy(-found, batch.labels)
        total = kappa * clean + (1 - kappa) * worst
        extra = total.new_zeros(())
        if self.regularisation and grown < 1:
            extra = imbalance(steps)
            total = total + self.regularisation * (1 - grown) * extra
        return IntervalLosses(total, clean, worst, extra, logits, found, batch.labels, self.steps > 0)

    def _points(self, model: nn.Module, batch: Batch) -> Images:
        """Return the images (B, C, H, W) of the first term."""
        within = ball("linf", self.radius(batch.progress))
        if self.steps == 0 or within.epsilon == 0:
            return batch.images
        points = within.random_point(batch.images, batch.draws.child("start"))
        for _ in range(self.steps):
            moved = ascend(model, points, batch.labels, self.step * within.epsilon, within)
            points = within.project(moved, batch.images).detach()
        return points


def imbalance(steps: Sequence[Step]) -> Tensor:
    """Return how much boxes grow and ReLUs lean to one side, after a pass of boxes: at least 0.

    The mean over ReLUs of two terms of Shi et al. 2021 (section 3.3): ``max(0, tau - r_0 / r) / tau`` for the mean
    radius r of a ReLU's intervals and r_0 of the network's first; and ``max(0, tau - q) / tau`` for the ratios q in
    [0, 1], smaller to larger, of the active and the inactive neurons' mean centres and of their variances.
    """
    first = next((step.entered for step in _all(steps) if isinstance(step, (Convolution, Dense))), None)
    boxes = [step.entered for step in _all(steps) if isinstance(step, Rectifier)]
    if first is None or not boxes:
        return torch.zeros(())
    reference = first.radius.float().mean()
    terms = [_grown(reference, box) + _leaning(box) for box in boxes]
    return torch.stack(terms).mean()


def _all(steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        if isinstance(step, Branches):
            for branch in step.branches:
                yield from _all(branch)
        else:
            yield step


def _grown(reference: Tensor, box: Box) -> Tensor:
    return F.relu(_TOLERANCE - reference / box.radius.float().mean().clamp(min=_TINY)) / _TOLERANCE


def _leaning(box: Box) -> Tensor:
    centre = box.centre.float()
    active, inactive = (box.lower > 0).float(), (box.upper < 0).float()
    spread = (centre - centre.mean()).square()
    pairs = (
        ((centre * active).mean(), -(centre * inactive).mean()),
        ((spread * active).mean(), (spread * inactive).mean()),
    )
    ratios = [torch.minimum(one, other) / torch.maximum(one, other).clamp(min=_TINY) for one, other in pairs]
    return sum((F.relu(_TOLERANCE - ratio) / _TOLERANCE for ratio in ratios), start=centre.new_zeros(()))
