"""A flag by consistency: an image is accepted if a short attack around it does not change the answer.

    T(x) = the point of a few PGD steps from x, inside a small ball, away from the answer y^(x)
    accepted  <=>  y^(T(x)) = y^(x) at every step

Chen et al. (2023, arXiv:2305.01139) reject by consistent predictions. With half of an adversary's radius it is the
empirical form of the gate (`defenses.gated`): what is proven there is looked for here, cheaply and without a proof,
and so it may be fought. Any classifier can be wrapped; its answers stay as they are. The inner attack starts at the
image itself and draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from memory_defense.checks import check_at_least
from memory_defense.contracts import (
    Adaptation,
    Adaptive,
    Binding,
    Classifier,
    Defense,
    Images,
    Labels,
    PerImage,
    transfers_of,
)
from memory_defense.defenses.flag_adversaries import ConfidentBinder, Look
from memory_defense.defenses.flagging import FlaggingModule
from memory_defense.losses import margin
from memory_defense.names import check_name
from memory_defense.passes import regular
from memory_defense.threat import ball
from memory_defense.wrappers import frozen, gradient_at, replace_value

CONSISTENCY = "consistency"
"""The score: the largest lead of another class over the answer, in logits, that the inner attack found."""


@dataclass(frozen=True, kw_only=True)
class InnerAttack:
    """Steps up the margin of any other class over the answer; deterministic.

    Raises
    ------
    ValueError
        For a radius that no ball of the norm has or of 0, or numbers out of range.
    """

    radius: float
    """In pixel units; half of an adversary's is what two accepted images need to agree half way."""
    norm: str = "linf"
    steps: int = 10
    step: float = 0.25
    """Length of a step, in radii."""

    def __post_init__(self) -> None:
        if ball(self.norm, self.radius).epsilon == 0:
            raise ValueError("radius is 0, but nothing can be looked for there; give half of an adversary's")
        check_at_least(1, steps=self.steps)
        if not self.step > 0:
            raise ValueError(f"step is {self.step}, but a step has a length above 0; give 0.25, say")

    def worst(self, classifier: Classifier, images: Images) -> tuple[Images, PerImage, Labels]:
        """Return what was found around images (B, C, H, W), without a gradient.

        Returns
        -------
        The point (B, C, H, W) at which another class came closest to the answer, or passed it most; (B,) its lead
        there, in logits; and the answers (B,) to the images themselves, which are no such point.
        """
        within, model = ball(self.norm, self.radius), regular(classifier)
        with torch.inference_mode(False), torch.no_grad(), frozen(classifier):
            centre = images.detach().clone()
            answers = model(centre).argmax(1)
            best, lead, here = centre, centre.new_full((len(centre),), -torch.inf), centre
            for step in range(self.steps + 1):
                leads, uphill = self._looked(model, here, answers, last=step == self.steps)
                if step > 0:
                    better = leads > lead
                    best, lead = torch.where(better.view(-1, 1, 1, 1), here, best), torch.where(better, leads, lead)
                if step < self.steps:
                    length = self.step * self.radius
                    here = within.project(here + length * within.ascent(uphill), centre)
            return best, lead, answers

    @staticmethod
    def _looked(model: Classifier, points: Images, answers: Labels, *, last: bool) -> tuple[PerImage, Images]:
        """Return the leads (B,) at these points, and their gradient unless this is the last look."""
        if last:
            return margin(model(points), answers).float(), points
        leads: list[PerImage] = []

        def total() -> torch.Tensor:
            found = margin(model(leaf), answers).float()
            leads.append(found.detach())
            return found.sum()

        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            gradient = gradient_at(leaf, total)
        return leads[-1], torch.zeros_like(points) if gradient is None else gradient.nan_to_num()


