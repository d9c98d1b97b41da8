"""``memdef reproduce``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memory_defense.cli.arguments import DataDir, Device, Offline, Seed, Threads, check_data_dir
from memory_defense.cli.machine import Machine
from memory_defense.names import FIGURES, SCALES, TABLES, check_name
from memory_defense.outputs import check_folder, contents, replaced

if TYPE_CHECKING:
    import torch

    from memory_defense.contracts import Progress
    from memory_defense.data.images import Splits


def reproduce(
    what: Annotated[
        str, typer.Argument(help="table1, table2, table3, table5, figure3, figure4, timing or anatomy.")
    ],
    out: Annotated[Path, typer.Option(help="Directory of all runs; finished runs in it are used.")] = Path(
        "runs/reproduce"
    ),
    scale: Annotated[
        str,
        typer.Option(help="cpu (minutes on two cores), desk (hours), rental or paper (a GPU), tiny (a test run)."),
    ] = "cpu",
    results: Annotated[
        Path | None,
        typer.Option(
            help="Directory for tables and records; if left out, results/SCALE in the directory of the runs."
        ),
    ] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only this row of a table; may be repeated.")] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Also train the rows that come with the package (memdef zoo).")
    ] = False,
    data_dir: DataDir = None,
    offline: Offline = False,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rows of a table made at once, each in its own process; by default one for each core of a "
            "processor, and one on a GPU or at scale tiny.",
        ),
    ] = None,
) -> None:
    """Reproduce a table or figure of the paper: train what is missing, attack it, show ours beside its own."""
    check_name(what, [*TABLES, *FIGURES], "table or figure")
    if what in FIGURES and row:
        raise ValueError(f"{what} has no rows to choose from; leave out --row")
    if what in FIGURES and processes is not None:
        raise ValueError(f"{what} has no rows to make at once; leave out --processes")
    check_name(scale, SCALES, "scale")
    for one in row or ():
        check_name(one, TABLES[what], f"row of {what}")
    machine = Machine(device=device, threads=threads)
    check_data_dir(data_dir)
    place = results or out / "results" / scale
    for folder in (out, place):
        check_folder(folder)

    from memory_defense.cli.progress import shown
    from memory_defense.cli.shared import wide_console
    from memory_defense.paper.printed.published import PUBLISHED
    from memory_defense.paper.printed.reproduced import Reproduced, reproduced, terminal, write_reproduced
    from memory_defense.paper.row_pool import RowPool
    from memory_defense.paper.tables import keep_results
    from memory_defense.paper.tables import reproduce as make_rows
    from memory_defense.paper.trained_rows import TrainedRows

    tables: list[Reproduced] = []
    computed_on, before = machine.ready(), contents(place)
    with shown() as progress:
        data = DatasetFinder(data_dir=data_dir, offline=offline, device=computed_on, progress=progress)
        if what in FIGURES:
            make, write = figures()[what]
            rows = TrainedRows(out=out, data=data, scale=scale, seed=seed, anew=train, progress=progress)
            written = write(make(rows), place / what)
        else:
            alone = computed_on.type != "cpu" or scale == "tiny"
            count = processes or (1 if alone else machine.at_once())
            pool = RowPool(processes=count, threads=machine.share(count)) if count > 1 else None
            made = make_rows(
                what,
                out,
                data,
                scale=scale,
                rows=row or None,
                seed=seed,
                pool=pool,
                anew=train,
                progress=progress,
            )
            keep_results(made, place / what)
            tables = [
                reproduced(
                    table,
                    [
                        (one.key, one.record, f"{what}/{table.dataset}/{one.key}.json")
                        for one in made[table.dataset]
                    ],
                    scale=scale,
                )
                for table in PUBLISHED[what]
            ]
            written = [*write_reproduced(tables, place, what), place / what]
    for table in tables:
        drawn, console = terminal(table), wide_console()
        console.width = max(
            console.width, console.measure(drawn, options=console.options.update(width=500)).maximum
        )
        console.print(drawn)
    for path in replaced(before, place):
        typer.echo(f"replaced: {path}, which held something else")
    typer.echo("written: " + ", ".join(map(str, written)))


def figures() -> dict[str, tuple[Callable[..., Any], Callable[[Any, Path], list[Path]]]]:
    """Return what is not a table: the function that measures it, and the one that writes it."""
    from memory_defense.paper.anatomy import reproduce_anatomy
    from memory_defense.paper.figure3 import reproduce_figure3
    from memory_defense.paper.figure4 import reproduce_figure4
    from memory_defense.paper.printed.anatomy import write_anatomy
    from memory_defense.paper.printed.figure3 import write_figure3
    from memory_defense.paper.printed.figure4 import write_figure4
    from memory_defense.paper.printed.timing import write_timing
    from memory_defense.paper.timing import reproduce_timing

    return {
        "figure3": (reproduce_figure3, write_figure3),
        "figure4": (reproduce_figure4, write_figure4),
        "timing": (reproduce_timing, write_timing),
        "anatomy": (reproduce_anatomy, write_anatomy),
    }


@dataclass(frozen=True, kw_only=True)
class DatasetFinder:
    """Loads datasets by name, also in other processes; these show no progress."""

    data_dir: Path | None
    offline: bool
    device: torch.device
    progress: Progress | None = None

    def __call__(self, name: str) -> Splits:
        """Return a dataset on the device."""
        from memory_defense.data.images import load_dataset

        return load_dataset(
            name,
            data_dir=self.data_dir,
            offline=self.offline,
            may_update=True,
            device=self.device,
            progress=self.progress,
        )

    def __getstate__(self) -> dict[str, object]:
        """Leave the display behind when pickled."""
        return {**self.__dict__, "progress": None}
