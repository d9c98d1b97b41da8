"""``memdef train``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from memory_defense.cli.arguments import DataDir, Device, Offline, Seed, Size, Threads, check_data_dir, check_source
from memory_defense.cli.machine import LAUNCHED, Machine, joined
from memory_defense.names import RECIPES, check_adaptable, check_name


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
        typer.Option(min=1, help="Number of processes that share every batch; for several machines use torchrun."),
    ] = 1,
    train_images: Annotated[
        int | None, typer.Option(min=1, help="Use only the first training images, for a quick test.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Train on other images: a folder, a .npz or .safetensors file, or a dataset.")
    ] = None,
    size: Size = None,
) -> None:
    """Train a recipe and write the result into a run directory."""
    machine = Machine(device=device, threads=threads, processes=processes)
    _check(recipe, out, data=data, size=size, data_dir=data_dir, resume=resume)

    from memory_defense.cli.progress import shown
    from memory_defense.data.images import load_dataset
    from memory_defense.data.limits import TYPED, Limits
    from memory_defense.data.own import load_splits
    from memory_defense.data.spec import DATASETS
    from memory_defense.recipes.adapt import adapt
    from memory_defense.recipes.registry import recipe as recipe_named
    from memory_defense.run_directory import RunDirectory
    from memory_defense.workflows.run_images import images_from, keep_images_from, kept_classes
    from memory_defense.workflows.train import train as train_recipe

    chosen = recipe_named(recipe)
    place = machine.ready()
    machine.launch()
    with joined(place) as speaks, shown(silent=not speaks) as progress:
        if data is None:
            splits = load_dataset(
                chosen.model.dataset,
                data_dir=data_dir,
                offline=offline,
                may_update=True,
                device=place,
                progress=progress,
            )
        else:
            known = data_dir if data in DATASETS else None
            splits = load_splits(
                data,
                size=size,
                classes=kept_classes(RunDirectory(out), data),
                device=place,
                limits=Limits(words=replace(TYPED, images="")),
                data_dir=known,
                offline=offline,
                may_update=True,
                progress=progress,
            )
        if train_images is not None:
            splits = replace(splits, train=splits.train.first(train_images))
        if data is not None:
            chosen = adapt(chosen, splits.spec, train_images=len(splits.train))
        run = train_recipe(chosen, out, splits, seed=seed, resume=resume, progress=progress)
        if data is not None and speaks:
            keep_images_from(run, images_from(data, size, splits.spec, splits.notes))
    if speaks:
        typer.echo(f"trained: {run.weights}\nnext: memdef evaluate {out}")


def _check(
    recipe: str, out: Path, *, data: str | None, size: int | None, data_dir: Path | None, resume: bool
) -> None:
    """Raise ValueError for arguments that exclude each other or name nothing."""
    from memory_defense.data.places import check_trained_size
    from memory_defense.run_directory import RunDirectory

    check_name(recipe, RECIPES, "recipe")
    if size is not None and data is None:
        raise ValueError("--size: only together with --data; a recipe's own images keep their size")
    if data is None:
        check_data_dir(data_dir)
    else:
        check_trained_size(data, size)
        check_source(data, data_dir)
        check_adaptable(recipe, RECIPES[recipe])
    if LAUNCHED not in os.environ:  # of several processes the first may have begun the run already
        RunDirectory(out).check_new(resume=resume, images=None if data is None else Path(data))
