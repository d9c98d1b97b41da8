"""Rows of the tables, trained now or taken from where they are, for what is measured beside the tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from memory_defense.attacks import PAPER_PGD
from memory_defense.contracts import Ball, Binding, FineProgress, Images, Labels, Progress, Rows
from memory_defense.data.images import Splits
from memory_defense.paper.tables import DataSource, at_scale, prepare_shared, trained
from memory_defense.randomness import ImageDraws
from memory_defense.recipes.recipe import Recipe
from memory_defense.recipes.scales import rows_at
from memory_defense.systems.load import load_defense
from memory_defense.wrappers import frozen


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Test images on their device."""

    images: Images
    """(N, C, H, W) float32 in [0, 1]."""
    labels: Labels
    ids: Rows
    """(N,) positions in the test set."""

    def attacked(self, defense: Any, ball: Ball, knowledge: str, seed: int, purpose: str) -> Images:
        """Return the images after the paper's PGD with one knowledge, run as in evaluations.

        Parameters
        ----------
        defense
            Publishes a surrogate with the name `knowledge`.
        ball
            Ball around each image.
        seed, purpose
            Seed of the random start, and the name of what it is for.
        """
        surrogate = defense.surrogates()[knowledge]
        attack = PAPER_PGD.for_transfer() if knowledge in defense.transfer_knowledge else PAPER_PGD
        draws = ImageDraws.of(seed, purpose, self.ids, self.images.device)
        with frozen(defense):
            model = surrogate.bind(self.images) if isinstance(surrogate, Binding) else surrogate
            return attack(model, self.images, self.labels, ball, draws)


@dataclass(frozen=True, kw_only=True)
class TrainedRows:
    """The rows of one scale on one dataset: what every figure and the timing are measured on.

    Parameters
    ----------
    out
        Directory of all runs; a row that is there is used, another is trained.
    data
        Called for the dataset when the first row is needed; decides the device.
    dataset, scale
        Names of the dataset and of a scale that has it (`recipes.scales.SCALES`).
    seed
        Seed of training, of attacks and of maps.
    anew
        Train also what comes with the package.
    progress
        Receives how far the work is.

    Raises
    ------
    ValueError
        For an unknown dataset or scale.
    """

    out: Path
    data: DataSource
    dataset: str = "fashion-mnist"
    scale: str = "cpu"
    seed: int = 0
    anew: bool = False
    progress: Progress | None = None

    def __post_init__(self) -> None:
        rows_at(self.scale, self.dataset)

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """Recipes by row."""
        return rows_at(self.scale, self.dataset)

    @cached_property
    def splits(self) -> Splits:
        """The dataset, as much of it as the scale takes."""
        splits = at_scale(self.scale, self.data(self.dataset))
        prepare_shared(self.out, splits, seed=self.seed, anew=self.anew)
        return splits

    def defense(self, recipe: Recipe | str) -> Any:
        """Return the trained defense of a row or of a recipe made from one, on the device of the data."""
        chosen = self.recipes[recipe] if isinstance(recipe, str) else recipe
        run = trained(chosen, self.out, self.splits, seed=self.seed, anew=self.anew, progress=self.progress)
        return load_defense(run.path).to(self.splits.test.images.device)

    def test(self, count: int) -> Sample:
        """Return the first `count` test images, or all if there are fewer."""
        subset = self.splits.test.first(min(count, len(self.splits.test)))
        return Sample(images=subset.floats(), labels=subset.labels, ids=subset.ids)

    def note(self, text: str) -> None:
        """Pass one line to `progress`."""
        if self.progress:
            self.progress.note(text)
        if isinstance(self.progress, FineProgress):
            self.progress.begin(text, 0)
