"""What a cloud of vectors knows about labels: nearest neighbours, which need no training and no picture."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

from memory_defense.contracts import Labels, PerImage

_CHUNK = 512


def neighbours_answer(vectors: Tensor, labels: Labels, *, k: int = 5, queries: Tensor | None = None) -> Labels:
    """Return the label that the k nearest vectors vote for, leaving each query's own counterpart out.

    Distances are Euclidean, in float64: memory reads differ by very little. Of equally many votes, those win whose
    nearest vector is nearer.

    Parameters
    ----------
    vectors
        (N, D), N above `k`.
    labels
        (N,) their classes.
    k
        Neighbours that vote, at least 1.
    queries
        (N, D); query i is another view of vector i, which has no vote on it. The vectors themselves by default.

    Returns
    -------
    (N,) int64.

    Raises
    ------
    ValueError
        For shapes that do not fit, or fewer vectors than neighbours.
    """
    points = vectors if queries is None else queries
    if vectors.dim() != 2 or points.shape != vectors.shape or labels.shape != (len(vectors),):
        raise ValueError(
            f"vectors {tuple(vectors.shape)}, queries {tuple(points.shape)} and labels {tuple(labels.shape)} do "
            "not fit; give (N, D), (N, D) and (N,)"
        )
    if not 1 <= k < len(vectors):
        raise ValueError(f"k is {k}, but with {len(vectors)} vectors it lies between 1 and {len(vectors) - 1}")
    cloud, points = vectors.double(), points.double()
    lengths = cloud.square().sum(1)
    answers: list[Labels] = []
    for start in range(0, len(points), _CHUNK):
        part = points[start : start + _CHUNK]
        distances = lengths - 2 * part @ cloud.T  # the query's own length is the same for all
        own = torch.arange(len(part), device=part.device)
        distances[own, own + start] = torch.inf
        near = labels[distances.topk(k, largest=False).indices]  # (B, k), nearest first
        votes = F.one_hot(near, int(labels.max()) + 1).sum(1).gather(1, near)  # (B, k) of each neighbour's class
        order = torch.arange(k, device=part.device)
        answers.append(near.gather(1, (votes * k - order).argmax(1, keepdim=True)).squeeze(1))
    return torch.cat(answers)


def percentile(values: PerImage, share: float) -> float:
    """Return the smallest value that at least `share` of all values do not exceed (nearest rank).

    Parameters
    ----------
    values
        (N,), at least one.
    share
        In (0, 1], such as 0.99.

    Raises
    ------
    ValueError
        For a share outside (0, 1], or no values.
    """
    if not 0 < share <= 1 or len(values) == 0:
        raise ValueError(
            f"{len(values)} values have no percentile {100 * share:g}; give some, and a share in (0, 1]"
        )
    rank = math.ceil(Fraction(str(share)) * len(values))  # as written: 0.99 is no binary fraction
    return float(values.double().sort().values[rank - 1])
