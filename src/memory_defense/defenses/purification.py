"""The base of all purifiers: an image is repaired first, and a given classifier answers for the result.

A purifier that cannot be differentiated is attacked by backward pass differentiable approximation (Athalye,
Carlini & Wagner 2018): its own value forward, the identity backward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

from memory_defense.contracts import Classifier, Images, Logits
from memory_defense.wrappers import StraightThrough, TensorMap


@dataclass(frozen=True, eq=False)
class Purified:
    """A classifier behind one differentiable map of images (B, C, H, W) to images of the same shape."""

    purify: TensorMap
    classifier: Classifier

    def __call__(self, images: Images) -> Logits:
        """Return the classifier's logits (B, K) of the purified images."""
        return self.classifier(self.purify(images))


class Purification(nn.Module, ABC):
    """A classifier that sees purified images only; subclasses define `purify`.

    Parameters
    ----------
    classifier
        Images (B, C, H, W) in [0, 1] to logits (B, K). It is trained already: its parameters are frozen, and it
        stays in eval mode when the defense is put in train mode.
    """

    transfer_knowledge: frozenset[str] = frozenset({"oblivious"})
    """Knowledge whose surrogate's decisions differ from the defense's."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier.eval().requires_grad_(False)

    @abstractmethod
    def purify(self, images: Images) -> Images:
        """Return the repaired images (B, C, H, W) in [0, 1]; each depends on its own image alone."""

    def differentiable_purify(self, images: Images) -> Images:
        """Return exactly `purify`'s value with a gradient: the identity's, unless a subclass has a true one."""
        return StraightThrough(self.purify)(images)

    def forward(self, images: Images) -> Logits:
        """Return the defense's answer, logits (B, K).

        If a gradient to the images is wanted it is that of ``end-to-end``.
        """
        if torch.is_grad_enabled() and images.requires_grad:
            return self.classifier(self.differentiable_purify(images))
        return self.classifier(self.purify(images))

    def surrogates(self) -> Mapping[str, Classifier]:
        """Return the surrogates by the adversary's knowledge.

        ``oblivious`` is the classifier alone: the adversary does not know of the purifier, and its adversarial
        images are transferred. ``end-to-end`` is the white box: the defense's own logits.
        """
        white_box = Purified(self.differentiable_purify, self.classifier)
        return {"oblivious": self.classifier, "end-to-end": white_box}

    def train(self, mode: bool = True) -> Self:
        """Switch every part's mode, except that the classifier stays in eval mode."""
        super().train(mode)
        self.classifier.eval()
        return self
