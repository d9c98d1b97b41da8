"""The arguments of ``memdef train``; nothing heavy is imported before they are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memory_defense.cli.options import DataDir, Device, Offline, Seed, Threads


def train(
    recipe: Annotated[str, typer.Argument(help="A name that 'memdef recipes' lists.")],
    out: Annotated[Path, typer.Option(help="Run directory to create or continue.")],
    data_dir: DataDir = None,
    offline: Offline = False,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped run.")] = False,
    device: Device = "cpu",
    threads: Threads = None,
    processes: Annotated[
        int,
        typer.Option(min=1, help="Processes that share every batch; for several machines use torchrun."),
    ] = 1,
    train_images: Annotated[
        int | None, typer.Option(min=1, help="Use only the first so many training images (a quick try).")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Train on these images instead: a folder, .npz, .safetensors or a name.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Resize them to this many pixels a side.")] = None,
) -> None:
    """Train every part of a recipe into a run directory."""
    from memory_defense.cli.arguments import check_train
    from memory_defense.cli.machine import Machine

    machine = Machine(device=device, threads=threads, processes=processes)
    check_train(recipe, out, data=data, size=size, data_dir=data_dir, resume=resume)

    from memory_defense.cli.actions import run_train

    status = run_train(
        recipe,
        out,
        data_dir,
        machine,
        offline=offline,
        seed=seed,
        resume=resume,
        limit=train_images,
        data=data,
        size=size,
    )
    if status:
        raise typer.Exit(status)
