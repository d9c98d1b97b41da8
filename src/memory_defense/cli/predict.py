"""``memdef predict``: label, confidence and flag for images, as a table or as JSON lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from memory_defense.cli.arguments import (
    Device,
    OwnArguments,
    Target,
    Threads,
    check_framing,
    check_run_images,
    radius,
    with_options,
)
from memory_defense.cli.machine import Machine
from memory_defense.cli.own_options import OwnOptions
from memory_defense.cli.predicted import SOME_UNREADABLE, counted, print_json, print_table
from memory_defense.names import check_false_alarms
from memory_defense.zoo import located

if TYPE_CHECKING:
    import torch
    from torch import nn

    from memory_defense.cli.predicted import Line
    from memory_defense.contracts import Progress
    from memory_defense.data.geometry import Geometry
    from memory_defense.data.images import ImageSet
    from memory_defense.evaluation.flag import Flag
    from memory_defense.model_spec import ImageSpec
    from memory_defense.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class PredictArguments(OwnArguments):
    """Every argument and option, as typed by the user."""

    target: Target
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, folders of image files, or a .npz or .safetensors file with an array 'images'."
        ),
    ]
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line for each image.")] = False
    false_alarms: Annotated[
        float | None,
        typer.Option(help="Share of clean images that may be called suspicious; if left out, the run's, or 0.05."),
    ] = None
    gate: Annotated[
        str | None,
        typer.Option(
            help="For a run that proves its answers: images not certified within half of this radius are "
            "suspicious."
        ),
    ] = None
    batch: Annotated[int, typer.Option(min=1, help="Number of images in memory at once.")] = 256
    data: Annotated[
        str | None,
        typer.Option(
            help="Images on which the threshold is chosen; if left out, those of the run's training. For a "
            "classifier: images that show its classes and image size."
        ),
    ] = None
    device: Device = "cpu"
    threads: Threads = None


@with_options(PredictArguments)
def predict(options: PredictArguments) -> None:
    """Name the class of each image, the confidence, and, for a trained defense, whether the image looks attacked.

    An image looks attacked if its score is above a threshold, which is chosen on held-out clean images; a plain
    classifier has no such flag. Folders are read with their subfolders. A file that cannot be read also gets a
    line, and the exit status is then 1.
    """
    from memory_defense.cli.evaluate_checks import is_classifier

    machine = Machine(device=options.device, threads=options.threads)
    own = OwnOptions.of(options)
    if is_classifier(options.target):
        from memory_defense.cli.predict_classifier import Pictured, predict_classifier

        pictured = Pictured(own=own, pictures=options.images, batch=options.batch)
        pictured.check({"--false-alarms": options.false_alarms, "--gate": options.gate})
        predict_classifier(pictured, machine, as_json=options.as_json)
        return
    own.refuse(but="geometry")
    check_framing(None, options.geometry)
    run = located(options.target)
    _check(run, options)
    _predict_run(run, options, machine)


def _predict_run(run: Path, asked: PredictArguments, machine: Machine) -> None:
    from memory_defense.cli.progress import shown
    from memory_defense.data.limits import TYPED, Limits
    from memory_defense.data.pictures import pictures
    from memory_defense.data.spec import images_of
    from memory_defense.defenses.gated import Gated
    from memory_defense.defenses.interval_proof import proving
    from memory_defense.evaluation.flag import PROVEN
    from memory_defense.model_spec import ModelSpec
    from memory_defense.run_directory import RunDirectory
    from memory_defense.systems.load import load_defense
    from memory_defense.workflows.predict import predict as predictions

    found = RunDirectory(run)
    spec = images_of(ModelSpec(**found.read()["model"]))
    place = machine.ready()
    epsilon = None if asked.gate is None else radius(asked.gate, "l2")
    defense = load_defense(run) if epsilon is None else Gated(proving(load_defense(run), radii=[epsilon]), epsilon)
    defense = defense.to(place)
    kept: list[Line] = []
    with shown(live=not asked.as_json) as progress:
        flag = PROVEN if epsilon is not None else None
        if epsilon is None and not _is_plain(found.read()):
            flag = _flag(found, defense, asked, place, progress)
        progress.begin("predicting, images done", 0)
        how = _geometry(found, asked.geometry, spec)
        size = None if spec.width else spec.size
        source = pictures(asked.images, channels=spec.channels, size=size, limits=Limits(words=TYPED), geometry=how)
        lines = counted(predictions(defense, flag, source, classes=spec.classes, batch=asked.batch), progress)
        try:
            failed = print_json(lines) if asked.as_json else sum(_kept(one, kept) for one in lines)
        except KeyboardInterrupt:
            if kept:
                print_table(iter(kept), _caption(flag, epsilon), flagged=flag is not None)
            raise
    if not asked.as_json:
        print_table(iter(kept), _caption(flag, epsilon), flagged=flag is not None)
    if failed:
        raise typer.Exit(SOME_UNREADABLE)


def _is_plain(manifest: dict[str, Any]) -> bool:
    """Return whether a run holds a hardened classifier and nothing more, so that it has no flag."""
    from memory_defense.run_directory import HARDENED

    return HARDENED in manifest and manifest["model"]["defense"] == "undefended"


def _flag(
    run: RunDirectory, defense: nn.Module, asked: PredictArguments, device: torch.device, progress: Progress
) -> Flag:
    """Return the flag that a run keeps, or that is chosen now."""
    from memory_defense.cli.run_splits import run_splits
    from memory_defense.data.places import DataNotFoundError
    from memory_defense.reporting.wording import number, percent
    from memory_defense.run_directory import FLAG
    from memory_defense.workflows.predict import flag_for

    keeps = FLAG not in run.read()

    def held_out() -> ImageSet:
        return run_splits(
            run,
            source=asked.data,
            device=device,
            data_dir=asked.data_dir,
            offline=asked.offline,
            progress=progress,
        ).held_out

    try:
        flag, fresh = flag_for(
            run,
            defense,
            held_out,
            false_alarms=asked.false_alarms,
            progress=progress,
        )
    except DataNotFoundError as error:
        raise ValueError(
            f"{run.path} keeps no threshold for this rate of false alarms, and the held-out images of "
            f"{run.read()['model']['dataset']} that one is chosen on were not found: give --data-dir (--data for "
            "images of your own), or run 'memdef predict' on a machine that has them and copy the run's "
            f"manifest.json. {error}"
        ) from error
    if fresh:
        progress.note(
            f"flag: {flag.score} score above {number(flag.threshold)}, chosen on {flag.calibration_images:,} "
            f"held-out clean images for {percent(flag.false_alarms)} % false alarms"
            + (f"; stored in {run.manifest_path}" if keeps and FLAG in run.read() else "")
        )
    return flag


def _geometry(run: RunDirectory, asked: str | None, spec: ImageSpec) -> Geometry | None:
    """Return how pictures are brought to size: as asked, or as the run's own images were."""
    from memory_defense.data.geometry import Geometry
    from memory_defense.workflows.run_images import kept_images_from

    entry = kept_images_from(run.read(), run.manifest_path)
    if line := asked or (entry.geometry if entry else None):
        return Geometry.parse(line)
    return Geometry(resize=spec.sides) if spec.width else None


