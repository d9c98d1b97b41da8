"""Reproducing the paper's tables: train what is missing, evaluate it, one record for every row.

Everything lies under one directory. Rows that several tables share are trained and evaluated once; what was stopped
goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memory_defense.checks import nearest
from memory_defense.contracts import Progress
from memory_defense.data.images import Splits
from memory_defense.evaluation.record import Record
from memory_defense.files import write_text
from memory_defense.recipes.assess import assess
from memory_defense.recipes.load import load
from memory_defense.recipes.pipeline import train
from memory_defense.recipes.recipe import Recipe
from memory_defense.recipes.rivals import rows_of
from memory_defense.recipes.run_directory import RunDirectory
from memory_defense.recipes.scales import SCALES, table_3_plan

DataSource = Callable[[str], Splits]
"""From a dataset's name to its splits, on the device to work on."""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Which rows one table has."""

    datasets: tuple[str, ...]
    rows: tuple[str, ...]
    """Last parts of the recipes' names: the paper's rows in its order, then systems it should have been compared
    with."""
    own_plan: bool = False
    """Whether its attacks are Table 3's; else those of Tables 1 and 2."""


REPRODUCTIONS: dict[str, Reproduction] = {
    "table1": Reproduction(
        datasets=("fashion-mnist",),
        rows=(
            "resnet-benign",
            "pixeldefend",
            "comdefend",
            "resnet-offline",
            "memory-defense",
            "magnet",
            "resnet-online",
            "memory-defense-sound",
        ),
    ),
    "table2": Reproduction(
        datasets=("cifar10",),
        rows=(
            "resnet-benign",
            "pixeldefend",
            "comdefend",
            "resnet-offline",
            "memory-defense",
            "resnet-online",
            "memory-defense-sound",
        ),
    ),
    "table3": Reproduction(
        datasets=("fashion-mnist", "cifar10"),
        rows=("defense-vae-rec", "defense-vae-e2e", "memory-defense"),
        own_plan=True,
    ),
    "table5": Reproduction(
        datasets=("fashion-mnist",),
        rows=("target-classifier", "autoencoder", "resnet-offline", "memory-defense", "memae", "resnet-online"),
    ),
}


@dataclass(frozen=True)
class ReproducedRow:
    """One row and where its record lies."""

    key: str
    record: Record
    path: Path


def scale_names() -> tuple[str, ...]:
    """Return the scales that exist."""
    return tuple(dict.fromkeys(scale.name for scale in SCALES))


def reproduce(
    table: str,
    out: Path,
    data: DataSource,
    *,
    scale: str = "cpu",
    rows: Sequence[str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Mapping[str, tuple[ReproducedRow, ...]]:
    """Train and evaluate every row of a table; return the rows by dataset.

    Parameters
    ----------
    table
        Key of `REPRODUCTIONS`.
    out
        Directory of all runs; what is there already is used.
    data
        Asked for a dataset when it is needed.
    scale
        One of `scale_names`.
    rows
        Only these rows; all by default.
    seed
        Of training and of the attacks.
    progress
        Told how far it is.

    Raises
    ------
    ValueError
        For an unknown table, scale or row, or runs in `out` that were made otherwise.
    """
    if table not in REPRODUCTIONS:
        raise nearest(table, REPRODUCTIONS, "table")
    if scale not in scale_names():
        raise nearest(scale, scale_names(), "scale")
    wanted = REPRODUCTIONS[table]
    for row in rows or ():
        if row not in wanted.rows:
            raise nearest(row, wanted.rows, f"row of {table}")
    chosen = [row for row in wanted.rows if rows is None or row in rows]
    found: dict[str, tuple[ReproducedRow, ...]] = {}
    for dataset in wanted.datasets:
        recipes = _recipes(scale, dataset)
        splits = data(dataset)
        if scale == "tiny":
            splits = replace(splits, train=splits.train.first(200), held_out=splits.held_out.first(100))
        made: list[ReproducedRow] = []
        for row in chosen:
            recipe, name = recipes[row], "record"
            if wanted.own_plan:
                recipe, name = replace(recipe, evaluation=table_3_plan(recipe.evaluation)), "table3"
            made.append(reproduced_row(row, recipe, out, splits, record=name, seed=seed, progress=progress))
        found[dataset] = tuple(made)
    return found


def _recipes(scale: str, dataset: str) -> dict[str, Recipe]:
    """Return the recipes of a scale on a dataset by row."""
    for one in SCALES:
        if (one.name, one.dataset) == (scale, dataset):
            return {recipe.name.rsplit("/", 1)[1]: recipe for recipe in rows_of(one)}
    raise ValueError(f"there is no scale {scale} on {dataset}")


def reproduced_row(
    row: str,
    recipe: Recipe,
    out: Path,
    splits: Splits,
    *,
    record: str,
    seed: int,
    progress: Progress | None = None,
) -> ReproducedRow:
    """Train and evaluate one row where that is not done yet; `record` names its file inside the run."""
    run = trained(recipe, out, splits, seed=seed, progress=progress)
    place = run.path / f"{record}.json"
    if place.is_file() and _made_by(place) == recipe.sha256:
        return ReproducedRow(row, Record.read(place), place)
    if progress:
        progress.note(f"{recipe.name}: attacks")
    defense = load(run.path).to(splits.test.images.device)
    assess(recipe, run, defense, splits, seed=seed, out=place, progress=progress)
    return ReproducedRow(row, Record.read(place), place)


def trained(
    recipe: Recipe, out: Path, splits: Splits, *, seed: int, progress: Progress | None = None
) -> RunDirectory:
    """Return the run of a recipe under `out`, trained now where it is not.

    The evaluation's plan is no part of what was trained: a run is the same whatever it is attacked with.
    """
    run = RunDirectory(out / recipe.name)
    if run.manifest_path.is_file() and run.read().get("complete"):
        return run
    return train(
        recipe,
        run.path,
        splits,
        seed=seed,
        resume=True,
        shared=out / "shared" / recipe.model.dataset,
        progress=progress,
    )


def _made_by(place: Path) -> str:
    return str(json.loads(place.read_text(encoding="utf-8")).get("provenance", {}).get("recipe_sha256", ""))


def keep_results(rows: Mapping[str, tuple[ReproducedRow, ...]], directory: Path) -> None:
    """Copy the records of a table to `directory`, as ``dataset/row.json``."""
    for dataset, made in rows.items():
        for row in made:
            write_text(directory / dataset / f"{row.key}.json", row.path.read_text(encoding="utf-8"))
