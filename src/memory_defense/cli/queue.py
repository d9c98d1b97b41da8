"""``memdef queue list`` and ``memdef queue run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memory_defense.cli.arguments import Offline, Threads, check_data_dir
from memory_defense.cli.machine import Machine
from memory_defense.names import QUEUE, check_name
from memory_defense.outputs import check_folder

UNFINISHED = 75
"""Exit status if there is more to do: EX_TEMPFAIL, try again."""

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")


@app.command("list")
def show() -> None:
    """List the entries, the most valuable first."""
    from rich.console import Console
    from rich.table import Table

    from memory_defense.paper.queue import QUEUE as ENTRIES

    table = Table("name", "what it proves", "minutes", "what comes back", box=None, pad_edge=False)
    for name, one in ENTRIES.items():
        table.add_row(name, one.claim, f"about {one.minutes}", one.back)
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


@app.command("run")
def run(
    name: Annotated[str, typer.Argument(help="A name that 'memdef queue list' gives.")],
    out: Annotated[Path, typer.Option(help="Directory of the runs, to create or continue.")] = Path("runs/queue"),
    minutes: Annotated[
        float, typer.Option(min=0, help="Stop at the first whole step after so many minutes; to be continued.")
    ] = 9.0,
    back: Annotated[
        Path | None, typer.Option(help="Where records and half-precision weights go; else OUT/back.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory with the dataset's files; else they are looked for.")
    ] = None,
    offline: Offline = False,
    device: Annotated[str | None, typer.Option(help="cuda, cuda:1 or cpu; cuda if left out.")] = None,
    threads: Threads = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Every stage at toy size on the CPU, on made-up images.")
    ] = False,
) -> None:
    """Train and evaluate an entry, a piece at a time: give the same command again until it is finished.

    Exit status 75 says that there is more to do, 0 that it is done.
    """
    if tiny and (data_dir is not None or offline):
        raise ValueError("--data-dir and --offline: not with --tiny, whose images are made up")
    if tiny and device not in (None, "cpu"):
        raise ValueError(f"--device {device}: not with --tiny, which is for a processor; leave one of them out")
    check_name(name, QUEUE, "entry of the queue")
    machine = Machine(device="cpu" if tiny else device or "cuda", threads=threads)
    check_data_dir(data_dir)
    kept = back or out / "back"
    for folder in (out, kept):
        check_folder(folder)
    if not tiny and device == "cpu":
        typer.echo("note: this was planned for a GPU; on a processor it takes days", err=True)

    from memory_defense.cli.progress import shown
    from memory_defense.data.images import Splits, load_dataset
    from memory_defense.paper.queue import Deadline, made_up, work

    place = machine.ready()
    with shown() as progress:
        deadline = Deadline(progress, minutes * 60)

        def data(dataset: str) -> Splits:
            if tiny:
                return made_up(dataset, place)
            return load_dataset(
                dataset, data_dir=data_dir, offline=offline, may_update=True, device=place, progress=progress
            )

        done = work(name, out, data, back=kept, deadline=deadline, tiny=tiny)
    if not done:
        typer.echo("not finished: run the same command again", err=True)
        raise typer.Exit(UNFINISHED)
    typer.echo(f"finished: records and weights are in {kept / name}")
