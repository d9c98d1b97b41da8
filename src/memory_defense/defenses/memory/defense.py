"""Memory Defense (section 3.1): selector, memory-masking autoencoder and target classifier as one classifier.

``forward`` takes images and nothing else: the selector chooses the slot, never the caller, because a label passed
in would give the answer away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from memory_defense.contracts import Adaptation, Binding, Classifier, Images, Labels, Logits, PerImage
from memory_defense.defenses.flagging import ThresholdFlag, check_threshold
from memory_defense.defenses.memory.evidence import evidence, score
from memory_defense.defenses.memory.objective import nontarget_gradient_share
from memory_defense.defenses.memory.slots import class_mask, removed_share
from memory_defense.defenses.memory.slotted import SlottedClassifier
from memory_defense.defenses.memory.surrogates import (
    TRANSFER_KNOWLEDGE,
    EndToEnd,
    adaptive_set,
    published_surrogates,
)


class MemoryDefense(SlottedClassifier, ThresholdFlag):
    """A `SlottedClassifier` that publishes what to differentiate in order to break it, and that flags images.

    The parameters are those of `SlottedClassifier`.
    """

    transfer_knowledge = TRANSFER_KNOWLEDGE
    """Knowledge whose surrogate's decisions differ from the defense's, so that an attack that stops at the
    surrogate's first error may stop too early."""

    _transfer_source: nn.Module | None

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.transfer_source = None
        self.flag_score: str = "reconstruction"
        self.flag_threshold: float | None = None

    @property
    def transfer_source(self) -> nn.Module | None:
        """An independently trained plain classifier for the knowledge ``undefended``.

        It is no part of the defense, neither of its parameters nor of its state, but moves with it to another
        device.
        """
        return self._transfer_source

    @transfer_source.setter
    def transfer_source(self, network: nn.Module | None) -> None:
        object.__setattr__(self, "_transfer_source", network)

    def forward(self, images: Images) -> Logits:
        """Return the defense's answer, logits (B, K).

        If a gradient to the images is wanted it is that of `EndToEnd`, so that an attack that knows nothing of
        slots is not stopped by the argmax that chooses them.
        """
        if torch.is_grad_enabled() and images.requires_grad:
            return EndToEnd(self)(images)
        return super().forward(images)

    def surrogates(self) -> Mapping[str, Classifier | Binding]:
        """Return the surrogates by the adversary's knowledge; see the module `surrogates`."""
        return published_surrogates(self, self.transfer_source)

    def adaptive(self) -> Mapping[str, Adaptation]:
        """Return the surrogates made for attacking this defense; see the module `surrogates`."""
        return adaptive_set(self, None if self.flag_threshold is None else self.excess)

    def scores(self, images: Images) -> Mapping[str, PerImage]:
        """Return ``reconstruction`` and ``disagreement``, (B,), higher where more suspicious; see `evidence`."""
        return evidence(self, images)

    def watched_score(self, images: Images) -> PerImage:
        """Return (B,) the score that the flag compares with its threshold, alone; see `evidence.score`."""
        return score(self, self.flag_score, images)

    def diagnostics(self, images: Images, labels: Labels) -> Mapping[str, float]:
        """Return the share of weights that hard shrink removes, and the non-target loss's share of the gradient."""
        with torch.no_grad():
            slots = self.choose_slots(images)
            codes = self.encoder(self.normalize(images))
            weights = self.memory.address(codes, class_mask(slots, self.classes))
        return {
            "shrink sparsity": removed_share(weights.target, slots, self.classes),
            "non-target gradient share": nontarget_gradient_share(self, images, labels),
        }

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "transfer_source":  # nn.Module would register the network as a part before asking the property
            object.__setattr__(self, name, value)
        else:
            if name == "flag_threshold":
                check_threshold(value)
            super().__setattr__(name, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if self._transfer_source is not None:
            self._transfer_source._apply(fn)  # pyright: ignore[reportPrivateUsage]
        return super()._apply(fn, recurse)  # pyright: ignore[reportUnknownVariableType]
