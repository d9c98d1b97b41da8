"""Loss of a system that answers only what it does not flag: pure functions of verdicts, image by image.

Chen et al. (2023, arXiv:2305.01139) charge an adversary's best image x' within epsilon of the clean image x:

    1           if some x' is answered wrongly and accepted
    cost(d)     else, for the nearest x' that is flagged, d its distance to x
    0           else

with a cost that does not rise with d (Charoenphakdee et al. 2021, arXiv:2010.11748, have the clean case). Here it
is a step: `cost` up to a radius `near`, and nothing beyond, where whoever moved the image so far may be turned
away. With ``near = 0`` a flag costs something on clean images alone. The clean image is one of the x'. A flag that
costs 1 is an error like any other; one that costs nothing lets a defense that flags everything be perfect.
"""

from __future__ import annotations

from collections.abc import Sequence

from memory_defense.contracts import PerImage
from memory_defense.evaluation.metrics import accuracy
from memory_defense.evaluation.record import RejectionLoss, SelectionResult, SelectionStage
from memory_defense.names import check_rejection_cost

NEAR_SHARE = 0.1
"""The share of epsilon within which attacks try to raise the flag: the ``near`` of records."""


def rejection_losses(lost: PerImage, flagged: PerImage, cost: float) -> PerImage:
    """Return (B,) float64 the loss of every image; its mean is the total robust loss.

    Parameters
    ----------
    lost
        (B,) bool: some image within epsilon, the clean one included, is wrong and accepted.
    flagged
        (B,) bool: the clean image is flagged, or one within `near` of it.
    cost
        Of the latter where the former is not the case, in [0, 1].

    Raises
    ------
    ValueError
        For a cost outside [0, 1].
    """
    check_rejection_cost(cost)
    return lost.double() + cost * (flagged & ~lost).double()


def selection_result(  # noqa: PLR0913 - all keyword-only but the verdicts
    right: PerImage,
    flagged: PerImage,
    lost: PerImage,
    alarmed: PerImage,
    *,
    costs: Sequence[float],
    norm: str,
    epsilon: float,
    near: float,
    score: str = "",
    threshold: float | None = None,
    stages: Sequence[SelectionStage] = (),
) -> SelectionResult:
    """Return what a record says of verdicts on N images.

    Parameters
    ----------
    right, flagged
        (N,) bool: of the clean images.
    lost
        (N,) bool: an attack got a wrong answer accepted. Images that are wrong and accepted when clean count too.
    alarmed
        (N,) bool: an attack within `near` got the image flagged. Images that are flagged when clean count too.
    costs
        Of a flag; an entry of `SelectionResult.losses` each.
    norm, epsilon, near, score, threshold, stages
        As in the record.
    """
    lost = lost | (~right & ~flagged)
    alarmed = alarmed | flagged
    losses = tuple(
        RejectionLoss(
            cost=cost,
            loss=float(rejection_losses(lost, flagged, cost).mean()),
            loss_near=float(rejection_losses(lost, alarmed, cost).mean()),
        )
        for cost in costs
    )
    return SelectionResult(
        norm=norm,
        epsilon=epsilon,
        score=score,
        threshold=threshold,
        clean_right_accepted=accuracy(right & ~flagged),
        clean_right_flagged=accuracy(right & flagged),
        clean_wrong_accepted=accuracy(~right & ~flagged),
        wrong_accepted=accuracy(lost),
        robust=accuracy(right & ~flagged & ~lost),
        flagged=accuracy(flagged & ~lost),
        near=near,
        flagged_near=accuracy(alarmed & ~lost),
        losses=losses,
        stages=tuple(stages),
    )
