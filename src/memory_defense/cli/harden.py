"""``memdef harden``."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from memory_defense.cli.arguments import check_framing, check_source, radius, with_options
from memory_defense.cli.harden_arguments import HardenArguments
from memory_defense.cli.machine import Machine
from memory_defense.names import check_classifier

if TYPE_CHECKING:
    import torch

    from memory_defense.contracts import Progress
    from memory_defense.data.images import Splits
    from memory_defense.recipes.hardened import HardenOptions
    from memory_defense.workflows.harden import Hardened

SIZES = (16, 128)
"""Pixels a side that the memory autoencoder takes; see `recipes.hardened`, which needs torch."""


@with_options(HardenArguments)
def harden(options: HardenArguments) -> None:
    """Harden your own classifier on your own images, and say what was gained and what was not.

    Attacks it as it is, fine-tunes it on adversarial images, trains the memory autoencoder on it, chooses the
    flag's threshold, attacks all of it. With --keep-clean-accuracy both classifiers, yours and the fine-tuned one,
    are mixed instead. With --certified its weights stay as they are: certifies it under noise, trains a denoiser
    before it, certifies both together. A stopped hardening continues when the same command is given again.
    """
    machine = Machine(device=options.device, threads=options.threads)
    check(options)

    from memory_defense.cli.harden_certified import certified_options, print_certified, run_certified
    from memory_defense.cli.progress import shown

    device = machine.ready()
    if options.certified is not None:
        certified_options(options)  # before images are read
    with shown() as progress:
        splits = _images(options, device, progress)
        if options.certified is None:
            tell = functools.partial(_print, _harden(options, splits, progress))
        else:
            tell = functools.partial(print_certified, run_certified(options, splits, progress))
    tell()


def _images(options: HardenArguments, device: torch.device, progress: Progress) -> Splits:
    """Return the user's images, in the order of classes by which the classifier counts."""
    from memory_defense.data.limits import TYPED, Limits
    from memory_defense.data.own import load_splits
    from memory_defense.data.spec import DATASETS
    from memory_defense.run_directory import RunDirectory
    from memory_defense.systems.own_model import build_user_model
    from memory_defense.workflows.folder_order import counts_otherwise
    from memory_defense.workflows.run_images import kept_classes

    read = functools.partial(
        load_splits,
        options.data,
        size=options.size,
        geometry=options.geometry,
        device=device,
        limits=Limits(words=replace(TYPED, images="")),
        data_dir=options.data_dir if options.data in DATASETS else None,
        offline=options.offline,
        may_update=True,
        progress=progress,
    )
    splits = read(classes=kept_classes(RunDirectory(options.out), options.data))
    if splits.otherwise is not None:
        spec = splits.spec
        model = build_user_model(
            options.classifier,
            classes=len(spec.classes),
            channels=spec.channels,
            size=spec.size,
            weights=options.weights,
        )
        if why := counts_otherwise(model.to(device), splits.test, spec.classes, splits.otherwise):
            progress.note(why)
            splits = read(classes=splits.otherwise)
            splits = replace(splits, notes=(*splits.notes, why))
    return splits


def _harden(options: HardenArguments, splits: Splits, progress: Progress) -> Hardened:
    """Harden by adversarial images and the memory autoencoder."""
    from memory_defense.recipes.hardened import HardenOptions, default_epsilon
    from memory_defense.workflows.harden import harden as harden_classifier
    from memory_defense.workflows.harden import weights_sha256
    from memory_defense.workflows.run_images import images_from

    spec, epsilon = splits.spec, options.epsilon
    hardening = HardenOptions(
        classifier=options.classifier,
        weights_sha256=weights_sha256(options.weights),
        epsilon=default_epsilon(spec.channels) if epsilon is None else radius(epsilon),
        fine_tune=options.fine_tune is not False,
        keep_clean_accuracy=options.keep_clean_accuracy,
        epochs=options.epochs,
        attacks=attacks_of(options),
        images=1000 if options.images is None else options.images,
    )
    progress.note(_plan(hardening, splits))
    return harden_classifier(
        hardening,
        options.weights,
        splits,
        options.out,
        source=images_from(options.data, options.size, spec, splits.notes, geometry=options.geometry),
        seed=options.seed,
        progress=progress,
    )


