"""Figure 3 of the paper: where the encoder's codes and what the memory makes of them lie, as t-SNE maps.

The paper shows a memory's clusters as "the bottleneck of the encoder". What is read from a memory through a slot
clusters by construction: the slot is the cluster. So the encoder's own codes stand beside it, and every map has a
number from the vectors' own space, which t-SNE cannot flatter.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from memory_defense.contracts import Images, Labels, PerImage
from memory_defense.evaluation.metrics import predict
from memory_defense.evaluation.provenance import provenance
from memory_defense.paper.printed.figure3 import Figure3, Panel, PanelRow
from memory_defense.paper.trained_rows import TrainedRows
from memory_defense.randomness import derive
from memory_defense.threat import ball as ball_of

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


NEIGHBOURS = 5
IMAGES = {"tiny": 60}
MOST_IMAGES = 2000
PERPLEXITY = 30.0
_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Space:
    """One kind of vectors that one system makes of images."""

    key: str
    row: str
    """Row of the table whose system it is."""
    title: str
    meaning: str
    vectors: Callable[[Any, Images], Tensor]
    """From the system and images to (B, D)."""
    slots: bool = False
    """Whether a selector chose a slot for each image."""


def _encoded(defense: Any, images: Images) -> Tensor:
    return defense.encoder(defense.normalize(images))


def _slot_read(defense: Any, images: Images) -> Tensor:
    return defense.memory.read_slot(_encoded(defense, images), defense.choose_slots(images))


def _recalled(defense: Any, images: Images) -> Tensor:
    return defense.codes(images).decoded


SPACES = (
    Space(
        key="autoencoder-code",
        row="autoencoder",
        title="Autoencoder without memory: code",
        meaning="what the encoder makes of the image, and the decoder is given",
        vectors=_encoded,
    ),
    Space(
        key="memory-defense-code",
        row="memory-defense",
        title="Memory Defense: code z",
        meaning="what the encoder makes of the image, before the memory",
        vectors=_encoded,
        slots=True,
    ),
    Space(
        key="memory-defense-read",
        row="memory-defense",
        title="Memory Defense: memory read by slot",
        meaning="what is read from the slot that the selector chose: clusters by construction, one for each slot; "
        "the paper shows this as the bottleneck of the encoder",
        vectors=_slot_read,
        slots=True,
    ),
    Space(
        key="memae-read",
        row="memae",
        title="MemAE, no masking: memory read",
        meaning="what is read from a memory without slots and without a selector",
        vectors=_recalled,
    ),
)


def reproduce_figure3(rows: TrainedRows) -> Figure3:
    """Return the maps of clean images, and of images attacked end to end in the largest ball of the tables."""
    tsne = _tsne()
    sample = rows.test(IMAGES.get(rows.scale, MOST_IMAGES))
    plan = rows.recipes["memory-defense"].evaluation
    ball = ball_of("linf", max(one.epsilon for one in plan.linf))
    perplexity = min(PERPLEXITY, (len(sample.labels) - 1) / 3)
    defenses = {space.row: rows.defense(space.row) for space in SPACES}
    attacked: dict[str, Images] = {}
    for row, defense in defenses.items():
        rows.note(f"{rows.dataset}/{rows.scale}/{row}: attacked end to end")
        attacked[row] = sample.attacked(defense, ball, "end-to-end", rows.seed, "figure3")

    def panel(space: Space, kind: Literal["clean", "attacked"]) -> Panel:
        rows.note(f"map of {space.title}, {kind} images")
        defense = defenses[space.row]
        images = sample.images if kind == "clean" else attacked[space.row]
        clean = vectors_of(space, defense, sample.images)
        vectors = clean if kind == "clean" else vectors_of(space, defense, images)
        x, y = places(tsne, vectors, perplexity, derive(rows.seed, "figure3", space.key, kind) % 2**32)
        slots = defense.choose_slots(images) if space.slots else None
        return Panel(
            key=space.key,
            title=space.title,
            meaning=space.meaning,
            neighbours_right=neighbours_right(vectors, sample.labels),
            neighbours_slot=None if slots is None else neighbours_right(vectors, slots),
            clean_neighbours_right=None if kind == "clean" else neighbours_right(clean, sample.labels, vectors),
            answers_right=_share(predict(defense, images), sample.labels),
            x=x,
            y=y,
        )

    return Figure3(
        dataset=rows.dataset,
        scale=rows.scale,
        provenance=provenance(rows.seed, sample.images.device, rows.recipes["memory-defense"].sha256),
        images=len(sample.labels),
        classes=rows.splits.spec.classes,
        labels=tuple(int(label) for label in sample.labels),
        neighbours=NEIGHBOURS,
        perplexity=perplexity,
        epsilon=ball.epsilon,
        pixels_right=neighbours_right(sample.images.flatten(1), sample.labels),
        rows=(
            PanelRow(title="Clean test images", panels=tuple(panel(space, "clean") for space in SPACES)),
            PanelRow(
                title="The same images, each system attacked end to end",
                panels=tuple(panel(space, "attacked") for space in SPACES),
            ),
        ),
    )


@torch.no_grad()
def vectors_of(space: Space, defense: Any, images: Images) -> Tensor:
    """Return the vectors (N, D) of one space."""
    return torch.cat([space.vectors(defense, part) for part in torch.split(images, _BATCH)])


def places(tsne: Any, vectors: Tensor, perplexity: float, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the map's coordinates, whole numbers in [0, 1000], of vectors (N, D) with N at least 4.

    The seed decides everything: the same vectors give the same map.
    """
    mapped = tsne(n_components=2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(
        vectors.cpu().numpy().astype(np.float64)
    )
    low, span = mapped.min(axis=0), max(float(np.ptp(mapped, axis=0).max()), 1e-12)
    margin = (1 - np.ptp(mapped, axis=0) / span) / 2  # centres the narrow axis: the map is square
    whole = np.rint(1000 * ((mapped - low) / span + margin)).astype(int)
    return tuple(whole[:, 0].tolist()), tuple(whole[:, 1].tolist())


def neighbours_right(vectors: Tensor, labels: Labels, queries: Tensor | None = None) -> float:
    """Return the share of labels that `neighbours_answer` gets right with `NEIGHBOURS` votes."""
    return _share(neighbours_answer(vectors, labels, k=NEIGHBOURS, queries=queries), labels)


def _share(answers: Labels, labels: Labels) -> float:
    return float((answers == labels).float().mean())


def _tsne() -> Any:
    """Return scikit-learn's TSNE; raise ValueError that names the extra where it is missing."""
    try:
        return importlib.import_module("sklearn.manifold").TSNE
    except ImportError as error:
        raise ValueError(
            "Figure 3 needs scikit-learn, which is not installed: pip install 'memory-defense[figures]'"
        ) from error
