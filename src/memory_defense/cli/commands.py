"""The commands. Each checks its arguments first and imports what it needs only then."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memory_defense.cli.evaluate_command import evaluate
from memory_defense.cli.harden_command import harden
from memory_defense.cli.options import DataDir, Device, Offline, Seed, Threads
from memory_defense.cli.predict_command import predict
from memory_defense.cli.queueing import app as queue
from memory_defense.cli.train_command import train
from memory_defense.version import __version__

app = typer.Typer(
    name="memdef",
    help="Train Memory Defense and its rivals, attack them, and see what survives.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(queue, name="queue", help="Work that wants a GPU, a few minutes at a time.")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train Memory Defense and its rivals, attack them, and see what survives."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run directory to create.")] = Path("runs/demo"),
    data_dir: DataDir = None,
    offline: Offline = False,
    seed: Seed = 0,
    scale: Annotated[str, typer.Option(help="cpu, or tiny to try the machinery in seconds.")] = "cpu",
) -> None:
    """Train the paper's system and a sound one on Fashion-MNIST, attack both, write a report.

    About a quarter of an hour on two cores. A demo that was stopped goes on where it was.
    """
    from memory_defense.cli.arguments import check_data_dir
    from memory_defense.names import DEMO_SCALES, check_name

    check_name(scale, DEMO_SCALES, "scale")
    check_data_dir(data_dir)

    from memory_defense.cli.actions import run_demo

    run_demo(out, data_dir, offline=offline, seed=seed, scale=scale)


app.command()(train)


app.command()(evaluate)
app.command()(predict)
app.command()(harden)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories or record files.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown instead.")] = False,
    format: Annotated[
        str, typer.Option(help="html, markdown or latex (booktabs); the last two print the tables.")
    ] = "html",
) -> None:
    """Render records as tables and as one HTML page that needs no network."""
    from memory_defense.cli.arguments import record_of
    from memory_defense.names import REPORTS, check_name

    check_name(format, REPORTS, "format")
    if format == "latex" and markdown:
        raise ValueError("--markdown and --format latex: give one of them")
    for path in runs:
        record_of(path)
    if format == "latex":
        from memory_defense.cli.exporting import run_latex

        run_latex(runs)
        return
    from memory_defense.cli.actions import run_report

    run_report(runs, out, markdown=markdown or format == "markdown")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run directory of a trained defense.")],
    format: Annotated[
        str, typer.Option(help="safetensors (one file), onnx (inference elsewhere), or hub-folder (with a card).")
    ] = "safetensors",
    out: Annotated[Path | None, typer.Option(help="File or folder to write; else beside the run.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Write a trained defense as a file or folder that memory_defense.load reads back.

    ONNX needs the extra 'export', and is written only if ONNX Runtime gives the defense's own answers.
    """
    from memory_defense.cli.arguments import check_export

    place = check_export(run, format, out, force=force)

    from memory_defense.cli.exporting import run_export

    run_export(run, format, place, force=force)


@app.command()
def reproduce(
    what: Annotated[
        str, typer.Argument(help="table1, table2, table3, table5, figure3, figure4, timing or anatomy.")
    ],
    out: Annotated[Path, typer.Option(help="Directory of all runs; what is there is used.")] = Path(
        "runs/reproduce"
    ),
    scale: Annotated[str, typer.Option(help="cpu, paper (for a GPU), or tiny to try the machinery.")] = "cpu",
    results: Annotated[
        Path | None,
        typer.Option(help="Where tables and records go; else results/SCALE inside the runs' directory."),
    ] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only this row of a table; may be repeated.")] = None,
    data_dir: DataDir = None,
    offline: Offline = False,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rows of a table made at once, each in a process of its own; by default one for each core of a "
            "processor, and one on a GPU or at scale tiny.",
        ),
    ] = None,
) -> None:
    """Reproduce a table or figure of the paper: train what is missing, attack it, show ours beside its own."""
    from memory_defense.cli.arguments import check_data_dir, check_reproduce
    from memory_defense.cli.machine import Machine

    check_reproduce(what, scale, row or (), processes)
    machine = Machine(device=device, threads=threads)
    check_data_dir(data_dir)

    from memory_defense.cli.reproducing import run_reproduce

    run_reproduce(
        what,
        out,
        machine,
        scale=scale,
        results=results,
        rows=row,
        processes=processes,
        data_dir=data_dir,
        offline=offline,
        seed=seed,
    )


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="fashion-mnist or cifar10.")] = "fashion-mnist",
    data_dir: DataDir = None,
    offline: Offline = False,
) -> None:
    """Find or fetch a dataset, check its hash, and say what it holds and where it came from."""
    from memory_defense.cli.arguments import check_dataset

    check_dataset(name, data_dir)

    from memory_defense.cli.actions import run_data

    run_data(name, data_dir, offline=offline)


@app.command()
def recipes() -> None:
    """List what can be trained."""
    from memory_defense.cli.actions import list_recipes

    list_recipes()


@app.command()
def studio(
    runs: Annotated[Path, typer.Argument(help="Directory below which the runs lie.")] = Path("runs"),
    data_dir: DataDir = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this let other machines in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8765,
    seconds: Annotated[float, typer.Option(help="The longest that one attack may take.")] = 20.0,
    threads: Threads = None,
) -> None:
    """Play with trained defenses on a web page: attack an image and watch what happens inside.

    Needs the extra 'studio'. Nothing is sent anywhere, and no dataset is downloaded.
    """
    from memory_defense.cli.studio_command import run_studio

    run_studio(runs, data_dir, host=host, port=port, seconds=seconds, threads=threads)
