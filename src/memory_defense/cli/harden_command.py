"""The arguments of ``memdef harden``; nothing heavy is imported before they are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memory_defense.cli.options import DataDir, Device, Offline, Seed, Threads


def harden(
    classifier: Annotated[str, typer.Argument(help="package.module:build of your own trained classifier.")],
    weights: Annotated[Path, typer.Option(help="Its .safetensors file.")],
    data: Annotated[
        str, typer.Option(help="Its images: a folder {train,test}/CLASS/FILE, .npz, .safetensors or a name.")
    ],
    size: Annotated[
        int | None,
        typer.Option(help="Resize the images to this many pixels a side, 16 to 128; your classifier sees them so."),
    ] = None,
    epsilon: Annotated[
        str | None, typer.Option(help="L-inf radius; 8/255 for colour images and 0.1 for grey ones if left out.")
    ] = None,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune/--no-fine-tune", help="Train the classifier on adversarial images first.")
    ] = True,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Of fine-tuning and autoencoder; follows the number of images if left out."),
    ] = None,
    attacks: Annotated[
        str, typer.Option(help="fast, standard (autoattack), rand, or attacks joined by commas.")
    ] = "fast",
    images: Annotated[int, typer.Option(min=1, help="Test images to attack, at most.")] = 1000,
    out: Annotated[Path, typer.Option(help="Run directory to create or continue.")] = Path("runs/hardened"),
    data_dir: DataDir = None,
    offline: Offline = False,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Harden your own classifier on your own images, and say what was gained and what was not.

    Attacks it as it is, fine-tunes it on adversarial images, trains the memory autoencoder on it, chooses the
    flag's threshold, attacks all of it. A stopped hardening goes on when the same command is given again.
    """
    from memory_defense.cli.hardening import Order, check, run_harden
    from memory_defense.cli.machine import Machine

    machine = Machine(device=device, threads=threads)
    order = Order(
        classifier=classifier,
        weights=weights,
        data=data,
        size=size,
        epsilon=epsilon,
        fine_tune=fine_tune,
        epochs=epochs,
        attacks=attacks,
        images=images,
        out=out,
        data_dir=data_dir,
        offline=offline,
        seed=seed,
    )
    check(order)
    run_harden(order, machine)
