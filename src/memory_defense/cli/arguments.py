"""Checks of what several commands are given, before anything heavy is imported; the messages are the library's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

from memory_defense.cli.machine import LAUNCHED
from memory_defense.data.places import check_directory, check_trained_size, place_of
from memory_defense.data.spec import DATASETS
from memory_defense.evaluation.record import Record
from memory_defense.names import (
    FIGURES,
    FORMATS,
    RECIPES,
    SCALES,
    TABLES,
    check_adaptable,
    check_false_alarms,
    check_name,
    check_radius,
)
from memory_defense.run_directory import FLAG, IMAGES_FROM, RunDirectory

_SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "hub-folder": "-hub"}

assert set(_SUFFIXES) == set(FORMATS), "every format has a default place"


def check_data_dir(data_dir: Path | None) -> None:
    """Raise ValueError for a directory of a known dataset's files that does not exist."""
    if data_dir is not None:
        check_directory(data_dir.expanduser(), "data_dir")


def check_source(source: str | Path, data_dir: Path | None) -> None:
    """Raise ValueError unless images may lie here: a known dataset, a folder or a file of arrays."""
    if isinstance(source, str) and source in DATASETS:
        check_data_dir(data_dir)
    else:
        place_of(source)


def check_dataset(name: str, data_dir: Path | None) -> None:
    """Raise ValueError for an unknown dataset, or a directory of its files that does not exist."""
    check_name(name, DATASETS, "dataset")
    check_data_dir(data_dir)


def check_train(
    recipe: str, out: Path, *, data: str | None, size: int | None, data_dir: Path | None, resume: bool
) -> None:
    """Raise ValueError for what ``memdef train`` cannot do."""
    check_name(recipe, RECIPES, "recipe")
    if size is not None and data is None:
        raise ValueError("--size: only together with --data; a recipe's own images keep their size")
    if data is None:
        check_data_dir(data_dir)
    else:
        check_trained_size(data, size)
        check_source(data, data_dir)
        check_adaptable(recipe, RECIPES[recipe])
    if LAUNCHED not in os.environ:  # of several processes the first may have begun the run already
        RunDirectory(out).check_new(resume=resume)


def check_run_images(manifest: Mapping[str, Any], source: str | None, data_dir: Path | None) -> None:
    """Raise ValueError unless a run's images, or others in their place, may be where they are said to be."""
    if source is None:
        kept = manifest.get(IMAGES_FROM)
        named = cast("Mapping[str, Any]", kept).get("source") if isinstance(kept, dict) else None
        if (named or manifest["model"]["dataset"]) in DATASETS:
            check_data_dir(data_dir)
    else:
        check_source(source if source in DATASETS else Path(source), data_dir)


def check_predict(
    run: Path, images: Sequence[Path], *, false_alarms: float | None, data: str | None, data_dir: Path | None
) -> None:
    """Raise ValueError for what ``memdef predict`` cannot do: no whole run, no image at all, no such rate."""
    manifest = RunDirectory(run).read_finished()
    if false_alarms is not None:
        check_false_alarms(false_alarms)
    if not any(path.exists() for path in images):  # one among others has a line of its own
        raise ValueError(
            f"there is no {' or '.join(map(str, images))}; give image files, folders of them, or .npz files"
        )
    kept = manifest.get(FLAG)
    rate = cast("Mapping[str, Any]", kept).get("false_alarms") if isinstance(kept, dict) else None
    if data is not None or rate is None or false_alarms not in (None, rate):  # else no images are needed
        check_run_images(manifest, data, data_dir)


def record_of(path: Path) -> Path:
    """Return where the record of a run directory, or a record itself, is; raise ValueError unless it is one."""
    place = path / "record.json" if path.is_dir() else path
    if path.is_dir() and not place.is_file():
        raise ValueError(f"{path} has no record.json; make one with: memdef evaluate {path}")
    Record.read(place)
    return place


def check_export(run: Path, format: str, out: Path | None, *, force: bool) -> Path:
    """Return where a run goes, by default beside its directory; raise ValueError where it cannot be exported so."""
    check_name(format, FORMATS, "format")
    place = out or run.resolve().parent / f"{run.resolve().name}{_SUFFIXES[format]}"
    found = RunDirectory(run)
    found.check_export(place, folder=format == "hub-folder", force=force)
    found.read_finished()
    return place


def check_reproduce(what: str, scale: str, rows: Sequence[str], processes: int | None = None) -> None:
    """Raise ValueError for no table or figure, rows that it does not have to make, or an unknown scale."""
    check_name(what, [*TABLES, *FIGURES], "table or figure")
    if what in FIGURES and rows:
        raise ValueError(f"{what} has no rows to choose from; leave out --row")
    if what in FIGURES and processes is not None:
        raise ValueError(f"{what} has no rows to make at once; leave out --processes")
    check_name(scale, SCALES, "scale")
    for row in rows:
        check_name(row, TABLES[what], f"row of {what}")


def radius(text: str) -> float:
    """Return a radius written as 8/255 or 0.03; raise ValueError for anything else or a negative one."""
    value = _number(text, "8/255 or 0.03")
    if not 0 <= value <= 1:
        raise ValueError(f"epsilon is {text}, but pixels live in [0, 1]; for grey levels write {text}/255")
    return value


def radius_in(text: str, norm: str) -> float:
    """Return a radius of a ball of this norm; raise ValueError for what is none."""
    if norm == "linf":
        return radius(text)
    value = _number(text, "0.5 or 128/255")
    check_radius(norm, value)
    return value


def _number(text: str, example: str) -> float:
    try:
        return float(Fraction(text.replace(" ", "")))
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(f"epsilon {text!r} is not a number; write it as {example}") from error