def _print(done: Hardened) -> None:
    """Print the records, the paragraph, and how to go on."""
    from memory_defense.cli.shared import print_tables, wide_console
    from memory_defense.reporting import Section

    sections = [Section("as it was", done.original)]
    if done.fine_tuned:
        sections.append(Section("fine-tuned, alone", done.selector))
    print_tables([*sections, Section("mixed" if done.mixed else "Memory Defense", done.defense)])
    wide_console().print(done.paragraph, highlight=False, markup=False)
    typer.echo(
        f"\nrun: {done.run.path}\nrecords: original.json, {'selector.json, ' * done.fine_tuned}record.json; "
        f"this text: gained.txt\nnext: memdef predict {done.run.path} YOUR-IMAGES"
    )


def check(options: HardenArguments) -> None:
    """Raise ValueError for arguments that cannot be right; torch is not needed."""
    from memory_defense.cli.harden_certified import check_certified
    from memory_defense.data.places import LARGEST_SIDE, check_trained_size
    from memory_defense.data.spec import DATASETS

    check_classifier(options.classifier)
    check_certified(options)
    if options.weights.suffix != ".safetensors":
        raise ValueError(
            f"--weights {options.weights} is no .safetensors file; write one with "
            "safetensors.torch.save_file(net.state_dict(), ...)"
        )
    if not options.weights.is_file():
        raise ValueError(f"--weights {options.weights} does not exist; train your net and save it there first")
    if options.data not in DATASETS and not Path(options.data).expanduser().exists():
        raise ValueError(
            f"--data {options.data} does not exist; give a folder with train/CLASS/FILE and test/CLASS/FILE, "
            f"a .npz or .safetensors file, or one of {', '.join(DATASETS)}"
        )
    if options.keep_clean_accuracy and options.fine_tune is False:
        raise ValueError(
            "--keep-clean-accuracy mixes your classifier with a fine-tuned copy of it, and --no-fine-tune asks for "
            "none; leave out one of both"
        )
    remembers = options.certified is None and not options.keep_clean_accuracy
    if remembers and options.size is not None and not SIZES[0] <= options.size <= SIZES[1]:
        raise ValueError(
            f"--size is {options.size}, but the memory autoencoder takes {SIZES[0]} to {SIZES[1]} pixels"
        )
    check_framing(options.size, options.geometry)
    check_trained_size(options.data, options.size, options.geometry, largest=LARGEST_SIDE)
    check_source(options.data, options.data_dir)
    from memory_defense.attacks.suites import check_attacks
    from memory_defense.run_directory import RunDirectory

    check_attacks(attacks_of(options), norms=("linf",))
    RunDirectory(options.out).check_new(resume=True, images=Path(options.data))
    if options.epsilon is not None and radius(options.epsilon) == 0:
        raise ValueError(f"--epsilon is {options.epsilon}, but it must be above 0; write it as 8/255 or 0.03")


def attacks_of(options: HardenArguments) -> str:
    """Return the suites and attacks as one text."""
    return "fast" if options.attacks is None else ",".join(options.attacks)


def _plan(hardening: HardenOptions, splits: Splits) -> str:
    """Return what is about to be done, in a few lines."""
    from memory_defense.data.spec import image_spec
    from memory_defense.recipes.hardened import harden_recipe

    spec, train = splits.spec, len(splits.train)
    recipe = harden_recipe(hardening, spec.name, image_spec(spec), train)
    shape = f"{spec.channels} x {spec.size} x {spec.size}"
    stages = ", ".join(f"{one.name} {one.fit.epochs} epochs" for one in recipe.stages)
    attacked = f"{min(hardening.images, len(splits.test)):,} of {len(splits.test):,}"
    return (
        f"{spec.name}: {len(spec.classes)} classes, {shape}; {train:,} images to train on, "
        f"{len(splits.held_out):,} held out, {attacked} test images attacked\n"
        f"L-inf epsilon {hardening.epsilon:.4g}; {stages}, batches of {recipe.stages[0].fit.batch_size}"
    )
