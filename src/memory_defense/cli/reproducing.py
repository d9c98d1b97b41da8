"""What ``memdef reproduce`` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from memory_defense.cli.machine import Machine
from memory_defense.cli.progress import shown
from memory_defense.cli.shared import DataPlace, wide_console
from memory_defense.paper.printed.published import PUBLISHED, PublishedTable
from memory_defense.paper.printed.reproduced import Reproduced, reproduced, terminal, write_reproduced
from memory_defense.paper.row_pool import RowPool
from memory_defense.paper.tables import ReproducedRow, keep_results, reproduce
from memory_defense.paper.trained_rows import TrainedRows

Figure = tuple[Callable[[TrainedRows], Any], Callable[[Any, Path], list[Path]]]


def run_reproduce(
    what: str,
    out: Path,
    machine: Machine,
    *,
    scale: str,
    results: Path | None,
    rows: Sequence[str] | None,
    processes: int | None,
    data_dir: Path | None,
    offline: bool,
    seed: int,
) -> None:
    """Reproduce one table or figure, write it with its records beside it, and print a table.

    Without a number of `processes`, a table takes one for each core of a processor; a tiny one, and one on a GPU,
    is made row by row.
    """
    device = machine.ready()
    place = results or out / "results" / scale
    with shown() as progress:
        data = DataPlace(data_dir=data_dir, offline=offline, device=device, progress=progress)
        if what in FIGURES:
            make, write = FIGURES[what]()
            found = TrainedRows(out=out, data=data, scale=scale, seed=seed, progress=progress)
            written = write(make(found), place / what)
            tables: list[Reproduced] = []
        else:
            alone = device.type != "cpu" or scale == "tiny"
            count = processes or (1 if alone else machine.at_once())
            pool = RowPool(processes=count, threads=machine.share(count)) if count > 1 else None
            made = reproduce(
                what, out, data, scale=scale, rows=rows or None, seed=seed, pool=pool, progress=progress
            )
            keep_results(made, place / what)
            tables = [_beside_published(what, table, made[table.dataset], scale) for table in PUBLISHED[what]]
            written = [*write_reproduced(tables, place, what), place / what]
    for table in tables:
        drawn, console = terminal(table), wide_console()
        console.width = max(
            console.width, console.measure(drawn, options=console.options.update(width=500)).maximum
        )
        console.print(drawn)
    Console().print("written: " + ", ".join(map(str, written)), highlight=False, soft_wrap=True)


def _beside_published(what: str, table: PublishedTable, rows: Sequence[ReproducedRow], scale: str) -> Reproduced:
    records = [(row.key, row.record, f"{what}/{table.dataset}/{row.key}.json") for row in rows]
    return reproduced(table, records, scale=scale)


def _figure3() -> Figure:
    from memory_defense.paper.figure3 import reproduce_figure3
    from memory_defense.paper.printed.figure3 import write_figure3

    return reproduce_figure3, write_figure3


def _figure4() -> Figure:
    from memory_defense.paper.figure4 import reproduce_figure4
    from memory_defense.paper.printed.figure4 import write_figure4

    return reproduce_figure4, write_figure4


def _timing() -> Figure:
    from memory_defense.paper.printed.timing import write_timing
    from memory_defense.paper.timing import reproduce_timing

    return reproduce_timing, write_timing


def _anatomy() -> Figure:
    from memory_defense.paper.anatomy import reproduce_anatomy
    from memory_defense.paper.printed.anatomy import write_anatomy

    return reproduce_anatomy, write_anatomy


FIGURES: dict[str, Callable[[], Figure]] = {
    "figure3": _figure3,
    "figure4": _figure4,
    "timing": _timing,
    "anatomy": _anatomy,
}
"""What is no table of systems: how it is measured, and how it is written."""
