"""``memdef harden``."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from memory_defense.cli.arguments import check_framing, check_source, radius, with_options
from memory_defense.cli.harden_arguments import HardenArguments
from memory_defense.cli.machine import Machine
from memory_defense.files import is_pickle, pickle_refused
from memory_defense.names import check_classifier

if TYPE_CHECKING:
    from memory_defense.cli.harden_images import HardenImages
    from memory_defense.contracts import Progress
    from memory_defense.data.images import Splits
    from memory_defense.recipes.hardened import HardenOptions
    from memory_defense.workflows.harden import Hardened

SIZES = (16, 1024)
"""Pixels a side that the memory autoencoder takes; see `recipes.hardened`, which needs torch."""


@with_options(HardenArguments)
def harden(options: HardenArguments) -> None:
    """Make your own classifier more robust, using your own images, and measure the gain.

    The command attacks your classifier, fine-tunes it on adversarial images, trains the memory autoencoder with it,
    chooses the flag's threshold, and attacks the result. With --without-memory it only fine-tunes the classifier,
    which suits large images. With --keep-clean-accuracy it mixes your classifier with the fine-tuned one instead of
    using a memory. With --certified it does not change the classifier: it certifies it under noise, trains a
    denoiser in front of it, and certifies both together. After a stop, the same command continues.
    """
    machine = Machine(device=options.device, threads=options.threads)
    check(options)

    from memory_defense.cli.harden_certified import certified_options, print_certified, run_certified
    from memory_defense.cli.harden_images import read_images
    from memory_defense.cli.progress import shown

    device = machine.ready()
    if options.certified is not None:
        certified_options(options)  # before images are read
    with shown() as progress:
        images = read_images(options, device, progress)
        if options.certified is None:
            tell = functools.partial(_print, _harden(options, images, progress))
        else:
            tell = functools.partial(print_certified, run_certified(options, images.splits, progress))
    tell()


def _harden(options: HardenArguments, images: HardenImages, progress: Progress) -> Hardened:
    """Harden by adversarial images and, where it is wanted, the memory autoencoder."""
    from memory_defense.recipes.hardened import HardenOptions, default_epsilon
    from memory_defense.systems.doors import arguments_of
    from memory_defense.systems.preprocessing import Preprocessing
    from memory_defense.workflows.harden import harden as harden_classifier
    from memory_defense.workflows.harden import weights_sha256
    from memory_defense.workflows.run_images import images_from

    splits, epsilon = images.splits, options.epsilon
    spec = splits.spec
    hardening = HardenOptions(
        classifier=options.classifier,
        weights_sha256=weights_sha256(options.weights),
        epsilon=default_epsilon(spec.channels) if epsilon is None else radius(epsilon),
        fine_tune=options.fine_tune is not False,
        keep_clean_accuracy=options.keep_clean_accuracy,
        without_memory=options.without_memory,
        arguments=tuple(sorted(arguments_of(options.argument or ()).items())),
        preprocess="" if options.preprocess is None else str(Preprocessing.parse(options.preprocess)),
        accumulate=options.accumulate,
        train_last=options.train_last,
        train_only=tuple(options.train_only or ()),
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
        source=images_from(
            options.data, options.size, spec, splits.notes, geometry=options.geometry, outputs=images.outputs
        ),
        seed=options.seed,
        progress=progress,
    )


def _print(done: Hardened) -> None:
    """Print the records, the paragraph, and how to go on."""
    from memory_defense.cli.shared import print_tables, wide_console
    from memory_defense.reporting import Section

    sections = [Section("as it was", done.original)]
    alone = done.fine_tuned and (done.mixed or done.remembers)
    if alone:
        sections.append(Section("fine-tuned, alone", done.selector))
    last = "mixed" if done.mixed else "Memory Defense" if done.remembers else "fine-tuned"
    print_tables([*sections, Section(last, done.defense)])
    wide_console().print(done.paragraph, highlight=False, markup=False)
    typer.echo(
        f"\nrun: {done.run.path}\nrecords: original.json, {'selector.json, ' * alone}record.json; "
        f"this text: gained.txt\nnext: memdef predict {done.run.path} YOUR-IMAGES"
    )


def check(options: HardenArguments) -> None:
    """Raise ValueError for arguments that cannot be right; torch is not needed."""
    from memory_defense.cli.harden_certified import check_certified
    from memory_defense.data.places import LARGEST_SIDE, check_trained_size
    from memory_defense.data.spec import DATASETS
    from memory_defense.systems.doors import arguments_of
    from memory_defense.systems.preprocessing import Preprocessing

    check_classifier(options.classifier)
    check_certified(options)
    if options.weights.is_file() and is_pickle(options.weights):
        raise pickle_refused(options.weights)
    if options.weights.suffix != ".safetensors":
        raise ValueError(
            f"--weights {options.weights} is not a .safetensors file; write one with "
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
    if options.without_memory and (options.keep_clean_accuracy or options.fine_tune is False):
        other = "--keep-clean-accuracy" if options.keep_clean_accuracy else "--no-fine-tune"
        raise ValueError(
            f"--without-memory only fine-tunes, and {other} asks for something else; leave out one of both"
        )
    if options.fine_tune is False and (options.train_last is not None or options.train_only):
        raise ValueError("--train-last and --train-only say what is fine-tuned; leave --no-fine-tune out, or them")
    remembers = options.certified is None and not (options.keep_clean_accuracy or options.without_memory)
    if remembers and options.size is not None and not SIZES[0] <= options.size <= SIZES[1]:
        raise ValueError(
            f"--size is {options.size}, but the memory autoencoder takes {SIZES[0]} to {SIZES[1]} pixels"
        )
    check_framing(options.size, options.geometry, options.classes)
    arguments_of(options.argument or ())
    if options.preprocess is not None:
        Preprocessing.parse(options.preprocess)
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
    stages = ", ".join(f"{one.name} {one.fit.epochs} epochs" for one in recipe.stages)
    attacked = f"{min(hardening.images, len(splits.test)):,} of {len(splits.test):,}"
    return (
        f"{spec.name}: {len(spec.classes)} classes, {spec.shape}; {train:,} images to train on, "
        f"{len(splits.held_out):,} held out, {attacked} test images attacked\n"
        f"L-inf epsilon {hardening.epsilon:.4g}; {stages}, batches of {recipe.stages[0].fit.batch_size}"
    )
