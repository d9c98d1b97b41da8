"""Checks of randomized smoothing: whether so few copies can say what is claimed, and how exact the noise is."""

from __future__ import annotations

from collections.abc import Sequence

from memory_defense.certificates.smoothing import LATTICE, Smoothing, off_lattice
from memory_defense.evaluation.audit.findings import line
from memory_defense.evaluation.pixels import Pictures, parts
from memory_defense.evaluation.record import AuditLine


def sampling_lines(smoothing: Smoothing, radii: Sequence[float], images: Pictures) -> tuple[AuditLine, ...]:
    """Return the audit of a certification by noisy copies.

    Parameters
    ----------
    smoothing
        How it was done.
    radii
        The radii of the record, in pixel units.
    images
        (N, C, H, W), those that were certified.
    """
    return enough_copies(smoothing, radii), exact_sums(smoothing, images)


def enough_copies(smoothing: Smoothing, radii: Sequence[float]) -> AuditLine:
    """Copies that all agree certify `Smoothing.largest_radius`; beyond it the accuracy is 0 by counting."""
    check, claimed, most = (
        "n large enough for the radius claimed",
        max(radii, default=0.0),
        smoothing.largest_radius,
    )
    share = claimed / most if most else None
    return line(
        check,
        claimed > most if claimed else None,
        share if claimed else None,
        "largest radius asked for, in units of the largest that so many noisy copies can certify; above 1 nothing "
        "is certified there, whatever the classifier",
        "ask more copies, or take a larger sigma and a classifier that was trained with it",
    )


def exact_sums(smoothing: Smoothing, images: Pictures) -> AuditLine:
    """Image and noise lie on one lattice, so that no sum is rounded; a radius pays for how far images moved."""
    return line(
        "sums of image and noise are exact",
        not smoothing.exact,
        max((off_lattice(one) for some in parts(images, 64) for one in some.cpu()), default=0.0),
        f"what the lattice of {LATTICE:,} steps, on which image and noise lie, costs a radius at most, which has "
        "paid for it; the normal numbers are made of 24 random bits each, which no proof takes into account",
        "take a sigma between one step of the lattice and 40",
    )
