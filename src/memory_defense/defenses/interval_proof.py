"""A classifier of ordinary layers that proves its answers in L-inf by interval bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from memory_defense.certificates.intervals import Method, answer_slack, check_method, interval_certificates
from memory_defense.contracts import (
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

_SMALLEST_PROOF = 1e-12
"""A proof has a margin above 0; a slack of 0 stands for this."""


class IntervalProof(nn.Module):
    """A classifier with the certificates that interval bounds give it.

    Parameters
    ----------
    classifier
        Made of layers that `certificates.reading.steps_of` knows; the first certificate says so if it is not.
    largest
        Largest radius that is looked for, in pixel units of [0, 1].
    at
        Radii that are tried themselves; between them a radius may be found a thousandth too small.
    method
        ``ibp``, or ``crown-ibp``, which proves more of networks that were not trained for bounds.

    Raises
    ------
    ValueError
        For an unknown method.
    """

    certified_norm: str = "linf"
    """The norm of the radii."""

    def __init__(
        self, classifier: nn.Module, *, largest: float, at: Sequence[float] = (), method: Method = "ibp"
    ) -> None:
        super().__init__()
        check_method(method)
        self.classifier = classifier
        self.method: Method = method
        self.certified_method = f"interval bounds, {method}"
        self.largest, self.at = max([largest, *at]), tuple(sorted(at))
        self.transfer_knowledge = transfers_of(classifier)

    def forward(self, images: Images) -> Logits:
        """Return the classifier's logits (B, K)."""
        return self.classifier(images)

    def surrogates(self) -> Mapping[str, Classifier | Binding]:
        """Return the classifier's own, or itself."""
        return (
            self.classifier.surrogates()
            if isinstance(self.classifier, Defense)
            else {"end-to-end": self.classifier}
        )

    def certificates(self, images: Images) -> Certificates:
        """Return the answers (B,) and the radii (B,) within which they are proven to stay."""
        return interval_certificates(self.classifier, images, largest=self.largest, at=self.at, method=self.method)

    def slack(self, images: Images, radius: float) -> PerImage:
        """Return (B,) the smallest margin of the answer within this radius, with a gradient."""
        return answer_slack(self.classifier, images, radius, method=self.method) - _SMALLEST_PROOF


def proving(defense: nn.Module, *, radii: Sequence[float], method: Method = "ibp") -> nn.Module:
    """Return the defense if it proves its answers, else it with interval bounds for these radii and halves."""
    if isinstance(defense, Certifying):
        return defense
    at = sorted({*radii, *(radius / 2 for radius in radii)})
    return IntervalProof(defense, largest=max(at), at=at, method=method)
