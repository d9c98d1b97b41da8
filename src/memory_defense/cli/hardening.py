"""What ``memdef harden`` does; torch is imported only once the arguments make sense."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from memory_defense.attacks.suites import check_attacks
from memory_defense.cli.arguments import check_source
from memory_defense.data.places import check_trained_size
from memory_defense.data.spec import DATASETS
from memory_defense.names import check_classifier

if TYPE_CHECKING:
    from memory_defense.cli.machine import Machine
    from memory_defense.data.images import Splits
    from memory_defense.recipes.hardened import Hardening

_SIZES = (16, 128)
"""Pixels a side that the memory autoencoder takes."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """The command's arguments."""

    classifier: str
    weights: Path
    data: str
    size: int | None = None
    epsilon: str | None = None
    fine_tune: bool = True
    epochs: int | None = None
    attacks: str = "fast"
    images: int = 1000
    out: Path = Path("runs/hardened")
    data_dir: Path | None = None
    offline: bool = False
    seed: int = 0


def check(order: Order) -> None:
    """Raise ValueError for arguments that cannot be right, before anything heavy is imported."""
    if ":" not in order.classifier:
        raise ValueError(
            f"{order.classifier!r} names no classifier; write package.module:build, where build returns your net"
        )
    if order.weights.suffix != ".safetensors":
        raise ValueError(
            f"--weights {order.weights} is no .safetensors file; write one with "
            "safetensors.torch.save_file(net.state_dict(), ...)"
        )
    if not order.weights.is_file():
        raise ValueError(f"--weights {order.weights} does not exist; train your net and save it there first")
    if order.data not in DATASETS and not Path(order.data).expanduser().exists():
        raise ValueError(
            f"--data {order.data} does not exist; give a folder with train/CLASS/FILE and test/CLASS/FILE, a .npz "
            f"or .safetensors file, or one of {', '.join(DATASETS)}"
        )
    if order.size is not None and not _SIZES[0] <= order.size <= _SIZES[1]:
        raise ValueError(
            f"--size is {order.size}, but the memory autoencoder takes {_SIZES[0]} to {_SIZES[1]} pixels"
        )
    check_trained_size(order.data, order.size)
    check_source(order.data, order.data_dir)
    check_classifier(order.classifier)
    check_attacks(order.attacks)
    if order.epsilon is not None:
        _radius(order.epsilon)


def run_harden(order: Order, machine: Machine) -> None:
    """Harden, and print the table of the three evaluations and the paragraph."""
    from rich.console import Console

    from memory_defense.cli.progress import shown
    from memory_defense.cli.shared import print_tables, wide_console
    from memory_defense.data.own import load_splits
    from memory_defense.recipes.hardened import Hardening, default_epsilon
    from memory_defense.reporting import Section
    from memory_defense.workflows.harden import harden, weights_sha256
    from memory_defense.workflows.run_images import images_from

    device = machine.ready()
    with shown() as progress:
        splits = load_splits(
            order.data,
            size=order.size,
            device=device,
            data_dir=order.data_dir if order.data in DATASETS else None,
            offline=order.offline,
            progress=progress,
        )
        spec = splits.spec
        hardening = Hardening(
            classifier=order.classifier,
            weights_sha256=weights_sha256(order.weights),
            epsilon=default_epsilon(spec.channels) if order.epsilon is None else _radius(order.epsilon),
            fine_tune=order.fine_tune,
            epochs=order.epochs,
            attacks=order.attacks,
            images=order.images,
        )
        progress.note(_plan(hardening, splits))
        done = harden(
            hardening,
            order.weights,
            splits,
            order.out,
            source=images_from(order.data, order.size, spec),
            seed=order.seed,
            progress=progress,
        )
    sections = [Section("as it was", done.original)]
    if order.fine_tune:
        sections.append(Section("fine-tuned, alone", done.selector))
    sections.append(Section("Memory Defense", done.defense))
    print_tables(sections)
    wide_console().print(done.paragraph, highlight=False, markup=False)
    Console().print(
        f"\nrun: {done.run.path}\nrecords: original.json, "
        + "selector.json, " * order.fine_tune
        + f"record.json; this text: gained.txt\nnext: memdef predict {done.run.path} YOUR-IMAGES",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _plan(hardening: Hardening, splits: Splits) -> str:
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


def _radius(text: str) -> float:
    """Return a radius written as 8/255 or 0.03."""
    try:
        value = float(Fraction(text.replace(" ", "")))
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(f"--epsilon {text!r} is not a number; write it as 8/255 or 0.03") from error
    if not 0 < value <= 1:
        raise ValueError(
            f"--epsilon is {text}, but it must be above 0 and at most 1; for grey levels write {text}/255"
        )
    return value
