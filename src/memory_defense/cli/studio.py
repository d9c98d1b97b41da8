"""``memdef studio``."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memory_defense.cli.arguments import (
    OwnArguments,
    RandomWeights,
    Threads,
    check_data_dir,
    with_options,
)
from memory_defense.cli.own_options import OwnOptions
from memory_defense.cli.stopping import wish
from memory_defense.names import check_seconds
from memory_defense.zoo import ROOT

if TYPE_CHECKING:
    from memory_defense.studio.library import OwnModel

PATIENCE_SECONDS = 3.0
"""Time for the last computation to notice that nobody waits for it."""


@dataclass(frozen=True, kw_only=True)
class StudioArguments(OwnArguments):
    """Every argument and option, as typed by the user."""

    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Directories with runs or records; if left out, ./runs, and the records in the current directory. "
            "One may name a classifier of yours: package.module:build, hf:DIR, onnx:FILE, FILE.pt2 or an export."
        ),
    ] = None
    images: Annotated[int | None, typer.Option(min=1, help="Test images of --data; all if left out.")] = None
    random_weights: RandomWeights = False
    host: Annotated[
        str, typer.Option(help="Address to listen on; any other than 127.0.0.1 lets other machines use the studio.")
    ] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")] = 8765
    seconds: Annotated[float, typer.Option(help="Time limit of one attack, in seconds.")] = 20.0
    threads: Threads = None


@with_options(StudioArguments)
def studio(options: StudioArguments) -> None:
    """Open a web page on this machine to attack images of trained defenses and see how the defenses answer.

    The page shows the models that come with the package, and the runs and records in the given directories. A
    classifier of your own is opened with --data, as 'memdef evaluate' does. The studio needs the extra 'studio'.
    It sends nothing to other machines.
    """
    try:
        import fastapi
        import uvicorn
    except ImportError as error:
        raise ValueError(
            f"the studio needs {error.name}, which is not installed: pip install 'memory-defense[studio]'"
        ) from error
    del fastapi, uvicorn
    folders, target = _sorted_out(options.folders or [])
    own = OwnOptions.of(options, target=target or "")
    if target:
        own.check()
    else:
        _refuse(own)
    given = folders or [one for one in (Path("runs"),) if one.is_dir()]
    for runs in given:
        if not runs.is_dir():
            raise ValueError(f"{runs} is not a directory; give one that holds runs, or make one with 'memdef demo'")
    check_seconds(options.seconds)
    check_data_dir(options.data_dir)

    import torch

    from memory_defense.studio.server import StudioOptions, serve
    from memory_defense.studio.tickets import THREAD

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    opened = _opened(own, options.images) if target else None
    settings = StudioOptions(
        runs=given,
        shipped=ROOT,
        flat=None if folders else Path(),
        host=options.host,
        port=options.port,
        data_dir=options.data_dir,
        seconds=options.seconds,
        own=opened,
    )
    if not settings.local_only:
        typer.echo("the studio has no login: anyone who reaches this address can use it")

    others = set(threading.enumerate())

    def give_up_computing() -> None:
        """End the process where a pass of a large network keeps the worker: every page has its answer already."""
        until = time.monotonic() + PATIENCE_SECONDS
        mine = [one for one in threading.enumerate() if one.name.startswith(THREAD) and one not in others]
        for thread in mine:
            thread.join(max(0.0, until - time.monotonic()))
        if wish.number is not None and any(one.is_alive() for one in mine):
            typer.echo("stopped; a computation was given up", err=True)
            sys.stdout.flush()
            os._exit(128 + wish.number)

    try:
        serve(settings, lambda address: typer.echo(f"studio: {address} (Ctrl-C stops it)"))
    finally:
        give_up_computing()


def _sorted_out(given: list[Path]) -> tuple[list[Path], str | None]:
    """Return the folders among what was given, and the classifier; raise ValueError for a second one."""
    from memory_defense.cli.evaluate_checks import is_classifier

    targets = [str(one) for one in given if is_classifier(str(one))]
    if len(targets) > 1:
        raise ValueError(
            f"{' and '.join(targets)}: one classifier at a time, for its options are its own; start another studio "
            "with another --port"
        )
    return [one for one in given if str(one) not in targets], targets[0] if targets else None


def _refuse(own: OwnOptions) -> None:
    """Raise ValueError for options that only a classifier has a use for."""
    if only := own.given("data"):
        raise ValueError(
            f"{', '.join(only)}: only with a classifier; name one, such as package.module:build or hf:DIR, beside "
            "the folders"
        )


def _opened(own: OwnOptions, images: int | None) -> OwnModel:
    """Return a classifier of the user's, and its images, for the studio."""
    import torch

    from memory_defense.cli.progress import shown
    from memory_defense.studio.library import OwnModel, Shape
    from memory_defense.workflows.evaluate import as_defense

    with shown() as progress:
        found = own.load(torch.device("cpu"), progress, images=images)
    height, width = found.images.images.shape[2:]
    shape = Shape(
        found.dataset,
        found.images.images.shape[1],
        height if height == width else (height, width),
        found.classes,
        own.framing(found.loaded),
    )
    return OwnModel(own.target, as_defense(found.model), shape, found.images)
