"""Options that several commands share, and the checks of their values; neither needs torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_type_hints

import typer

from memory_defense.names import check_radius

DataDir = Annotated[
    Path | None,
    typer.Option(
        envvar="MEMDEF_DATA", help="Directory with the dataset's files; searched in the usual places if left out."
    ),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Never download anything; use only files on this machine.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random draw.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of processor threads; torch decides if left out.")]
Size = Annotated[int | None, typer.Option(help="Resize the images to SIZE x SIZE pixels.")]
GeometryOption = Annotated[
    str | None,
    typer.Option(
        "--geometry",
        help="Resize and crop the images as in the model's training: 'resize=256,crop=224,"
        "interpolation=bicubic' makes the shorter side 256 pixels, then cuts out the centre.",
    ),
]
ClassesOption = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        help="File that maps class folders to the model's outputs: the model's class names in order, one a "
        "line, or lines of FOLDER NUMBER.",
    ),
]
Target = Annotated[
    str,
    typer.Argument(
        help="Run directory of a trained defense, zoo:NAME, an export, or a classifier: package.module:build, "
        "hf:DIR (transformers), onnx:FILE, FILE.pt2 (torch.export)."
    ),
]
OwnImages = Annotated[
    str | None,
    typer.Option(
        help="Images for your own classifier: a folder with test/CLASS/FILE, a .npz or .safetensors file, or a "
        "dataset."
    ),
]
OwnWeights = Annotated[Path | None, typer.Option(help="Your classifier's .safetensors file.")]
Preprocess = Annotated[
    str | None,
    typer.Option(
        help="Preprocessing that your classifier needs, joined by commas: mean=0.485/0.456/0.406, std=..., "
        "imagenet, 255 (grey levels), 127 (as (255 x - 127) / 128), bgr, none."
    ),
]
Argument = Annotated[
    list[str] | None,
    typer.Option(help="NAME=VALUE, an argument for package.module:build; may be repeated."),
]
RandomWeights = Annotated[
    bool,
    typer.Option(
        "--random-weights",
        help="Accept package.module:build without --weights even if its answers are only guesses.",
    ),
]
Sharing = Annotated[
    int, typer.Option(min=1, help="Number of processes that share the images; for several machines use torchrun.")
]
Name = Annotated[
    str | None,
    typer.Option(
        help="Name of the defense in record, reports and comparisons; the target or its recipe if left out."
    ),
]
Run = Annotated[Path, typer.Argument(help="Run directory of a trained defense, or zoo:NAME.")]


@dataclass(frozen=True, kw_only=True)
class OwnArguments:
    """The options for a classifier of the user's and its images; `OwnOptions.of` reads them."""

    data: OwnImages = None
    size: Size = None
    geometry: GeometryOption = None
    classes: ClassesOption = None
    weights: OwnWeights = None
    argument: Argument = None
    preprocess: Preprocess = None
    data_dir: DataDir = None
    offline: Offline = False


Options = TypeVar("Options")


def with_options(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Return a decorator that gives a command an argument for each field of a dataclass.

    The fields are annotated with `typer.Option` or `typer.Argument`; the command receives one `options`. Those that
    the dataclass inherits come last.
    """
    hints, own = get_type_hints(options, include_extras=True), inspect.get_annotations(options)
    fields = sorted(inspect.signature(options).parameters.values(), key=lambda one: one.name not in own)

    def decorate(command: Callable[[Options], None]) -> Callable[..., None]:
        @wraps(command)
        def called(**values: Any) -> None:
            command(options(**values))

        described: Any = called
        described.__signature__ = inspect.Signature([one.replace(annotation=hints[one.name]) for one in fields])
        described.__annotations__ = hints
        return called

    return decorate


def check_framing(size: int | None, geometry: str | None, classes: Path | None = None) -> None:
    """Raise ValueError for a size out of range, a geometry or a list of classes that is none, or both sizes."""
    from memory_defense.data.places import check_size

    check_size(size)
    if classes is not None:
        from memory_defense.data.class_map import read_listing

        read_listing(classes)
    if geometry is not None:
        from memory_defense.data.geometry import framing_of

        framing_of(size, geometry)


def check_data_dir(data_dir: Path | None) -> None:
    """Raise ValueError for a directory of a known dataset's files that does not exist."""
    from memory_defense.data.places import check_directory

    if data_dir is not None:
        check_directory(data_dir.expanduser(), "data_dir")


def check_source(source: str | Path, data_dir: Path | None) -> None:
    """Raise ValueError unless this names a known dataset, or a folder or file of arrays that exists."""
    from memory_defense.data.places import place_of
    from memory_defense.data.spec import DATASETS

    if isinstance(source, str) and source in DATASETS:
        check_data_dir(data_dir)
    else:
        place_of(source)


def check_run_images(manifest: Mapping[str, Any], source: str | None, data_dir: Path | None) -> None:
    """Raise ValueError if the images of a run, or the `source` that replaces them, cannot be found."""
    from memory_defense.data.spec import DATASETS
    from memory_defense.run_directory import IMAGES_FROM

    if source is None:
        kept = manifest.get(IMAGES_FROM)
        named = cast("Mapping[str, Any]", kept).get("source") if isinstance(kept, dict) else None
        if (named or manifest["model"]["dataset"]) in DATASETS:
            check_data_dir(data_dir)
    else:
        check_source(source if source in DATASETS else Path(source), data_dir)


def radius(text: str, norm: str = "linf") -> float:
    """Return the radius of a ball of this norm, written as 8/255 or 0.03; raise ValueError for what is none."""
    example = "8/255 or 0.03" if norm == "linf" else "0.5 or 128/255"
    try:
        value = float(Fraction(text.replace(" ", "")))
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(f"--epsilon {text!r} is not a number; write it as {example}") from error
    check_radius(norm, value)
    return value
