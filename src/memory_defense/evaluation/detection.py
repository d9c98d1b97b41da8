"""Separation of attacked images from clean ones by a score, and the threshold for an alarm.

Pure functions of scores, higher where more suspicious. A threshold is always chosen on held-out clean images
(`conformal_threshold`); the curve's points (`tpr_at_fpr`) describe a score and are no threshold to use.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from memory_defense.contracts import PerImage
from memory_defense.names import check_false_alarms


def auroc(clean: PerImage, attacked: PerImage) -> float:
    """Return the area under the ROC curve: P(attacked > clean) + P(attacked = clean) / 2.

    Parameters
    ----------
    clean, attacked
        (N,) and (M,) scores.

    Returns
    -------
    In [0, 1]; 0.5 tells nothing. The Mann-Whitney statistic over N M, with ties counted half.

    Raises
    ------
    ValueError
        If there are no scores on one side, or some are NaN.
    """
    ordered, points = _checked(clean, "clean").sort().values, _checked(attacked, "attacked")
    below = torch.searchsorted(ordered, points)
    not_above = torch.searchsorted(ordered, points, right=True)
    return int((below + not_above).sum()) / (2 * len(ordered) * len(points))


def tpr_at_fpr(clean: PerImage, attacked: PerImage, fpr: float) -> float:
    """Return the largest share of attacked images above a threshold that at most a share `fpr` of clean ones is.

    A point of the ROC curve, never interpolated between thresholds.

    Parameters
    ----------
    clean, attacked
        (N,) and (M,) scores.
    fpr
        Share of false alarms, in [0, 1].

    Raises
    ------
    ValueError
        What `auroc` raises, and for a share outside [0, 1].
    """
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr is {fpr}, but a share of false alarms lies in [0, 1]; write 1 % as 0.01")
    ordered, points = _checked(clean, "clean").sort(descending=True).values, _checked(attacked, "attacked")
    allowed = math.floor(len(ordered) * Fraction(str(fpr)))  # clean images that may lie above the threshold
    if allowed == len(ordered):
        return 1.0
    # The lowest threshold with at most `allowed` clean scores strictly above it is the next clean score.
    return int((points > ordered[allowed]).sum()) / len(points)


def conformal_rank(calibration_images: int, false_alarms: float) -> int:
    """Return ceil((n + 1)(1 - alpha)), the rank of the calibration score that becomes the threshold.

    Raises
    ------
    ValueError
        For a rate outside (0, 1), or too few images for it: the rank would be above n, so that no threshold keeps
        the promise.
    """
    check_false_alarms(false_alarms)
    rate = Fraction(str(false_alarms))  # as written: 0.05 is five in a hundred, not the nearest binary fraction
    rank = math.ceil((calibration_images + 1) * (1 - rate))
    if rank > calibration_images:
        raise ValueError(
            f"{calibration_images} calibration images are too few for {100 * false_alarms:g} % false alarms; "
            f"use at least {math.ceil(1 / rate) - 1}, or allow more false alarms"
        )
    return rank


def conformal_threshold(calibration: PerImage, false_alarms: float) -> float:
    """Return the threshold of split conformal prediction (Vovk et al. 2005; Papadopoulos et al. 2002).

    An image whose score lies above it is flagged. A clean image that is exchangeable with the calibration images is
    flagged with probability at most `false_alarms`, whatever the scores' distribution, averaged over the draw of
    the calibration images; with ties it is flagged less often.

    Parameters
    ----------
    calibration
        (n,) scores of clean images that were neither trained on nor are tested on.
    false_alarms
        alpha, in (0, 1).

    Raises
    ------
    ValueError
        What `conformal_rank` raises, and for NaN.
    """
    rank = conformal_rank(len(calibration), false_alarms)
    return float(_checked(calibration, "calibration").sort().values[rank - 1])


def accuracy_with_rejection(right: PerImage, flagged: PerImage, *, attacked: bool) -> PerImage:
    """Return (B,) bool: the image ended well for a system that answers only what it does not flag.

    Parameters
    ----------
    right
        (B,) bool: answered correctly.
    flagged
        (B,) bool: rejected.
    attacked
        A clean image must be answered, so it ends well where it is right and accepted; an attacked one also where
        it is rejected.
    """
    return right | flagged if attacked else right & ~flagged


def _checked(scores: PerImage, which: str) -> Tensor:
    if scores.dim() != 1 or len(scores) == 0:
        raise ValueError(f"the {which} scores have shape {tuple(scores.shape)}, expected (N,) with N at least 1")
    if torch.isnan(scores).any():
        raise ValueError(f"{int(torch.isnan(scores).sum())} of the {which} scores are NaN; they cannot be ranked")
    return scores.detach().double().cpu()
