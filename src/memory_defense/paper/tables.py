"""Reproducing the paper's tables: train what is missing, evaluate it, one record for every row.

Everything is kept under one directory. Rows that several tables share are trained and evaluated once; a stopped row
continues where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memory_defense.contracts import Progress
from memory_defense.data.images import Splits
from memory_defense.evaluation.kept import check_still_its_own, read_whole
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.pixels import Pixels
from memory_defense.evaluation.place import state_path
from memory_defense.evaluation.record import Record
from memory_defense.files import write_text
from memory_defense.names import TABLES, check_name
from memory_defense.paper import shipped
from memory_defense.paper.printed.published import PUBLISHED
from memory_defense.paper.row_pool import RowPool
from memory_defense.recipes.recipe import Recipe
from memory_defense.recipes.scales import SCALES, rows_at, table_3_plan
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.load import load_defense
from memory_defense.workflows.assess import assess
from memory_defense.workflows.train import shared_stages, train

DataSource = Callable[[str], Splits]
"""From a dataset's name to its splits, on the device to work on."""


@dataclass(frozen=True)
class ReproducedRow:
    """One row with its record and the record's path."""

    key: str
    record: Record
    path: Path


def reproduce(  # noqa: PLR0913 - all keyword-only but what, where and from what
    table: str,
    out: Path,
    data: DataSource,
    *,
    scale: str = "cpu",
    rows: Sequence[str] | None = None,
    seed: int = 0,
    pool: RowPool | None = None,
    anew: bool = False,
    progress: Progress | None = None,
) -> Mapping[str, tuple[ReproducedRow, ...]]:
    """Train and evaluate every row of a table; return the rows by dataset.

    Parameters
    ----------
    table
        Key of `names.TABLES`, which has its rows; those of ``table3`` are attacked as in Table 3, all others as in
        Tables 1 and 2.
    out
        Directory of all runs; what is there already is used.
    data
        Called for a dataset when it is needed; with a `pool` also in its processes, for which it is pickled.
    scale
        One of `names.SCALES`.
    rows
        Rows to make; all by default.
    seed
        Seed of training and of the attacks.
    pool
        Makes several rows at once; one after the other by default.
    anew
        Train also what comes with the package (`paper.shipped`), which is attacked alone by default.
    progress
        Receives how far the work is.

    Raises
    ------
    ValueError
        For an unknown table, scale or row, or runs in `out` that were made otherwise.
    RowError
        If a process of the pool was killed.
    """
    check_name(table, TABLES, "table")
    check_name(scale, {one.name for one in SCALES}, "scale")
    for row in rows or ():
        check_name(row, TABLES[table], f"row of {table}")
    datasets = [one.dataset for one in PUBLISHED[table]]
    chosen = [row for row in TABLES[table] if rows is None or row in rows]
    found: dict[str, tuple[ReproducedRow, ...]] = {}
    works = [_Row(table, scale, dataset, row, out, seed, anew) for dataset in datasets for row in chosen]
    missing = [work for work in works if not work.is_made()]
    for dataset in {work.dataset for work in missing}:
        prepare_shared(out, at_scale(scale, data(dataset)), seed=seed, anew=anew)
    if pool is not None and len(missing) > 1:
        # Fetched once, before several processes want it.
        counts = {dataset: len(at_scale(scale, data(dataset)).train) for dataset in datasets}
        pool.make([replace(work, train_images=counts[work.dataset]) for work in missing], data, progress)
    for dataset in datasets:
        splits = data(dataset)
        found[dataset] = tuple(work.on(splits, progress) for work in works if work.dataset == dataset)
    return found


@dataclass(frozen=True)
class _Row:
    """One row of one table on one dataset: `row_pool.RowWork`."""

    table: str
    scale: str
    dataset: str
    row: str
    out: Path
    seed: int
    anew: bool
    train_images: int = 0
    """Number of training images; needed by `shares` alone."""

    @property
    def label(self) -> str:
        return self._asked()[0].name

    def is_made(self) -> bool:
        """Return whether the run is finished and has this recipe's record."""
        recipe, record = self._asked()
        run = RunDirectory(self.out / recipe.name)
        return _is_trained(run) and is_made(run.path / f"{record}.json", recipe, self.seed)

    def make(self, data: DataSource, progress: Progress | None) -> ReproducedRow:
        """Make the row from its dataset."""
        return self.on(data(self.dataset), progress)

    def on(self, splits: Splits, progress: Progress | None) -> ReproducedRow:
        """Make the row from these splits, unless it is made."""
        recipe, record = self._asked()
        own = at_scale(self.scale, splits)
        return reproduced_row(
            self.row, recipe, self.out, own, record=record, seed=self.seed, anew=self.anew, progress=progress
        )

    def shares(self) -> set[Path]:
        """Return the files of missing classifiers that other rows may need as well."""
        recipe, _ = self._asked()
        if _is_trained(RunDirectory(self.out / recipe.name)):
            return set()
        where = shared_directory(self.out, self.dataset)
        stages = shared_stages(recipe, where, self.seed, self.train_images)
        return {path for path in stages if not path.is_file()}

    def _asked(self) -> tuple[Recipe, str]:
        """Return the recipe with the plan of its table, and the name of its record."""
        recipe = rows_at(self.scale, self.dataset)[self.row]
        if self.table == "table3":
            return replace(recipe, evaluation=table_3_plan(recipe.evaluation)), "table3"
        return recipe, "record"


