"""The commands. Each checks its arguments first and imports what it needs only then."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import memory_defense

app = typer.Typer(
    name="memdef",
    help="Train Memory Defense and its rivals, attack them, and see what survives.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

DataDir = Annotated[
    Path | None,
    typer.Option(envvar="MEMDEF_DATA", help="Directory with the dataset's files; else they are looked for."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Use only what is on this machine already.")]
Seed = Annotated[int, typer.Option(min=0, help="Of every random draw.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads; torch decides if left out.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(memory_defense.__version__)
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
    from memory_defense.cli.actions import run_demo

    run_demo(out, data_dir, offline=offline, seed=seed, scale=scale)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A name that 'memdef recipes' lists.")],
    out: Annotated[Path, typer.Option(help="Run directory to create or continue.")],
    data_dir: DataDir = None,
    offline: Offline = False,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped run.")] = False,
    device: Device = "cpu",
    threads: Threads = None,
    train_images: Annotated[
        int | None, typer.Option(min=1, help="Use only the first so many training images (a quick try).")
    ] = None,
) -> None:
    """Train every part of a recipe into a run directory."""
    from memory_defense.cli.actions import run_train
    from memory_defense.cli.machine import Machine

    machine = Machine(device=device, threads=threads)
    run_train(recipe, out, data_dir, machine, offline=offline, seed=seed, resume=resume, limit=train_images)


@app.command()
def evaluate(
    target: Annotated[
        str, typer.Argument(help="Run directory of a trained defense, or package.module:build for your classifier.")
    ],
    data_dir: DataDir = None,
    offline: Offline = False,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    processes: Annotated[
        int,
        typer.Option(min=1, help="Processes that share the images; for several machines use torchrun."),
    ] = 1,
    images: Annotated[int | None, typer.Option(min=1, help="Test images; all, or the recipe's number.")] = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            help="fast, standard (autoattack), rand, or attacks joined by commas; of a run also those of its plan."
        ),
    ] = None,
    knowledge: Annotated[list[str] | None, typer.Option(help="Only these surrogates; may be repeated.")] = None,
    epsilon: Annotated[
        list[str] | None,
        typer.Option(help="Radii, such as 8/255 or 0.1; may be repeated. Of a run, L-inf."),
    ] = None,
    norm: Annotated[str | None, typer.Option(help="linf or l2, for a classifier of your own.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images for your own classifier: a folder test/CLASS/FILE, .npz, .safetensors or a name."
        ),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Resize your images to this many pixels a side.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Your classifier's .safetensors file.")] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="Images beside an earlier record, tried first: yours, or another model's.")
    ] = None,
    submissions: Annotated[
        int, typer.Option(min=1, help="How often an image is handed in; one wrong answer breaks it.")
    ] = 1,
    batch: Annotated[int | None, typer.Option(min=1, help="Images in one pass; else the fastest is found.")] = None,
    bfloat16: Annotated[
        bool,
        typer.Option(
            "--bfloat16", help="Compute gradients in bfloat16: faster where the chip has it, may find less."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the record; else the run's record.json (partial.json when something is left out), "
            "or record.json here."
        ),
    ] = None,
) -> None:
    """Attack a defense, or any classifier, until nothing is left to try, and write the record.

    What was stopped goes on where it was, when the same command is given again.
    """
    from memory_defense.cli.evaluating import Manner, Own, Selection, run_evaluate
    from memory_defense.cli.machine import Machine

    status = run_evaluate(
        target,
        Selection(images=images, attacks=attacks, knowledge=knowledge, epsilons=epsilon),
        Own(data=data, weights=weights, size=size, norm=norm, start_from=start_from),
        Manner(
            machine=Machine(device=device, threads=threads, processes=processes),
            seed=seed,
            submissions=submissions,
            batch=batch,
            bfloat16=bfloat16,
            data_dir=data_dir,
            offline=offline,
        ),
        out,
    )
    if status:
        raise typer.Exit(status)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories or record files.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown instead.")] = False,
) -> None:
    """Render records as tables and as one HTML page that needs no network."""
    from memory_defense.cli.actions import run_report

    run_report(runs, out, markdown=markdown)


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="fashion-mnist or cifar10.")] = "fashion-mnist",
    data_dir: DataDir = None,
    offline: Offline = False,
) -> None:
    """Find or fetch a dataset, check its hash, and say what it holds and where it came from."""
    from memory_defense.cli.actions import run_data

    run_data(name, data_dir, offline=offline)


@app.command()
def recipes() -> None:
    """List what can be trained."""
    from memory_defense.cli.actions import list_recipes

    list_recipes()
