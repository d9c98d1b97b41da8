"""Detection metrics against brute force, SciPy and figures worked out by hand; thresholds against their promise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, mannwhitneyu

from memory_defense.evaluation.detection import (
    accuracy_with_rejection,
    auroc,
    conformal_rank,
    conformal_threshold,
    tpr_at_fpr,
)


def tied_scores(count: int, shift: int, seed: int) -> torch.Tensor:
    """Small whole numbers, so that many are equal."""
    return torch.randint(0, 8, (count,), generator=torch.Generator().manual_seed(seed)).float() + shift


@pytest.mark.parametrize(("clean", "attacked", "shift"), [(1, 1, 0), (17, 40, 0), (60, 23, 2), (50, 50, -3)])
def test_auroc_counts_every_pair(clean, attacked, shift) -> None:
    low, high = tied_scores(clean, 0, 1), tied_scores(attacked, shift, 2)
    pairs = [1.0 if b > a else 0.5 if b == a else 0.0 for a in low.tolist() for b in high.tolist()]
    assert auroc(low, high) == sum(pairs) / len(pairs)
    statistic = mannwhitneyu(high.numpy(), low.numpy(), method="asymptotic").statistic
    assert auroc(low, high) == pytest.approx(statistic / (clean * attacked), abs=1e-12)
    assert auroc(high, low) == pytest.approx(1 - auroc(low, high), abs=1e-12)


def test_auroc_at_its_ends() -> None:
    low = torch.arange(5.0)
    assert (auroc(low, low + 10), auroc(low + 10, low), auroc(low, low)) == (1.0, 0.0, 0.5)
    assert auroc(torch.ones(3), torch.ones(4)) == 0.5


def test_tpr_by_hand() -> None:
    clean = torch.arange(1.0, 11)  # 1 to 10
    attacked = torch.tensor([9.5, 10.0, 10.5, 3.0])
    assert tpr_at_fpr(clean, attacked, 0.0) == 0.25  # above 10: 10.5
    assert tpr_at_fpr(clean, attacked, 0.0999) == 0.25  # one false alarm is already 10 %
    assert tpr_at_fpr(clean, attacked, 0.1) == 0.75  # above 9: all but 3
    assert tpr_at_fpr(clean, attacked, 0.7) == 0.75  # above 3: 3 itself is not above
    assert tpr_at_fpr(clean, attacked, 0.8) == 1.0
    assert tpr_at_fpr(clean, attacked, 1.0) == 1.0


def test_a_tie_is_no_alarm() -> None:
    clean = torch.tensor([0.0, 5.0, 5.0, 5.0])
    assert tpr_at_fpr(clean, torch.tensor([5.0, 6.0]), 0.5) == 0.5  # a threshold below 5 would flag three of four


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 10_000), st.sampled_from([0.0, 0.01, 0.05, 0.3, 0.75])
)
def test_tpr_is_the_best_of_all_thresholds(clean, attacked, seed, rate) -> None:
    low, high = tied_scores(clean, 0, seed), tied_scores(attacked, 1, seed + 1)
    thresholds = [-1.0, *low.tolist(), *high.tolist()]
    allowed = [one for one in thresholds if int((low > one).sum()) <= rate * clean]
    assert tpr_at_fpr(low, high, rate) == max(int((high > one).sum()) / attacked for one in allowed)


@pytest.mark.parametrize(
    ("images", "rate", "rank"),
    [
        (19, 0.05, 19),
        (20, 0.05, 20),
        (99, 0.01, 99),
        (100, 0.01, 100),
        (5000, 0.01, 4951),
        (9, 0.3, 7),
        (1, 0.5, 1),
    ],
)
def test_the_rank_is_exact(images, rate, rank) -> None:
    assert conformal_rank(images, rate) == rank
    scores = torch.randperm(images, generator=torch.Generator().manual_seed(0)).float() + 1  # 1 to n
    assert conformal_threshold(scores, rate) == rank


@pytest.mark.parametrize(("images", "rate", "needed"), [(18, 0.05, 19), (98, 0.01, 99), (2, 0.3, 3), (0, 0.5, 1)])
def test_too_few_images_are_refused_with_the_number_needed(images, rate, needed) -> None:
    with pytest.raises(ValueError, match=f"use at least {needed},"):
        conformal_threshold(torch.arange(float(images)), rate)
    conformal_threshold(torch.arange(float(needed)), rate)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 5.0, math.nan])
def test_rates_out_of_range_are_refused(rate) -> None:
    with pytest.raises(ValueError, match="false_alarms"):
        conformal_rank(1000, rate)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("kind", ["heavy tails", "ties"])
def test_false_alarms_keep_the_promise(rate, kind) -> None:
    """One fresh image for each of many calibrations: alarms are independent, so their count is binomial."""
    images, trials = 99, 4000
    draws = torch.rand(trials, images + 1, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    scores = (draws - 0.5).tan() if kind == "heavy tails" else (draws * 12).floor()
    thresholds = torch.tensor([conformal_threshold(row[:images], rate) for row in scores.float()])
    alarms = int((scores[:, images].float() > thresholds).sum())
    assert alarms <= binom.ppf(1 - 1e-6, trials, rate)
    if kind == "heavy tails":  # without ties the rate is reached: 100 (1 - rate) is whole
        assert alarms >= binom.ppf(1e-6, trials, rate)


def test_accuracy_with_rejection_by_hand() -> None:
    right = torch.tensor([True, True, False, False])
    flagged = torch.tensor([False, True, False, True])
    assert accuracy_with_rejection(right, flagged, attacked=False).tolist() == [True, False, False, False]
    assert accuracy_with_rejection(right, flagged, attacked=True).tolist() == [True, True, False, True]


def test_scores_that_cannot_be_ranked_are_refused() -> None:
    some, nan = torch.arange(3.0), torch.tensor([0.0, math.nan])
    for wrong, reason in (
        (torch.empty(0), "N at least 1"),
        (torch.ones(2, 2), r"shape \(2, 2\)"),
        (nan, "1 of the"),
    ):
        for function in (auroc, lambda a, b: tpr_at_fpr(a, b, 0.1)):
            for pair in ((wrong, some), (some, wrong)):
                with pytest.raises(ValueError, match=reason):
                    function(*pair)
    with pytest.raises(ValueError, match="1 of the calibration"):
        conformal_threshold(torch.cat([torch.arange(50.0), nan]), 0.1)
    with pytest.raises(ValueError, match=r"fpr is 1\.5"):
        tpr_at_fpr(some, some, 1.5)
