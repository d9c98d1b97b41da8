"""Differences of two shares, with 95 % intervals, for the same images and for different ones.

Intervals are Newcombe's, made of the two Wilson intervals that records hold: method 10 of R. G. Newcombe,
*Improved confidence intervals for the difference between binomial proportions based on paired data*, Statistics in
Medicine 17 (1998), 2635-2650, and its unpaired form, method 10 of *Interval estimation for the difference between
independent proportions*, ibid. 873-890. The test is McNemar's, exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from memory_defense.evaluation.consistency import wilson


@dataclass(frozen=True)
class Difference:
    """The first share less the second, both of images that are right."""

    value: float
    """In [-1, 1]."""
    ci95: tuple[float, float]
    paired: int | None = None
    """Number of images that both judged and that this is about; None where each share is of images of its own."""
    only_first: int = 0
    """Of those, images that the first alone gets right."""
    only_second: int = 0
    p_value: float | None = None
    """Of McNemar's exact test, two-sided: how often chance alone splits them so unevenly, or more so."""

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return not self.ci95[0] <= 0 <= self.ci95[1]


def paired_difference(both: int, only_first: int, only_second: int, neither: int) -> Difference:
    """Return the difference of two shares of the same images.

    Parameters
    ----------
    both, only_first, only_second, neither
        Numbers of images that both get right, the first alone, the second alone, and neither; not all 0.
    """
    images = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    value, ci95 = _newcombe((first, images), (second, images), _correlation(both, only_first, only_second, neither))
    return Difference(value, ci95, images, only_first, only_second, mcnemar(only_first, only_second))


def unpaired_difference(first: tuple[int, int], second: tuple[int, int]) -> Difference:
    """Return the difference of two shares of different images, each as (right, images)."""
    return Difference(*_newcombe(first, second, 0.0))


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test; 1 where the two never disagree."""
    from scipy.stats import binomtest  # a second to import, so only where it is wanted

    discordant = only_first + only_second
    return 1.0 if not discordant else float(binomtest(only_first, discordant).pvalue)


def _newcombe(
    first: tuple[int, int], second: tuple[int, int], correlation: float
) -> tuple[float, tuple[float, float]]:
    (low_a, high_a), (low_b, high_b) = wilson(*first), wilson(*second)
    share_a, share_b = first[0] / first[1], second[0] / second[1]
    value = share_a - share_b
    below = _length(share_a - low_a, high_b - share_b, correlation)
    above = _length(high_a - share_a, share_b - low_b, correlation)
    return value, (max(-1.0, value - below), min(1.0, value + above))


def _length(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * correlation * one * other + other * other))


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Return phi, corrected for continuity where it is positive, as in the source; 0 where a margin is empty."""
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if not margins:
        return 0.0
    cross = both * neither - only_first * only_second
    half = (both + only_first + only_second + neither) / 2
    return (cross if cross < 0 else max(0.0, cross - half)) / math.sqrt(margins)
