"""What ``memdef harden`` is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from memory_defense.cli.arguments import DataDir, Device, GeometryOption, Offline, Seed, Threads


@dataclass(frozen=True, kw_only=True)
class HardenArguments:
    """The arguments of ``memdef harden``."""

    classifier: Annotated[str, typer.Argument(help="package.module:build of your own trained classifier.")]
    weights: Annotated[Path, typer.Option(help="Its .safetensors file.")]
    data: Annotated[
        str, typer.Option(help="Its images: a folder {train,test}/CLASS/FILE, .npz, .safetensors or a name.")
    ]
    size: Annotated[
        int | None,
        typer.Option(
            help="Resize the images to this many pixels a side, 16 to 128 (with --certified from 4); your "
            "classifier sees them so."
        ),
    ] = None
    geometry: GeometryOption = None
    epsilon: Annotated[
        str | None, typer.Option(help="L-inf radius; 8/255 for colour images and 0.1 for grey ones if left out.")
    ] = None
    fine_tune: Annotated[
        bool | None,
        typer.Option(
            "--fine-tune/--no-fine-tune",
            help="Train the classifier on adversarial images first; done if left out.",
            show_default=False,
        ),
    ] = None
    keep_clean_accuracy: Annotated[
        bool,
        typer.Option(
            "--keep-clean-accuracy",
            help="Mix the fine-tuned classifier with yours as it was, in place of the memory; yours decides where "
            "the fine-tuned one is unsure.",
        ),
    ] = False
    certified: Annotated[
        float | None,
        typer.Option(
            metavar="SIGMA",
            help="Leave the classifier as it is, and train a denoiser before it, so that smoothing it with noise "
            "of this standard deviation, such as 0.25, certifies it.",
        ),
    ] = None
    black_box: Annotated[
        bool, typer.Option("--black-box", help="With --certified: train the denoiser without the classifier.")
    ] = False
    memory: Annotated[
        bool, typer.Option("--memory", help="With --certified: a denoiser with a memory of slots.")
    ] = False
    radius: Annotated[
        list[str] | None,
        typer.Option(help="With --certified: L2 radii, may be repeated; SIGMA and twice SIGMA if left out."),
    ] = None
    samples: Annotated[
        int | None, typer.Option(min=1, help="With --certified: noisy copies of each image; else 1,000.")
    ] = None
    selection: Annotated[
        int | None, typer.Option(min=1, help="With --certified: noisy copies that choose the class; else 100.")
    ] = None
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs of each stage; follows the number of images if left out."),
    ] = None
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            help="Suites (fast, standard or autoattack, rand, brief, glimpse) and attacks, joined by commas or "
            "repeated, see 'memdef attacks'; fast if left out."
        ),
    ] = None
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Test images at most, to attack or to certify; else 1,000, or 200 to certify."),
    ] = None
    out: Annotated[Path, typer.Option(help="Run directory to create or continue.")] = Path("runs/hardened")
    data_dir: DataDir = None
    offline: Offline = False
    seed: Seed = 0
    device: Device = "cpu"
    threads: Threads = None
