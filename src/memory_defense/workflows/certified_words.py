"""What a denoiser before a classifier gained and what it did not: every number of the text stands in a record."""

from __future__ import annotations

from dataclasses import dataclass

from memory_defense.evaluation.record import Accuracy, CertifiedResult, Record
from memory_defense.workflows.harden_words import apart, shown


@dataclass(frozen=True, kw_only=True)
class CertifiedMeasured:
    """Two certifications of the same images under the same noise."""

    classifier: str
    """Name of the classifier as the user wrote it."""
    sigma: float
    """Standard deviation of the noise."""
    black_box: bool
    """Whether the denoiser was trained without asking the classifier."""
    memory: bool
    """Whether the denoiser has a memory."""
    original: Record
    """Record of the classifier alone, smoothed: ``certified-before.json`` in the run directory."""
    denoised: Record
    """Record of denoiser and classifier, smoothed: ``certified-after.json``."""
    clean: Accuracy
    """Of the classifier alone, without noise."""
    clean_denoised: Accuracy
    """Of denoiser and classifier, without noise."""


def certified_paragraphs(measured: CertifiedMeasured) -> str:
    """Return the text: what is certified before and after, what it costs, what is not promised."""
    return "\n\n".join(
        (_setting(measured), "\n".join(_radii(measured)), _price(measured), _promises(measured.denoised))
    )


def _setting(measured: CertifiedMeasured) -> str:
    first = measured.denoised.certified[0]
    how = "without asking the classifier" if measured.black_box else "through the classifier"
    with_memory = " with a memory" * measured.memory
    return (
        f"A denoiser{with_memory}, trained {how}, was put before {measured.classifier}, none of whose weights "
        f"changed. On {measured.denoised.images:,} test images of {measured.denoised.dataset}, smoothed with "
        f"normal noise of standard deviation {measured.sigma:g} ({first.n:,} copies an image), these are right and "
        "proven to stay so; brackets are 95 % intervals."
    )


def _radii(measured: CertifiedMeasured) -> list[str]:
    pairs = zip(measured.original.certified, measured.denoised.certified, strict=True)
    return [
        f"- within L2 {before.epsilon:g}: {shown(before)} without the denoiser, {shown(after)} with it: "
        f"{_verdict(before, after)}."
        for before, after in pairs
    ]


def _verdict(before: CertifiedResult, after: CertifiedResult) -> str:
    points = f"{100 * abs(after.accuracy - before.accuracy):.1f} points"
    none = "the intervals overlap, so nothing was gained that these images could show"
    return {1: f"{points} were gained", 0: none, -1: f"{points} were lost"}[apart(after, before)]


def _price(measured: CertifiedMeasured) -> str:
    return (
        f"Clean images: {measured.classifier} alone, without noise, is right on {shown(measured.clean)}, with the "
        f"denoiser and without noise on {shown(measured.clean_denoised)}. Smoothed, which is what the guarantee is "
        f"about, it is right on {shown(measured.denoised.clean)}, without the denoiser on "
        f"{shown(measured.original.clean)}."
    )


def _promises(record: Record) -> str:
    alpha = record.certified[0].alpha
    return (
        "Not promised: anything for one pass of the classifier, with the denoiser or without it, since only the "
        "answer that many noisy copies vote for is guaranteed; anything about changes that are larger, or not of "
        "pixel values in L2; anything for images that are wrong when clean. An image's certificate is wrong with "
        f"probability {alpha:g} at most. The shares are those of these test images; other images have certificates "
        "of their own."
    )
