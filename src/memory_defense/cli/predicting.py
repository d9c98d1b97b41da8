"""What ``memdef predict`` does: label, confidence and flag for images, as a table or as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from memory_defense.cli.machine import Machine
from memory_defense.cli.progress import shown
from memory_defense.cli.shared import wide_console
from memory_defense.data.images import ImageSet
from memory_defense.data.pictures import Unreadable, pictures
from memory_defense.data.sources import DataNotFoundError
from memory_defense.data.spec import images_of
from memory_defense.evaluation.flag import Flag
from memory_defense.recipes.recipe import ModelSpec
from memory_defense.reporting.wording import MISSING, number, percent, plain
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.load import load
from memory_defense.workflows.predict import Prediction, flag_for, predict
from memory_defense.workflows.run_images import splits_of

SOME_UNREADABLE = 1
"""Exit status where some images could not be read and the others were predicted."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How to predict, and how to show it."""

    false_alarms: float | None = None
    batch: int = 256
    data: str | None = None
    as_json: bool = False
    data_dir: Path | None = None
    offline: bool = False


def run_predict(path: Path, images: Sequence[Path], wanted: Wanted, machine: Machine) -> int | None:
    """Predict images with a run; return an exit status where some could not be read."""
    run = RunDirectory(path)
    model = ModelSpec(**run.read()["model"])
    spec = images_of(model)
    device = machine.ready()
    defense = load(path).to(device)
    with shown() as progress:

        def held_out() -> ImageSet:
            found = splits_of(
                run,
                source=wanted.data,
                device=device,
                data_dir=wanted.data_dir,
                offline=wanted.offline,
                may_update=True,
                progress=progress,
            )
            return found.held_out

        try:
            flag, fresh = flag_for(run, defense, held_out, false_alarms=wanted.false_alarms)
        except DataNotFoundError as error:
            raise ValueError(
                f"{path} keeps no threshold for this rate of false alarms, and the held-out images of "
                f"{model.dataset} that one is chosen on were not found: give --data-dir (--data for "
                "images of your own), or run 'memdef predict' on a machine that has them and copy the run's "
                f"manifest.json. {error}"
            ) from error
        if fresh:
            progress.note(_chosen(flag))
    source = pictures(images, channels=spec.channels, size=spec.size)
    lines = predict(defense, flag, source, classes=spec.classes, batch=wanted.batch)
    failed = _as_json(lines) if wanted.as_json else _as_table(lines, flag)
    return SOME_UNREADABLE if failed else None


def _chosen(flag: Flag) -> str:
    return (
        f"threshold {number(flag.threshold)} on {flag.score}, chosen on {flag.calibration_images:,} held-out clean "
        f"images for {percent(flag.false_alarms)} % false alarms"
    )


def _as_json(lines: Iterator[Prediction | Unreadable]) -> int:
    """Write one line for each image as soon as it is known; return how many could not be read."""
    failed = 0
    for one in lines:
        if isinstance(one, Unreadable):
            failed += 1
            entry = {"file": one.name, "error": one.reason}
        else:
            entry = asdict(one)
        sys.stdout.write(json.dumps(entry, allow_nan=False) + "\n")
    sys.stdout.flush()
    return failed


def _as_table(lines: Iterator[Prediction | Unreadable], flag: Flag) -> int:
    """Print a table, and a line for each image that could not be read; return how many those are."""
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=Text(
            f"Suspicious above {number(flag.threshold)}: {plain(flag.score)}, at most "
            f"{percent(flag.false_alarms)} % of clean images."
        ),
        caption_justify="left",
    )
    for title, justify in (("file", "left"), ("label", "left"), ("confidence", "right")):
        table.add_column(title, justify=justify, overflow="fold")  # pyright: ignore[reportArgumentType]
    for title, justify in (("flag", "left"), ("score", "right"), ("note", "left")):
        table.add_column(title, justify=justify, overflow="fold")  # pyright: ignore[reportArgumentType]
    failed: list[Unreadable] = []
    for one in lines:
        if isinstance(one, Unreadable):
            failed.append(one)
            table.add_row(Text(plain(one.name)), MISSING, MISSING, Text("not read", style="red"), MISSING, "")
            continue
        table.add_row(
            Text(plain(one.file)),
            Text(plain(one.label)),
            f"{percent(one.confidence)} %",
            Text(one.flag, style="bold yellow" if one.flag == "suspicious" else ""),
            number(one.score),
            Text("; ".join(one.changes)),
        )
    wide_console().print(table)
    for one in failed:
        sys.stderr.write(f"not read: {plain(one.reason)}\n")
    return len(failed)
