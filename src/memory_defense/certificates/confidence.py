"""Confidence limits of a proportion, exact for any number of trials."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]


def lower_limit(successes: ArrayLike, trials: int, alpha: float) -> Floats:
    """Return the one-sided lower limit of a proportion (Clopper & Pearson 1934).

    With probability 1 - alpha at least, the true proportion is not below it.

    Parameters
    ----------
    successes
        Whole numbers between 0 and `trials`, of any shape.
    trials
        At least 1.
    alpha
        Probability of error, in (0, 1).
    """
    found = np.asarray(successes, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        limit = cast("Floats", special.betaincinv(np.maximum(found, 1), trials - found + 1, alpha))
    return np.where(found > 0, limit, 0.0)


def differ(first: ArrayLike, second: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Return whether of two classes, seen so often, one is truly likelier than the other (Hung & Fithian 2019).

    It is where a fair coin would fall so unevenly with probability alpha at most, counted on both sides.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    most, least = np.maximum(one, other), np.minimum(one, other)
    trials = most + least
    tail = cast("Floats", special.bdtr(least, trials, 0.5))  # P(X <= least)
    return np.minimum(2 * tail, 1.0) <= alpha
