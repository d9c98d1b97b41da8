"""What ``memdef harden`` is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from memory_defense.cli.arguments import (
    Argument,
    ClassesOption,
    DataDir,
    Device,
    GeometryOption,
    Offline,
    Preprocess,
    Seed,
    Threads,
)


@dataclass(frozen=True, kw_only=True)
class HardenArguments:
    """The arguments of ``memdef harden``."""

    classifier: Annotated[str, typer.Argument(help="Your own classifier: the function build in package/module.py.")]
    weights: Annotated[Path, typer.Option(help="The .safetensors file with its weights.")]
    data: Annotated[
        str,
        typer.Option(
            help="Its images: a folder with {train,test}/CLASS/FILE, a .npz or .safetensors file, or a dataset."
        ),
    ]
    size: Annotated[
        int | None,
        typer.Option(
            help="Resize the images to SIZE x SIZE pixels, 16 to 1024 (without a memory from 4; with "
            "--certified 4 to 128), before your classifier sees them."
        ),
    ] = None
    geometry: GeometryOption = None
    classes: ClassesOption = None
    argument: Argument = None
    preprocess: Preprocess = None
    epsilon: Annotated[
        str | None, typer.Option(help="L-inf radius; if left out, 8/255 for colour images and 0.1 for grey ones.")
    ] = None
    fine_tune: Annotated[
        bool | None,
        typer.Option(
            "--fine-tune/--no-fine-tune",
            help="Whether to train the classifier on adversarial images first; yes if left out.",
            show_default=False,
        ),
    ] = None
    keep_clean_accuracy: Annotated[
        bool,
        typer.Option(
            "--keep-clean-accuracy",
            help="Mix the fine-tuned classifier with your original one, without the memory; the original one "
            "decides where the fine-tuned one is unsure.",
        ),
    ] = False
    without_memory: Annotated[
        bool,
        typer.Option(
            "--without-memory",
            help="Fine-tune the classifier on adversarial images, and nothing else: the plain choice for a large "
            "one.",
        ),
    ] = False
    train_last: Annotated[
        int | None,
        typer.Option(min=1, help="Fine-tune only so many layers, from the end; what comes before stays as it is."),
    ] = None
    train_only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Fine-tune only parameters of such names, 'head.*', say; may be repeated.",
        ),
    ] = None
    accumulate: Annotated[
        int,
        typer.Option(
            min=1, help="Parts of a training batch that pass one after the other, which takes less memory."
        ),
    ] = 1
    certified: Annotated[
        float | None,
        typer.Option(
            metavar="SIGMA",
            help="Do not change the classifier; train a denoiser in front of it, so that randomised smoothing with "
            "noise of this standard deviation, such as 0.25, certifies it.",
        ),
    ] = None
    black_box: Annotated[
        bool, typer.Option("--black-box", help="With --certified: train the denoiser without the classifier.")
    ] = False
    memory: Annotated[
        bool, typer.Option("--memory", help="With --certified: train a denoiser with a memory of slots.")
    ] = False
    radius: Annotated[
        list[str] | None,
        typer.Option(
            help="With --certified: L2 radii to certify; may be repeated; SIGMA and twice SIGMA if left out."
        ),
    ] = None
    samples: Annotated[
        int | None, typer.Option(min=1, help="With --certified: noisy copies of each image; else 1,000.")
    ] = None
    selection: Annotated[
        int | None, typer.Option(min=1, help="With --certified: noisy copies that choose the class; else 100.")
    ] = None
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs of each stage; chosen by the number of images if left out."),
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
        typer.Option(min=1, help="Largest number of test images; if left out, 1,000 to attack, or 200 to certify."),
    ] = None
    out: Annotated[Path, typer.Option(help="Run directory to create or continue.")] = Path("runs/hardened")
    data_dir: DataDir = None
    offline: Offline = False
    seed: Seed = 0
    device: Device = "cpu"
    threads: Threads = None
