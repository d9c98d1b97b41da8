"""Limits of a proportion against an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from memory_defense.certificates.confidence import differ, lower_limit


@pytest.mark.parametrize("trials", [1, 2, 17, 1000, 100_000])
@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.001])
def test_the_limit_is_clopper_and_pearson_s(trials: int, alpha: float) -> None:
    successes = sorted({0, 1, trials // 3, trials // 2, trials - 1, trials})
    expected = [
        binomtest(one, trials, alternative="greater").proportion_ci(1 - alpha, method="exact").low
        for one in successes
    ]
    np.testing.assert_allclose(lower_limit(successes, trials, alpha), expected, rtol=1e-9, atol=1e-12)


def test_the_limit_holds_as_often_as_it_says() -> None:
    """Over all outcomes of 30 trials: the limit exceeds the true probability with probability alpha at most."""
    from scipy.stats import binom

    limits = lower_limit(np.arange(31), 30, 0.05)
    for true in np.linspace(0.01, 0.99, 99):
        assert binom.pmf(np.arange(31), 30, true)[limits > true].sum() <= 0.05 + 1e-12


@pytest.mark.parametrize(("first", "second"), [(60, 40), (70, 30), (30, 70), (1, 0), (15, 0), (50, 50), (0, 0)])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_two_classes_differ_where_a_coin_would_hardly(first: int, second: int, alpha: float) -> None:
    p = binomtest(first, first + second).pvalue if first + second else 1.0
    assert bool(differ(first, second, alpha)) == (p <= alpha)
