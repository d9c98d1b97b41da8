"""The arguments of ``memdef predict``; nothing heavy is imported before they are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memory_defense.cli.options import DataDir, Device, Offline, Threads


def predict(
    run: Annotated[Path, typer.Argument(help="Run directory of a trained defense.")],
    images: Annotated[
        list[Path], typer.Argument(help="Image files, folders of them, or .npz with an array 'images'.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line for each image.")] = False,
    false_alarms: Annotated[
        float | None,
        typer.Option(help="Share of clean images that may be called suspicious; what the run keeps, else 0.05."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images held at once.")] = 256,
    data: Annotated[
        str | None,
        typer.Option(help="Images to choose the threshold on; else those that the run was trained on are found."),
    ] = None,
    data_dir: DataDir = None,
    offline: Offline = False,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Say what images show, how sure that is, and whether they look attacked.

    The flag's threshold comes from held-out clean images. An image that cannot be read has a line of its own; the
    exit status is then 1.
    """
    from memory_defense.cli.arguments import check_predict
    from memory_defense.cli.machine import Machine

    machine = Machine(device=device, threads=threads)
    check_predict(run, images, false_alarms=false_alarms, data=data, data_dir=data_dir)

    from memory_defense.cli.predicting import Wanted, run_predict

    wanted = Wanted(
        false_alarms=false_alarms, batch=batch, data=data, as_json=as_json, data_dir=data_dir, offline=offline
    )
    status = run_predict(run, images, wanted, machine)
    if status:
        raise typer.Exit(status)
