"""``memdef queue list``, ``smoke``, ``run`` and ``unpack``."""

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
        Path | None,
        typer.Option(help="Also write what is kept there, in at most 8 flat files of at most 15 MiB, to unpack."),
    ] = None,
    earlier: Annotated[
        Path | None,
        typer.Option("--from", help="What came back of the entry that this one attacks, unpacked; else OUT/back."),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory with the dataset's files; else they are looked for.")
    ] = None,
    offline: Offline = False,
    device: Annotated[
        str | None, typer.Option(help="cuda, cuda:1 or cpu; if left out, cuda, or cpu with --tiny.")
    ] = None,
    threads: Threads = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="Every stage at toy size, on made-up images.")] = False,
) -> None:
    """Train and evaluate an entry whole; what is stopped goes on with the same command.

    Exit status 75 says that there is more to do, 0 that it is done.
    """
    if tiny and (data_dir is not None or offline):
        raise ValueError("--data-dir and --offline: not with --tiny, whose images are made up")
    check_name(name, QUEUE, "entry of the queue")
    machine = Machine(device=device or ("cpu" if tiny else "cuda"), threads=threads)
    check_data_dir(data_dir)
    kept = out / "back"
    for folder in (out, *([] if back is None else [back])):
        check_folder(folder)
    if not tiny and device == "cpu":
        typer.echo("note: this was planned for a GPU; on a processor it takes days", err=True)

    from memory_defense.cli.progress import shown
    from memory_defense.data.images import Splits, load_dataset
    from memory_defense.paper.queue import Deadline, made_up, work
    from memory_defense.paper.queue_parts import write_parts

    place = machine.ready()
    with shown() as progress:
        deadline = Deadline(progress, minutes * 60)

        def data(dataset: str) -> Splits:
            if tiny:
                return made_up(dataset, place)
            return load_dataset(
                dataset, data_dir=data_dir, offline=offline, may_update=True, device=place, progress=progress
            )

        def returns() -> None:
            if back is not None:  # at once, so that what is finished comes back whatever becomes of the rest
                write_parts(kept / name, back)

        done = work(name, out, data, back=kept, deadline=deadline, tiny=tiny, earlier=earlier, kept=returns)
    if not done:
        typer.echo("not finished: run the same command again", err=True)
        raise typer.Exit(UNFINISHED)
    typer.echo(f"finished: records and weights are in {kept / name}")


@app.command("smoke")
def smoke(
    out: Annotated[Path, typer.Option(help="Directory to work in.")] = Path("runs/queue-smoke"),
    device: Annotated[str, typer.Option(help="cuda, cuda:1, or cpu, which is tried at toy size.")] = "cuda",
    threads: Threads = None,
) -> None:
    """Try a machine in about a minute before it trains anything: seven steps, and the first that fails ends it."""
    machine = Machine(device=device, threads=threads)
    check_folder(out)
    from memory_defense.paper.queue_smoke import Smoke

    place = machine.ready()
    Smoke(place, out, toy=place.type == "cpu").run(typer.echo)


@app.command("unpack")
def unpack(
    parts: Annotated[Path, typer.Argument(help="Directory with what came back, NAME-1-of-n.part.")],
    into: Annotated[Path, typer.Option(help="Where it is put together, a directory for each entry.")] = Path(
        "weights"
    ),
) -> None:
    """Put together what `memdef queue run --back` wrote: records, manifests and half-precision weights."""
    check_folder(into)
    from memory_defense.paper.queue_parts import read_parts

    for name in read_parts(parts, into):
        typer.echo(f"{into / name}")
