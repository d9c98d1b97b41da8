"""The gate: a flag that accepts an image only if its answer is proven to hold within half of epsilon.

Two accepted images within epsilon of each other have the same answer, that of the point half way between them; so
no adversary inside epsilon gets from a right and accepted image to a wrong and accepted one. Tramèr 2022
(arXiv:2107.11630) has the reduction; docs/certificates.md the proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

import torch
from torch import nn

from memory_defense.contracts import (
    Adaptation,
    Adaptive,
    Binding,
    Certificates,
    Certifying,
    Classifier,
    Defense,
    Images,
    Logits,
    PerImage,
    transfers_of,
)
from memory_defense.defenses.flagging import FlaggingModule
from memory_defense.threat import ball


class _CertifyingDefense(Certifying, Defense, Protocol):
    """A defense that proves something."""


class Gated(FlaggingModule):
    """A certifying defense with the gate for one epsilon as its flag.

    Parameters
    ----------
    defense
        Proves its answers, in its norm.
    epsilon
        The adversary's radius, in pixel units, in that norm.

    Raises
    ------
    ValueError
        For a defense that proves nothing, or no radius of its norm.
    """

    flag_score = "certified"

    def __init__(self, defense: nn.Module, epsilon: float) -> None:
        super().__init__()
        if not isinstance(defense, Certifying) or not isinstance(defense, Defense):
            raise ValueError(
                f"{type(defense).__name__} proves nothing by itself, so a gate has nothing to go by; give a "
                "defense with certificates (contracts.Certifying)"
            )
        self.gate_epsilon = ball(defense.certified_norm, epsilon).epsilon
        self.defense = cast("_CertifyingDefense", defense)
        self.certified_norm = defense.certified_norm
        self.certified_method = defense.certified_method
        self.transfer_knowledge = transfers_of(defense)
        self.flag_threshold = 0.0
        # Among the weights, so that what was stopped with one gate does not go on with another.
        self.register_buffer("gate", torch.tensor(self.gate_epsilon, dtype=torch.float64))

    def forward(self, images: Images) -> Logits:
        """Return the defense's logits (B, K)."""
        return self.defense(images)

    def surrogates(self) -> Mapping[str, Classifier | Binding]:
        """Return the defense's own."""
        return self.defense.surrogates()

    def adaptive(self) -> Mapping[str, Adaptation]:
        """Return the defense's own, and ``silent`` and ``crossing``, which err and are accepted."""
        found = dict(super().adaptive())
        if isinstance(self.defense, Adaptive):
            found |= self.defense.adaptive()
        return found

    def certificates(self, images: Images) -> Certificates:
        """Return the defense's own."""
        return self.defense.certificates(images)

    def slack(self, images: Images, radius: float) -> PerImage:
        """Return the defense's own."""
        return self.defense.slack(images, radius)

    def scores(self, images: Images) -> Mapping[str, PerImage]:
        """Return how much room the proof for half of epsilon lacks, (B,); above 0 it is not proven."""
        return {self.flag_score: -self.defense.slack(images, self.gate_epsilon / 2)}

    def excess(self, images: Images) -> PerImage:
        """Return (B,) the score itself: its threshold is 0, which is no unit to measure by."""
        return self.watched_score(images)
