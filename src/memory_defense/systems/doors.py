"""The doors that a classifier comes in by: what a target names, and what was loaded; nothing here needs torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from memory_defense.files import check_tensor_file, is_pickle, pickle_refused
from memory_defense.names import check_classifier
from memory_defense.run_directory import CONFIG, is_exported
from memory_defense.systems.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from memory_defense.data.geometry import Geometry

Door = Literal["run", "export", "transformers", "onnx", "program", "code"]
"""A run directory; what ``memdef export`` wrote; a folder of transformers; an ONNX file; a program of torch.export;
``package.module:attribute``."""

PREFIXES: dict[str, Door] = {"hf:": "transformers", "onnx:": "onnx", "pt2:": "program"}
_PROGRAM = ".pt2"
_LITERALS = {"true": "true", "false": "false", "none": "null"}


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A classifier with what its files say about it."""

    module: nn.Module
    """Images (B, C, H, W) in [0, 1] to logits (B, K), in eval mode and on the CPU; its preprocessing included."""
    network: nn.Module
    """The same without its preprocessing."""
    preprocessing: Preprocessing
    """What stands between the two."""
    names: tuple[str, ...] | None = None
    """The classes' names by label; None where the files do not say."""
    geometry: Geometry | None = None
    """How images are brought to its pixels; None where the files do not say."""
    channels: int = 3
    """C of its images."""
    sides: tuple[int, int] | None = None
    """Height and width that it takes; None where it takes any, or the files do not say."""
    notes: tuple[str, ...] = ()
    """What a record says of it, a line each."""
    sha256: str = ""
    """SHA-256 of the file that holds its weights."""


def door_of(target: str) -> Door:
    """Return the door that a target names; a path that is none of the others is taken for a run directory."""
    for prefix, door in PREFIXES.items():
        if target.startswith(prefix):
            return door
    path = Path(target)
    if path.suffix == _PROGRAM:
        return "program"
    if path.suffix == ".onnx":
        return "onnx"
    if is_transformers(path):
        return "transformers"
    if is_exported(path):
        return "export"
    return "code" if ":" in target and not path.exists() else "run"


def path_of(target: str) -> Path:
    """Return the file or folder of a target, without the prefix of its door."""
    prefix = next((one for one in PREFIXES if target.startswith(one)), "")
    return Path(target.removeprefix(prefix)).expanduser()


def is_transformers(path: Path) -> bool:
    """Return whether a folder is one that ``save_pretrained`` of transformers wrote."""
    try:
        said = cast("object", json.loads((path / CONFIG).read_bytes()))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(said, dict) and "model_type" in cast("dict[str, Any]", said)


def check_target(
    target: str,
    weights: Path | None,
    preprocess: str | None,
    *,
    random_weights: bool = False,
    arguments: Sequence[str] | None = None,
) -> None:
    """Raise ValueError for a classifier that no door takes, or options that its door has no use for.

    Weights that are a pickle are refused with the command that converts them.
    """
    door, path = door_of(target), path_of(target)
    if weights is not None:
        check_tensor_file(weights)
        if is_pickle(weights):
            raise pickle_refused(weights)
        if door != "code":
            raise ValueError(f"--weights: only for package.module:build; {target} brings its own")
    if arguments and door != "code":
        raise ValueError(f"--argument: only for package.module:build; {target} is not code, so it takes none")
    arguments_of(arguments or ())
    if random_weights and (door != "code" or weights is not None):
        raise ValueError("--random-weights: only for package.module:build without --weights; leave it out")
    if preprocess is not None:
        Preprocessing.parse(preprocess)
        if door == "export":
            raise ValueError(
                f"--preprocess: not for {target}, which takes images in [0, 1] as exported; leave it out"
            )
    if door == "code":
        check_classifier(target)
    elif door == "transformers" and not (path / CONFIG).is_file():
        raise ValueError(
            f"{path} has no {CONFIG}, so it is not a folder of transformers; write one with "
            f"model.save_pretrained({str(path)!r}) and processor.save_pretrained({str(path)!r})"
        )
    elif (door == "export" or target.endswith(".onnx")) and target == str(path) and not path.exists():
        raise ValueError(f"{target} does not exist; write it with 'memdef export RUN'")
    elif door in ("onnx", "program") and not path.is_file():
        raise ValueError(f"{path} does not exist, or is not a file; give the path of one")


def arguments_of(texts: Sequence[str]) -> dict[str, bool | int | float | str | None]:
    """Return what ``NAME=VALUE`` texts say: numbers, true, false and none as such, all else as text.

    Raises
    ------
    ValueError
        For a text of another form, or a name that is there twice.
    """
    found: dict[str, bool | int | float | str | None] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or name in found:
            raise ValueError(f"--argument {text!r} is not NAME=VALUE, each name once; write depth=50, say")
        try:
            read = cast("object", json.loads(_LITERALS.get(value.lower(), value)))
        except ValueError:
            read = value
        found[name] = read if isinstance(read, (bool, int, float, str, type(None))) else value
    return found


def check_no_pickle(target: str) -> None:
    """Raise ValueError for a target that is a file of weights as torch pickles them, with the way to go on."""
    path = path_of(target)
    if door_of(target) == "run" and path.is_file() and is_pickle(path):
        then = f", and name the code that they belong to: package.module:build --weights {path.stem}.safetensors"
        raise pickle_refused(path, then)
