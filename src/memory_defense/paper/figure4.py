"""Figure 4 of the paper: the 99th percentile of the reconstruction error by memory size, benign and attacked.

The printed figure has no readable numbers, so there is nothing to put beside ours. The error is that of the image
that was handed in, not of the clean one behind it, which nobody who is attacked has (reading A34).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from memory_defense.contracts import Ball, Images, PerImage
from memory_defense.evaluation.detection import auroc
from memory_defense.evaluation.metrics import accuracy, predict
from memory_defense.evaluation.provenance import provenance
from memory_defense.paper.figure3 import percentile
from memory_defense.paper.printed.figure4 import AttackedError, Figure4, MemorySize
from memory_defense.paper.trained_rows import Sample, TrainedRows
from memory_defense.recipes.recipe import Recipe

SIZES = (50, 100, 200, 500, 1000)
TINY_SIZES = (20, 50)
KNOWLEDGE = ("fixed-slots", "end-to-end")
"""The paper's protocol, and the white box."""
_BATCH = 500


def reproduce_figure4(rows: TrainedRows) -> Figure4:
    """Return the errors of Memory Defense with memories of several sizes, trained alike but for the size."""
    row = rows.recipes["memory-defense"]
    sample = rows.test(row.evaluation.images)
    sizes: list[MemorySize] = []
    own = len(rows.defense(row).memory.items)
    for items in TINY_SIZES if rows.scale == "tiny" else SIZES:
        defense = rows.defense(row if items == own else with_memory_of(row, items))
        rows.note(f"{rows.dataset}/{rows.scale}: errors with {items} memory items")
        sizes.append(memory_size(defense, items, sample, row.evaluation.linf, rows.seed))
    return Figure4(
        dataset=rows.dataset,
        scale=rows.scale,
        provenance=provenance(rows.seed, sample.images.device, row.sha256),
        images=len(sample.labels),
        sizes=tuple(sizes),
    )


def with_memory_of(recipe: Recipe, items: int) -> Recipe:
    """Return the recipe with a memory of another size; everything else, the selector too, is trained alike."""
    return replace(recipe, name=f"{recipe.name}-m{items}", model=replace(recipe.model, memory_size=items))


def memory_size(defense: Any, items: int, sample: Sample, balls: Sequence[Ball], seed: int) -> MemorySize:
    """Return the errors of one trained defense, clean and attacked in each ball with each knowledge."""
    benign = errors_of(defense, sample.images)
    attacked: list[AttackedError] = []
    for ball in balls:
        for knowledge in KNOWLEDGE:
            images = sample.attacked(defense, ball, knowledge, seed, "figure4")
            errors = errors_of(defense, images)
            attacked.append(
                AttackedError(
                    knowledge=knowledge,
                    epsilon=ball.epsilon,
                    percentile_99=percentile(errors, 0.99),
                    median=percentile(errors, 0.5),
                    auroc=auroc(benign, errors),
                    right=accuracy(predict(defense, images) == sample.labels),
                )
            )
    return MemorySize(
        items=items,
        percentile_99=percentile(benign, 0.99),
        median=percentile(benign, 0.5),
        right=accuracy(predict(defense, sample.images) == sample.labels),
        attacked=tuple(attacked),
    )


@torch.no_grad()
def errors_of(defense: Any, images: Images) -> PerImage:
    """Return (N,) the mean squared difference of each image and its reconstruction through the selector's slot."""
    return torch.cat([defense.scores(part)["reconstruction"] for part in torch.split(images, _BATCH)])
