"""The demo: both faces of Memory Defense on real Fashion-MNIST, on two processor cores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from memory_defense.contracts import Progress
from memory_defense.data.images import Splits
from memory_defense.evaluation.options import Options
from memory_defense.recipes.fashion_mnist import DEMO, DEMO_PAPER, TINY
from memory_defense.recipes.recipe import Recipe
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.load import load_defense
from memory_defense.workflows.assess import assess
from memory_defense.workflows.train import train

SCALES: dict[str, tuple[Recipe, Recipe]] = {
    "cpu": (DEMO_PAPER, DEMO),
    "tiny": (replace(TINY, name="fashion-mnist/tiny-paper"), TINY),
}
"""Recipes of the paper's system and of the sound one: cpu is the demo, tiny runs the same code in seconds and its
numbers mean nothing."""


def demo(
    out: Path, splits: Splits, *, scale: str = "cpu", seed: int = 0, progress: Progress | None = None
) -> tuple[RunDirectory, RunDirectory]:
    """Train and evaluate the paper's system and the sound one; return their runs, the paper's first.

    The sound run lives in `out` itself, the paper's in ``out/paper``. A demo that was stopped goes on where
    it was; one that is finished is only evaluated again.
    """
    runs: list[RunDirectory] = []
    for recipe, directory in zip(SCALES[scale], (out / "paper", out), strict=True):
        undefended = runs[0].path if runs else None
        run = train(
            recipe, directory, splits, seed=seed, resume=True, undefended_from=undefended, progress=progress
        )
        defense = load_defense(run.path).to(splits.test.images.device)
        if progress:
            progress.note(f"{recipe.name}: attacks")
        assess(recipe, run, defense, splits, options=Options(seed=seed, progress=progress))
        runs.append(run)
    return runs[0], runs[1]