class Consistent(FlaggingModule):
    """A classifier, and the flag that an inner attack around the image raises.

    Parameters
    ----------
    classifier
        Images (B, C, H, W) in [0, 1] to logits (B, K), with a gradient.
    inner
        What is tried around an image. The threshold of the score is 0: the answer changed.
    """

    flag_score = CONSISTENCY

    def __init__(self, classifier: nn.Module, inner: InnerAttack) -> None:
        super().__init__()
        self.classifier, self.inner = classifier, inner
        self.transfer_knowledge = transfers_of(classifier)
        self.flag_threshold = 0.0
        # Among the weights, so that what was stopped with one inner attack does not go on with another.
        settings = [inner.radius, inner.steps, inner.step, float(inner.norm == "linf")]
        self.register_buffer("inner_settings", torch.tensor(settings, dtype=torch.float64))

    def forward(self, images: Images) -> torch.Tensor:
        """Return the classifier's logits (B, K)."""
        return self.classifier(images)

    def surrogates(self) -> Mapping[str, Classifier | Binding]:
        """Return the classifier's own, or itself."""
        if isinstance(self.classifier, Defense):
            return self.classifier.surrogates()
        return {"end-to-end": self.classifier}

    def scores(self, images: Images) -> Mapping[str, PerImage]:
        """Return ``consistency``, (B,) in logits: above 0 the inner attack changed the answer.

        Its gradient is that of the lead at the point which the inner attack found, as if the point moved with the
        image.
        """
        worst, lead, answers = self.inner.worst(self.classifier, images)
        if torch.is_grad_enabled() and images.requires_grad:
            lead = margin(self.classifier(replace_value(worst, images)), answers).float()
        return {CONSISTENCY: lead}

    def excess(self, images: Images) -> PerImage:
        """Return (B,) by how many logits the score exceeds its threshold: 0 is no unit to measure by."""
        if self.flag_threshold is None:
            return super().excess(images)
        return self.watched_score(images) - self.flag_threshold

    def adaptive(self) -> Mapping[str, Adaptation]:
        """Return the classifier's own, and four that fight the flag.

        ``silent`` and ``crossing`` lower the lead at the inner attack's point. ``confident`` raises the confidence
        of one wrong class after the other at the image alone, ``consistent`` there and at that point together.
        """
        found: dict[str, Adaptation] = {}
        if isinstance(self.classifier, Adaptive):
            found |= self.classifier.adaptive()
        found |= super().adaptive()
        if self.flag_threshold is not None:
            for name, look in {"confident": self.look, "consistent": self.look_around}.items():
                found[name] = Adaptation(ConfidentBinder(look), towards_each_class=True, fights_flag=True)
        return found

    def look(self, images: Images) -> Look:
        """Return the logits, the excess without a gradient, and the log-probabilities of the image."""
        return self._look(images, around=False)

    def look_around(self, images: Images) -> Look:
        """Return the same, with the mean log-probabilities of the image and of the inner attack's point."""
        return self._look(images, around=True)

    def _look(self, images: Images, *, around: bool) -> Look:
        worst, lead, _ = self.inner.worst(self.classifier, images)
        logits = self.classifier(images)
        confidence = logits.log_softmax(1)
        if around:
            there = self.classifier(replace_value(worst, images)).log_softmax(1)
            confidence = (confidence + there) / 2
        return Look(logits, lead - cast("float", self.flag_threshold), confidence)


PRESETS: dict[str, InnerAttack] = {
    "fashion-mnist": InnerAttack(radius=0.05),
    "cifar-10": InnerAttack(radius=4 / 255),
    "tiny": InnerAttack(radius=0.05, steps=2, step=0.5),
}
"""Half of the radius of the tables, by dataset; ``tiny`` is for tests."""


def build_consistent(*, classifier: nn.Module, preset: str = "fashion-mnist") -> Consistent:
    """Return a classifier with the inner attack of a preset around it.

    Parameters
    ----------
    classifier
        See `Consistent`.
    preset
        Name in `PRESETS`.

    Raises
    ------
    ValueError
        For an unknown preset.
    """
    check_name(preset, PRESETS, "preset of consistency")
    return Consistent(classifier, PRESETS[preset])