def at_scale(scale: str, splits: Splits) -> Splits:
    """Return the splits that a scale trains on; tiny takes a few images."""
    if scale != "tiny":
        return splits
    return replace(splits, train=splits.train.first(200), held_out=splits.held_out.first(100))


def shared_directory(out: Path, dataset: str) -> Path:
    """Return where the runs under `out` keep the classifiers that several of them need."""
    return out / "shared" / dataset


def prepare_shared(out: Path, splits: Splits, *, seed: int, anew: bool) -> None:
    """Put classifiers that come with the package where runs under `out` share theirs; `anew`: take them away."""
    shared = shared_directory(out, splits.spec.name)
    if anew:
        shipped.forget(shared)
    else:
        shipped.lend(shared, splits, seed)


def reproduced_row(
    row: str,
    recipe: Recipe,
    out: Path,
    splits: Splits,
    *,
    record: str,
    seed: int,
    anew: bool = False,
    progress: Progress | None = None,
) -> ReproducedRow:
    """Train and evaluate one row where that is not done yet; `record` names its file inside the run."""
    run = trained(recipe, out, splits, seed=seed, anew=anew, progress=progress)
    place = run.path / f"{record}.json"
    defense = load_defense(run.path).to(splits.test.images.device)
    if is_made(place, recipe, seed):
        found = read_whole(place)
        subset = splits.test.first(min(found.images, len(splits.test)))
        check_still_its_own(found, place, defense, Pixels.of(subset), subset.ids)
        if progress:
            progress.note(f"{place} was finished before, and is taken as it is")
        return ReproducedRow(row, found, place)
    if progress:
        progress.note(f"{recipe.name}: attacks")
    assess(recipe, run, defense, splits, out=place, options=Options(seed=seed, progress=progress))
    return ReproducedRow(row, Record.read(place), place)


def trained(
    recipe: Recipe,
    out: Path,
    splits: Splits,
    *,
    seed: int,
    anew: bool = False,
    progress: Progress | None = None,
) -> RunDirectory:
    """Return the run of a recipe under `out`, taken from the package or trained now where it is not there.

    The evaluation's plan is no part of what was trained: a run is the same whatever it is attacked with.

    Raises ValueError where the run is another's, or `anew` and it was taken from the package.
    """
    run = RunDirectory(out / recipe.name)
    if _is_trained(run):
        run.check_same_training(recipe, seed, len(splits.train), splits.spec.sha256)
        if anew and shipped.was_taken(run):
            raise ValueError(
                f"{run.path} was taken from the package, at least in part, not trained; give --train another "
                "directory (--out)"
            )
        if progress:
            progress.note(f"{run.path} was trained before")
        return run
    if not anew and not run.manifest_path.is_file() and shipped.take(recipe, run, splits, seed):
        if progress:
            progress.note(f"{recipe.name} comes with the package and is only attacked; --train trains it again")
        return run
    return train(
        recipe,
        run.path,
        splits,
        seed=seed,
        resume=True,
        shared=shared_directory(out, recipe.model.dataset),
        progress=progress,
    )


def _is_trained(run: RunDirectory) -> bool:
    return run.manifest_path.is_file() and bool(run.read().get("complete"))


def is_made(place: Path, recipe: Recipe, seed: int) -> bool:
    """Return whether a record is there and was made by this very recipe with this seed."""
    if not place.is_file() or state_path(place).is_file():  # with a state its writing was stopped half-way
        return False
    made_by = Record.read(place).provenance
    return (made_by.recipe_sha256, made_by.seed) == (recipe.sha256, seed)


def keep_results(rows: Mapping[str, tuple[ReproducedRow, ...]], directory: Path) -> None:
    """Copy the records of a table to `directory`, as ``dataset/row.json``."""
    for dataset, made in rows.items():
        for row in made:
            write_text(directory / dataset / f"{row.key}.json", row.path.read_text(encoding="utf-8"))
