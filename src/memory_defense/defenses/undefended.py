"""No defense: the plain classifier that every defense is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn

from memory_defense.contracts import Classifier, Images, Logits


class Undefended(nn.Module):
    """A plain classifier as a defense.

    Parameters
    ----------
    network
        Images (B, C, H, W) in [0, 1] to logits (B, K).
    """

    transfer_knowledge: frozenset[str] = frozenset()
    """Empty: the only surrogate is the classifier itself."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Images) -> Logits:
        """Return the network's logits (B, K)."""
        return self.network(images)

    def layers(self) -> Sequence[nn.Module]:
        """Return the network alone (`published.Layered`), so that what bounds modules bounds this one."""
        return (cast("nn.Module", self.network),)

    def surrogates(self) -> Mapping[str, Classifier]:
        """Return the network itself: the white box."""
        return {"end-to-end": self.network}
