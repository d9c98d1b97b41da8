"""What ``memdef reproduce`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from memory_defense.checks import nearest
from memory_defense.cli.machine import Machine
from memory_defense.cli.progress import shown
from memory_defense.cli.shared import find_data, wide_console
from memory_defense.data.images import Splits
from memory_defense.recipes.reproduction import REPRODUCTIONS, keep_results, reproduce, scale_names
from memory_defense.reporting.published import PUBLISHED
from memory_defense.reporting.reproduced import reproduced, terminal, write_reproduced


def run_reproduce(
    what: str,
    out: Path,
    machine: Machine,
    *,
    scale: str,
    results: Path | None,
    rows: Sequence[str] | None,
    data_dir: Path | None,
    offline: bool,
    seed: int,
) -> None:
    """Reproduce one table; write it as Markdown and HTML with its records beside it, and print it."""
    if what not in REPRODUCTIONS:
        raise nearest(what, REPRODUCTIONS, "table or figure")
    if scale not in scale_names():
        raise nearest(scale, scale_names(), "scale")
    device = machine.ready()
    place = results or out / "results" / scale
    with shown() as progress:

        def data(name: str) -> Splits:
            return find_data(name, data_dir, offline=offline, device=device, progress=progress)

        made = reproduce(what, out, data, scale=scale, rows=rows or None, seed=seed, progress=progress)
    directory = place / what
    keep_results(made, directory)
    tables = [
        reproduced(
            table,
            [(row.key, row.record, f"{what}/{table.dataset}/{row.key}.json") for row in made[table.dataset]],
            scale=scale,
        )
        for table in PUBLISHED[what]
    ]
    text, html = write_reproduced(tables, place, what)
    for table in tables:
        wide_console().print(terminal(table))
    Console().print(f"table: {text}, {html}\nrecords: {directory}", highlight=False, soft_wrap=True)
