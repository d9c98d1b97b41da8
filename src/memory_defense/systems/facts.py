"""The facts that an exported file holds about itself: enough to build the model again, and its origin."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from memory_defense.checksums import KEY as CHECKSUM
from memory_defense.checksums import fault, sealed
from memory_defense.data.spec import images_of
from memory_defense.evaluation.flag import KEY as FLAG
from memory_defense.evaluation.flag import kept_flag
from memory_defense.model_spec import ModelSpec, entry
from memory_defense.names import MEMORY_DEFENSE
from memory_defense.run_directory import CONFIG, IMAGES_FROM, WEIGHTS, RunDirectory
from memory_defense.version import __version__

SCHEMA = 1

KEY = "memory_defense"
"""Under this key a safetensors file or an ONNX model holds its facts, as JSON; a folder has `CONFIG`."""

UNDEFENDED = "undefended/"
"""Prefix of the transfer source's tensors in an export; the defense's own have none."""


_LATER = ("width", "geometry")
"""Facts that earlier versions do not read: they are written where they say something."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything in an export but the tensors."""

    schema: int = SCHEMA
    version: str
    """Version of this library that exported it."""
    torch: str
    model: dict[str, Any]
    """The fields of `model_spec.ModelSpec`."""
    undefended_network: str | None
    """Name of the plain net whose adversarial images are tried on the defense; None if it is not in the file."""
    dataset: str
    channels: int
    size: int
    """H = W, in pixels."""
    classes: tuple[str, ...]
    """Names by label."""
    flag: dict[str, Any] | None
    """The fields of `evaluation.flag.Flag`; None without a threshold."""
    recipe: str
    recipe_sha256: str
    seed: int
    train_images: int
    weights_sha256: str = ""
    """SHA-256 of the folder's weights file; empty elsewhere."""
    width: int | None = None
    """W, in pixels, of images that are no squares."""
    geometry: str = ""
    """How images were brought to these pixels (`data.geometry.Geometry.parse`); empty where nothing says it."""

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.size, self.width or self.size

    def spec(self) -> ModelSpec:
        """Return what `systems.build` builds the model from."""
        return ModelSpec(**self.model)

    def foreign_code(self) -> str:
        """Return the user's own code that the model is built from, ``package.module:attribute``, or nothing."""
        names = (str(self.model.get("selector") or ""), self.undefended_network or "")
        return next((name for name in names if ":" in name), "")

    def refuse_foreign_code(self, source: Path) -> None:
        """Raise ValueError where building the model would import code that the file names; files run none."""
        if name := self.foreign_code():
            raise ValueError(
                f"{source}: its network is {name}, code of your own, and an exported file never imports code; "
                "load the run directory itself, or export it with --format onnx, which needs no code"
            )

    def to_json(self) -> str:
        """Return the facts as JSON, keys in the order above."""
        return json.dumps(entry(self, *_LATER), allow_nan=False)

    def to_text(self) -> str:
        """Return the content of a file of its own: laid out, with a checksum."""
        return json.dumps(sealed(entry(self, *_LATER)), indent=1, allow_nan=False) + "\n"


def facts_of(run: RunDirectory) -> Facts:
    """Return the facts of a finished run; raise ValueError where it is none."""
    manifest = run.read()
    model = ModelSpec(**manifest["model"])
    images = images_of(model)
    transfers = run.undefended.is_file() and model.defense == MEMORY_DEFENSE  # others have it in their own weights
    return Facts(
        version=__version__,
        torch=torch.__version__,
        model=dict(manifest["model"]),
        undefended_network=str(manifest["undefended_network"]) if transfers else None,
        dataset=model.dataset,
        channels=images.channels,
        size=images.size,
        classes=images.classes,
        flag=manifest.get(FLAG),
        recipe=str(manifest["recipe"]),
        recipe_sha256=str(manifest["recipe_sha256"]),
        seed=int(manifest["seed"]),
        train_images=int(manifest["train_images"]),
        width=images.width,
        geometry=_geometry(manifest),
    )


def _geometry(manifest: dict[str, Any]) -> str:
    kept = cast("dict[str, Any]", manifest.get(IMAGES_FROM) or {})
    return str(kept.get("geometry") or "")


def read_facts(text: str | bytes, source: Path) -> Facts:
    """Return the facts that `Facts.to_json` wrote into `source`.

    Raises
    ------
    ValueError
        For facts that are damaged, incomplete or of a newer version, naming the file.
    """
    try:
        values: dict[str, Any] = json.loads(text)
        wrong = fault(values)
        values.pop(CHECKSUM, None)
        schema, version = values["schema"], str(values["version"])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise _damaged(source, error) from error
    if schema != SCHEMA:
        raise ValueError(
            f"{source}: what it says about its model has the schema {schema}, this version reads {SCHEMA}; "
            f"install the version that wrote it, memory-defense=={version}, or {made_again(source)}"
        )
    try:
        values["classes"] = tuple(values["classes"])
        facts = Facts(**values)
        facts.spec()
        kept_flag({FLAG: facts.flag}, source)
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise _damaged(source, error) from error
    if wrong:
        raise ValueError(f"{source} is damaged: {wrong}")
    return facts


def _damaged(source: Path, error: Exception) -> ValueError:
    said = f"{type(error).__name__}: {error}"
    return ValueError(f"{source}: what it says about its model is damaged ({said}); {made_again(source)}")


def made_again(source: Path) -> str:
    """Return the remedy for a missing or damaged export: the command that writes it."""
    out, format = source, "onnx" if source.suffix == ".onnx" else "safetensors"
    if source.name == CONFIG or (source.name == WEIGHTS and (source.parent / CONFIG).is_file()):
        out, format = source.parent, "hub-folder"
    return f"download it again, or make it with 'memdef export RUN --format {format} --out {out} --force'"
