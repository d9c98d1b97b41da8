"""``memdef export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memory_defense.cli.arguments import (
    OwnArguments,
    RandomWeights,
    Target,
    with_options,
)
from memory_defense.cli.own_options import OwnOptions
from memory_defense.names import FORMATS, check_name
from memory_defense.zoo import is_entry, located

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memory_defense.evaluation.record import Record
    from memory_defense.systems.facts import Facts

_SUFFIXES: dict[str, str] = dict(zip(FORMATS, (".safetensors", ".onnx", "-hub"), strict=True))


@dataclass(frozen=True, kw_only=True)
class ExportArguments(OwnArguments):
    """Every argument and option, as typed by the user."""

    target: Target
    format: Annotated[
        str,
        typer.Option(
            help="safetensors (one file), onnx (for use without this library; the only format for a classifier "
            "that is not a run), or hub-folder (with a model card)."
        ),
    ] = "safetensors"
    out: Annotated[Path | None, typer.Option(help="File or folder to write; next to the run if left out.")] = None
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file or folder.")] = False
    random_weights: RandomWeights = False


@with_options(ExportArguments)
def export(options: ExportArguments) -> None:
    """Write a trained defense or a classifier as a file or folder that memory_defense.load can read.

    ONNX needs the extra 'export'. The file is kept only if ONNX Runtime gives the same answers with it. The file of
    a classifier contains its preprocessing, so it takes images in [0, 1]. For a classifier also give --data, the
    images of its evaluation: they define its classes and image size, and the answers are compared on them.
    """
    from memory_defense.cli.evaluate_checks import is_classifier

    own, target, format, force = OwnOptions.of(options), options.target, options.format, options.force
    if is_classifier(target):
        from memory_defense.cli.export_classifier import ToExport, export_classifier

        classifier = ToExport(own=own, out=options.out, force=force)
        classifier.check(format)
        export_classifier(classifier)
        return
    own.refuse({"--data": options.data})
    from memory_defense.run_directory import RunDirectory

    check_name(format, FORMATS, "format")
    shipped, run = is_entry(target), located(target)
    beside = Path() if shipped else run.resolve().parent
    place = options.out or beside / f"{run.resolve().name}{_SUFFIXES[format]}"
    found, folder = RunDirectory(run), format == "hub-folder"
    found.check_export(place, folder=folder, force=force)
    found.read_finished()

    from memory_defense.cli.progress import shown
    from memory_defense.systems.export import export as export_run

    def card(facts: Facts, record: Record) -> str:
        return card_of(place.resolve().name, facts, record)

    with shown() as progress:
        progress.begin(f"exporting {run} as {format}", 0)
        done = export_run(run, place, format=format, force=force, card=card if folder else None)
    typer.echo(f"exported: {done.path}\nchecked: {done.checked}\nload it: memory_defense.load({str(done.path)!r})")


def card_of(name: str, facts: Facts, record: Record) -> str:
    """Return the model card of a hub folder."""
    from memory_defense.reporting.card import CardSubject, model_card

    made = f"{facts.recipe} (sha256 {facts.recipe_sha256[:12]}), seed {facts.seed}"
    model = {key: str(value) for key, value in facts.model.items() if value and key != "images"}
    parts = {
        "recipe": f"{made}, {facts.train_images:,} training images",
        **{key.replace("_", " "): value for key, value in model.items()},
        "flag": _flag(facts.flag),
        "exported by": f"memory-defense {facts.version}, torch {facts.torch}",
    }
    subject = CardSubject(name=name, channels=facts.channels, size=facts.size, classes=facts.classes, parts=parts)
    return model_card(subject, record)


def _flag(flag: Mapping[str, Any] | None) -> str:
    if flag is None:
        return "no threshold was chosen, so no image is flagged"
    return (
        f"suspicious where {flag['score']} is above {flag['threshold']:.6g}, chosen on "
        f"{flag['calibration_images']:,} held-out images for {100 * flag['false_alarms']:g} % false alarms"
    )
