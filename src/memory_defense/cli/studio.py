"""``memdef studio``."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from memory_defense.cli.arguments import DataDir, Threads, check_data_dir
from memory_defense.cli.stopping import wish
from memory_defense.names import check_seconds
from memory_defense.zoo import ROOT

PATIENCE_SECONDS = 3.0
"""Time for the last computation to notice that nobody waits for it."""


def studio(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Directories with runs or records; by default runs, if there is one, and the records right here."
        ),
    ] = None,
    data_dir: DataDir = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this let other machines in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8765,
    seconds: Annotated[float, typer.Option(help="The longest that one attack may take.")] = 20.0,
    threads: Threads = None,
) -> None:
    """Play with trained defenses on a web page: attack an image and watch what happens inside.

    What comes with the package is always there, and so are the records of your own classifiers in the directories
    given. Needs the extra 'studio'. Nothing is sent anywhere, and no dataset is downloaded.
    """
    try:
        import fastapi
        import uvicorn
    except ImportError as error:
        raise ValueError(
            f"the studio needs {error.name}, which is not installed: pip install 'memory-defense[studio]'"
        ) from error
    del fastapi, uvicorn
    given = folders or [one for one in (Path("runs"),) if one.is_dir()]
    for runs in given:
        if not runs.is_dir():
            raise ValueError(f"{runs} is no directory; give one that holds runs, or make one with 'memdef demo'")
    check_seconds(seconds)
    check_data_dir(data_dir)

    import torch

    from memory_defense.studio.server import StudioOptions, serve
    from memory_defense.studio.tickets import THREAD

    if threads is not None:
        torch.set_num_threads(threads)
    settings = StudioOptions(
        runs=given,
        shipped=ROOT,
        flat=None if folders else Path(),
        host=host,
        port=port,
        data_dir=data_dir,
        seconds=seconds,
    )
    if not settings.local_only:
        typer.echo("the studio has no login: anyone who reaches this address can use it")

    def give_up_computing() -> None:
        """End the process where a pass of a large network keeps the worker: every page has its answer already."""
        for thread in threading.enumerate():
            if thread.name.startswith(THREAD):
                thread.join(PATIENCE_SECONDS)
        if wish.number is not None and any(one.name.startswith(THREAD) for one in threading.enumerate()):
            typer.echo("stopped; a computation was given up", err=True)
            sys.stdout.flush()
            os._exit(128 + wish.number)

    try:
        serve(settings, lambda address: typer.echo(f"studio: {address} (Ctrl-C stops it)"))
    finally:
        give_up_computing()
