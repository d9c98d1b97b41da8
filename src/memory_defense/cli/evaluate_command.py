"""The arguments of ``memdef evaluate``; nothing heavy is imported before they are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memory_defense.cli.options import DataDir, Device, Offline, Seed, Threads


def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            help="Run directory of a trained defense, its export, or package.module:build for your classifier."
        ),
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
    norm: Annotated[str | None, typer.Option(help="linf or l2, for a classifier of your own or an export.")] = None,
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
    detection: Annotated[
        bool,
        typer.Option(
            "--detection",
            help="Also say what a run's flag is worth, against attacks that ignore it and that fight it.",
        ),
    ] = False,
    false_alarms: Annotated[
        float | None,
        typer.Option(
            help="Share of clean images the flag may call suspicious, 0.01 if left out; with --detection."
        ),
    ] = None,
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
    from memory_defense.cli.evaluate_arguments import Manner, Own, Selection, check_evaluate, detection_rate
    from memory_defense.cli.machine import Machine

    selection = Selection(images=images, attacks=attacks, knowledge=knowledge, epsilons=epsilon)
    own = Own(data=data, weights=weights, size=size, norm=norm, start_from=start_from)
    manner = Manner(
        machine=Machine(device=device, threads=threads, processes=processes),
        seed=seed,
        submissions=submissions,
        batch=batch,
        bfloat16=bfloat16,
        data_dir=data_dir,
        offline=offline,
    )
    rate = detection_rate(detection, false_alarms)
    check_evaluate(target, selection, own, manner, false_alarms=rate)

    from memory_defense.cli.evaluating import run_evaluate

    status = run_evaluate(target, selection, own, manner, out, false_alarms=rate)
    if status:
        raise typer.Exit(status)
