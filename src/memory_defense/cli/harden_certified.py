"""``memdef harden --certified``: the checks of its options, and what is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from memory_defense.cli.arguments import radius

if TYPE_CHECKING:
    from memory_defense.cli.harden_arguments import HardenArguments
    from memory_defense.contracts import Progress
    from memory_defense.data.images import Splits
    from memory_defense.recipes.hardened_certified import CertifiedOptions
    from memory_defense.workflows.harden_certified import Certified

_OF_ATTACKS = (
    *(
        "epsilon",
        "fine_tune",
        "keep_clean_accuracy",
        "without_memory",
        "attacks",
        "classes",
        "argument",
        "preprocess",
    ),
    *("train_last", "train_only", "accumulate"),
)
_OF_CERTIFICATES = ("radius", "samples", "selection", "black_box", "memory")


def check_certified(options: HardenArguments) -> None:
    """Raise ValueError for options that exclude each other, and values out of range; torch is not needed."""
    given = _OF_CERTIFICATES if options.certified is None else _OF_ATTACKS
    flags = [f"--{name.replace('_', '-')}" for name in given if _asked_for(options, name)]
    if options.certified is None:
        if flags:
            raise ValueError(f"{', '.join(flags)}: only with --certified, such as --certified 0.25")
        return
    if options.fine_tune is False:
        flags.append("--no-fine-tune")
    if flags:
        raise ValueError(
            f"{', '.join(flags)}: not together with --certified, which attacks nothing and leaves your classifier "
            "as it is; leave it out"
        )
    if not options.certified > 0:
        raise ValueError(
            f"--certified is {options.certified}, but noise has a standard deviation above 0; give 0.25, say"
        )
    for text in options.radius or ():
        radius(text, "l2")


def _asked_for(options: HardenArguments, name: str) -> bool:
    value = getattr(options, name)
    return value > 1 if name == "accumulate" else value not in (None, False)


def certified_options(options: HardenArguments, weights_sha256: str = "") -> CertifiedOptions:
    """Return what is asked for; raise ValueError for a radius that so few copies cannot certify."""
    from memory_defense.recipes.hardened_certified import CertifiedOptions

    said = {"images": options.images, "samples": options.samples, "selection": options.selection}
    return CertifiedOptions(
        classifier=options.classifier,
        weights_sha256=weights_sha256,
        sigma=options.certified or 0.0,
        black_box=options.black_box,
        memory=options.memory,
        epochs=options.epochs,
        radii=tuple(radius(text, "l2") for text in options.radius or ()),
        **{name: value for name, value in said.items() if value is not None},
    )


def run_certified(options: HardenArguments, splits: Splits, progress: Progress) -> Certified:
    """Train the denoiser and certify, before and after."""
    from memory_defense.workflows.harden import weights_sha256
    from memory_defense.workflows.harden_certified import harden_certified
    from memory_defense.workflows.run_images import images_from

    asked = certified_options(options, weights_sha256(options.weights))
    progress.note(_plan(asked, splits))
    return harden_certified(
        asked,
        options.weights,
        splits,
        options.out,
        source=images_from(options.data, options.size, splits.spec, splits.notes, geometry=options.geometry),
        seed=options.seed,
        progress=progress,
    )


def print_certified(done: Certified) -> None:
    """Print both records, the text, and how to go on."""
    from memory_defense.cli.shared import print_tables, wide_console
    from memory_defense.reporting import Section

    print_tables([Section("as it was", done.original), Section("with the denoiser", done.denoised)])
    wide_console().print(done.text, highlight=False, markup=False)
    path, sigma = Path(done.run.path), f"{done.sigma:g}"
    typer.echo(
        f"\nrun: {path}\nrecords: certified-before.json, certified-after.json; this text: gained.txt\n"
        f"next: memdef certify {path} --sigma {sigma} --radius {sigma}, with 100,000 copies of every test image"
    )


def _plan(asked: CertifiedOptions, splits: Splits) -> str:
    """Return what is about to be done, in a few lines."""
    from memory_defense.data.spec import image_spec
    from memory_defense.recipes.hardened_certified import certified_recipe

    spec, train = splits.spec, len(splits.train)
    recipe = certified_recipe(asked, spec.name, image_spec(spec), train)
    stages = ", ".join(f"{one.name} {one.fit.epochs} epochs" for one in recipe.stages)
    return (
        f"{spec.name}: {len(spec.classes)} classes, {spec.channels} x {spec.size} x {spec.size}; {train:,} images "
        f"to train on, {len(splits.held_out):,} held out, {min(asked.images, len(splits.test)):,} of "
        f"{len(splits.test):,} test images certified\n"
        f"noise {asked.sigma:g}, L2 radii {', '.join(f'{one:g}' for one in asked.asked_radii)}; {stages}, batches "
        f"of {recipe.stages[0].fit.batch_size}; no weight of {asked.classifier} changes"
    )
