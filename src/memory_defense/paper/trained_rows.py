"""Rows of the tables, trained now or taken from where they are, for what is measured beside the tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memory_defense.checks import nearest
from memory_defense.contracts import Images, Labels, Progress, Rows
from memory_defense.data.images import ImageSet, Splits
from memory_defense.paper.tables import DataSource, at_scale, trained
from memory_defense.recipes.recipe import Recipe
from memory_defense.recipes.rows import rows_of
from memory_defense.recipes.scales import SCALES
from memory_defense.systems.load import load


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Test images on their device."""

    images: Images
    """(N, C, H, W) float32 in [0, 1]."""
    labels: Labels
    ids: Rows
    """(N,) positions in the test set."""


@dataclass(frozen=True, kw_only=True)
class TrainedRows:
    """The rows of one scale on one dataset, under one directory."""

    out: Path
    splits: Splits
    recipes: dict[str, Recipe]
    """By row."""
    seed: int
    progress: Progress | None

    @classmethod
    def of(
        cls,
        out: Path,
        data: DataSource,
        *,
        dataset: str,
        scale: str,
        seed: int,
        progress: Progress | None,
    ) -> TrainedRows:
        """Return the rows; raise ValueError for an unknown dataset or scale."""
        known = {(one.dataset, one.name): one for one in SCALES}
        if dataset not in {name for name, _ in known}:
            raise nearest(dataset, {name for name, _ in known}, "dataset")
        if (dataset, scale) not in known:
            raise nearest(scale, {name for of, name in known if of == dataset}, "scale")
        splits = at_scale(scale, data(dataset))
        recipes = {one.name.rsplit("/", 1)[1]: one for one in rows_of(known[dataset, scale])}
        return cls(out=out, splits=splits, recipes=recipes, seed=seed, progress=progress)

    def defense(self, recipe: Recipe | str) -> Any:
        """Return the trained defense of a row or of a recipe made from one, on the device of the data."""
        chosen = self.recipes[recipe] if isinstance(recipe, str) else recipe
        run = trained(chosen, self.out, self.splits, seed=self.seed, progress=self.progress)
        return load(run.path).to(self.splits.test.images.device)

    def test(self, count: int) -> Sample:
        """Return the first test images, all where there are fewer."""
        subset: ImageSet = self.splits.test.first(min(count, len(self.splits.test)))
        return Sample(images=subset.floats(), labels=subset.labels, ids=subset.ids)

    def note(self, text: str) -> None:
        """Tell how far it is."""
        if self.progress:
            self.progress.note(text)