def _kept(one: Line, kept: list[Line]) -> bool:
    """Keep a line for the table; return whether it is of an image that could not be read."""
    from memory_defense.data.pictures import Unreadable

    kept.append(one)
    return isinstance(one, Unreadable)


def _check(run: Path, asked: PredictArguments) -> None:
    """Raise ValueError for an unfinished run, no image at all, a rate out of range, or data that is not there."""
    from memory_defense.run_directory import FLAG, RunDirectory

    manifest = RunDirectory(run).read_finished()
    if _is_plain(manifest) and (asked.false_alarms is not None or asked.gate is not None):
        raise ValueError(
            f"{run} holds a classifier alone, which flags no image; leave --false-alarms and --gate out, or harden "
            "it with a memory"
        )
    if asked.gate is not None:
        radius(asked.gate, "l2")
        if asked.false_alarms is not None:
            raise ValueError("--false-alarms: not together with --gate, whose threshold no clean image decides")
    if asked.false_alarms is not None:
        check_false_alarms(asked.false_alarms)
    if not any(path.exists() for path in asked.images):  # one among others has a line of its own
        raise ValueError(
            f"there is no {' or '.join(map(str, asked.images))}; give image files, folders of them, or .npz files"
        )
    kept = manifest.get(FLAG)
    rate = cast("dict[str, Any]", kept).get("false_alarms") if isinstance(kept, dict) else None
    if asked.gate is not None or _is_plain(manifest):  # no held-out image is needed
        return
    if (
        asked.data is not None or rate is None or asked.false_alarms not in (None, rate)
    ):  # else no images are needed
        check_run_images(manifest, asked.data, asked.data_dir)


def _caption(flag: Flag | None, gate: float | None) -> str:
    """Return what a flag means, and what a gate for this radius proves."""
    from memory_defense.reporting.wording import number, percent, plain

    if flag is None:
        return "A classifier without a flag."
    if gate is not None:
        return (
            f"Suspicious: the answer is not proven within {number(gate / 2)}. So no two accepted images within "
            f"{number(gate)} of each other have different labels."
        )
    return (
        f"Suspicious: {plain(flag.score)} score above {number(flag.threshold)}; at most "
        f"{percent(flag.false_alarms)} % of clean images have such a score."
    )
