"""A run directory: one manifest, weights, training states, records. Nothing here needs torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import TypeAdapter, ValidationError

from memory_defense.checksums import KEY as CHECKSUM
from memory_defense.checksums import fault, sealed
from memory_defense.files import locked, write_text
from memory_defense.model_spec import ModelSpec
from memory_defense.outputs import check_file, check_folder

SCHEMA = 1
FLAG, IMAGES_FROM, HARDENED, HARDENED_CERTIFIED = "flag", "images_from", "hardened", "hardened_certified"
"""Entries that not every manifest has: see `evaluation.flag`, `workflows.run_images`, `recipes.hardened` and
`recipes.hardened_certified`."""
SHIPPED = "shipped"
"""Entry of a manifest, one of its stages, or a shared classifier's header: the zoo's entry that it came with."""
_TRAINING, _IMAGES = "training_sha256", "images_sha256"
"""Entries of a manifest that runs of earlier versions do not have."""
_MOST_BYTES = 1 << 22
_LEAST_ITEM = 4
"""Bytes in the weights that one memory item takes at least: a number."""
_ROOM = 1 << 16
_TYPES: dict[str, type | tuple[type, ...]] = {
    "recipe": str,
    "recipe_sha256": str,
    "seed": int,
    "train_images": int,
    "model": dict,
    "stages": dict,
    "complete": bool,
    "undefended_network": str,
}


CONFIG, WEIGHTS, CARD, RECORD = HUB_FILES = ("config.json", "model.safetensors", "README.md", "record.json")
"""Files of an exported hub folder."""


class MadeBy(Protocol):
    """What a run remembers of the recipe that it is trained by (`recipes.recipe.Recipe`)."""

    @property
    def name(self) -> str:
        """The recipe's name."""
        ...

    @property
    def sha256(self) -> str:
        """SHA-256 of everything that the recipe says."""
        ...

    @property
    def training_sha256(self) -> str:
        """SHA-256 of everything in it that decides the weights."""
        ...

    @property
    def model(self) -> ModelSpec:
        """Specification of the model that it builds."""
        ...

    @property
    def undefended_network(self) -> str:
        """The plain net of the transfer attack; empty where there is none."""
        ...


@dataclass(frozen=True)
class RunDirectory:
    """The files of one trained system; see docs/architecture.md."""

    path: Path

    @property
    def manifest_path(self) -> Path:
        """What was trained, with what, how far."""
        return self.path / "manifest.json"

    @property
    def weights(self) -> Path:
        """File of the whole defense's weights."""
        return self.path / "weights.safetensors"

    @property
    def undefended(self) -> Path:
        """File of the independently trained plain net's weights."""
        return self.path / "undefended.safetensors"

    @property
    def record(self) -> Path:
        """File of the record that its evaluation wrote."""
        return self.path / "record.json"

    @property
    def gallery(self) -> Path:
        """File of the images that the report shows."""
        return self.path / "gallery.safetensors"

    def stage(self, name: str) -> Path:
        """Return where a finished stage's weights are."""
        return self.path / "stages" / f"{name}.safetensors"

    def state(self, name: str) -> Path:
        """Return where an unfinished stage's training state is."""
        return self.path / "stages" / f"{name}.state.safetensors"

    def workshop(self, name: str) -> Path:
        """Return where parts of an unfinished stage's adversarial images are."""
        return self.path / "stages" / f"{name}.offline"

    def only_writer(self) -> AbstractContextManager[None]:
        """Keep every other process from training here; see `files.locked` for what it raises."""
        return locked(self.manifest_path, f"the run {self.path}")

    def begin(
        self, recipe: MadeBy, seed: int, train_images: int, images_sha256: str = "", *, resume: bool
    ) -> dict[str, Any]:
        """Return the manifest of this run, new or continued.

        Parameters
        ----------
        images_sha256
            SHA-256 of the dataset's pixels and labels.

        Raises
        ------
        ValueError
            If the directory already holds a run and `resume` is off, or holds another run's.
        """
        made_by = {
            "recipe": recipe.name,
            "recipe_sha256": recipe.sha256,
            "seed": seed,
            "train_images": train_images,
        }
        if not self.manifest_path.exists():
            self._check_empty()
            manifest = {
                "schema": SCHEMA,
                **made_by,
                _TRAINING: recipe.training_sha256,
                _IMAGES: images_sha256,
                "model": recipe.model.entry(),
                "stages": {},
                "complete": False,
                "undefended_network": recipe.undefended_network,
            }
            self.write(manifest)
            return manifest
        manifest = self.read()
        self.check_new(resume=resume)
        self._check_images(manifest, images_sha256)
        different = [key for key, value in made_by.items() if manifest.get(key) != value]
        if different == ["recipe_sha256"]:
            raise ValueError(
                f"{self.path} holds another run: its recipe {recipe.name} had the sha256 "
                f"{manifest['recipe_sha256'][:12]}, now it has {recipe.sha256[:12]}, so its options or the version "
                "of memory-defense differ and its stages cannot be continued; train again into a new directory, or "
                "continue with the options and the version that began it"
            )
        if different:
            raise ValueError(
                f"{self.path} holds another run ({different[0]} is {manifest.get(different[0])!r}, "
                f"not {made_by[different[0]]!r}); choose another directory"
            )
        return manifest

    def check_same_training(self, recipe: MadeBy, seed: int, train_images: int, images_sha256: str) -> None:
        """Raise ValueError unless this run was trained by this recipe on these images, however it is judged.

        A run of an earlier version does not say all of that; what it says counts.
        """
        manifest = self.read()
        self._check_images(manifest, images_sha256)
        wanted = {"recipe": recipe.name, "seed": seed, "train_images": train_images}
        if _TRAINING in manifest:
            wanted[_TRAINING] = recipe.training_sha256
        for key, value in wanted.items():
            if manifest[key] != value:
                raise ValueError(
                    f"{self.path} holds another run ({key} is {manifest[key]!r}, not {value!r}); "
                    "choose another directory"
                )

    def _check_images(self, manifest: Mapping[str, Any], images_sha256: str) -> None:
        kept = manifest.get(_IMAGES, "")
        if kept and images_sha256 and kept != images_sha256:
            raise ValueError(
                f"{self.path} holds another run: it was trained on other images (their SHA-256 was {kept[:12]}, "
                f"now it is {images_sha256[:12]}); bring those back, or choose another directory"
            )

    def _check_empty(self) -> None:
        """Raise ValueError where a new run would replace files that no run here wrote."""
        ours = (self.weights, self.undefended, self.record, self.gallery)
        there = [path.name for path in ours if path.exists()]
        if there:
            raise ValueError(
                f"{self.path} is not a run but already holds {there[0]}, which one would replace; "
                "choose another directory"
            )

    def check_new(self, *, resume: bool, images: Path | None = None) -> None:
        """Raise ValueError when a run cannot be written here, or one is here already and `resume` is off.

        Nor may the directory be that of the `images`, or hold files that are no run's and that one would replace.
        """
        check_folder(self.path, inputs={"the images": images})
        if not self.manifest_path.exists():
            self._check_empty()
        if not resume and self.manifest_path.exists():
            raise ValueError(
                f"{self.path} already holds a run; continue it with --resume or choose another directory"
            )

    def write(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest with a checksum, atomically."""
        write_text(self.manifest_path, json.dumps(sealed(manifest), indent=1) + "\n")

    def seal(self, manifest: dict[str, Any]) -> None:
        """Write the manifest of a run that is whole, with the hashes of its weights."""
        manifest["sha256"] = {
            path.name: _sha256(path) for path in (self.weights, self.undefended) if path.is_file()
        }
        manifest["complete"] = True
        self.write(manifest)

    def read(self) -> dict[str, Any]:
        """Return the manifest; raise ValueError when there is none or it is damaged."""
        if not self.manifest_path.is_file():
            raise ValueError(
                f"{self.path} is not a run directory: it has no manifest.json; train one with 'memdef train' (a "
                "model of another kind is given as zoo:NAME, package.module:build, hf:DIR, onnx:FILE or FILE.pt2)"
            )
        try:
            with self.manifest_path.open("rb") as source:
                content = source.read(_MOST_BYTES + 1)
            if len(content) > _MOST_BYTES:
                raise ValueError(f"more than {_MOST_BYTES} bytes")
            manifest = json.loads(content)
            if manifest["schema"] != SCHEMA:
                raise ValueError(f"schema {manifest['schema']} is not {SCHEMA}")
            _check(manifest)
        except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.manifest_path} is damaged ({str(error)[:200]}); train again into a new directory"
            ) from error
        if wrong := fault(manifest):
            raise ValueError(f"{self.manifest_path} is damaged: {wrong}")
        return {name: value for name, value in manifest.items() if name != CHECKSUM}

    def read_finished(self) -> dict[str, Any]:
        """Return the manifest of a run that is whole; raise ValueError when it is none, damaged or unfinished."""
        manifest = self.read()
        if not manifest.get("complete"):
            raise ValueError(f"{self.path} is not finished; continue it with 'memdef train --resume'")
        return manifest

    def verify(self, manifest: Mapping[str, Any]) -> None:
        """Raise ValueError unless the weights are those that the manifest of a whole run says.

        A run of an earlier version says nothing about them.
        """
        for path in (self.weights, self.undefended):
            said = manifest.get("sha256", {}).get(path.name)
            if said is not None and path.is_file() and _sha256(path) != said:
                raise ValueError(
                    f"{path} is not what this run wrote (its SHA-256 is another than {self.manifest_path} says): "
                    "damaged or replaced; restore it, or train again into a new directory"
                )

    def check_room(self, manifest: Mapping[str, Any]) -> None:
        """Raise ValueError for a memory larger than the weights file, before room is made for it."""
        items = manifest["model"].get("memory_size")
        if (
            items is not None
            and self.weights.is_file()
            and items * _LEAST_ITEM > self.weights.stat().st_size + _ROOM
        ):
            raise ValueError(
                f"{self.manifest_path} says {items} memory items, more than {self.weights} can hold; "
                "restore it, or train again into a new directory"
            )

    def check_export(self, place: Path, *, folder: bool, force: bool) -> None:
        """Raise ValueError where this run cannot be exported to `place`: a file, or a hub `folder`."""
        own = {f"the run's {path.name}": path for path in (self.weights, self.undefended, self.manifest_path)}
        if not folder:
            check_file(place, example="defense.safetensors", inputs=own)
            if place.exists() and not force:
                raise ValueError(f"{place} already exists; give --force to replace it, or another name")
            return
        check_folder(place)
        if (place / "manifest.json").exists():
            raise ValueError(f"{place} is a run directory and stays one; choose another folder")
        there = [name for name in HUB_FILES if (place / name).exists()]
        if there and not force:
            raise ValueError(f"{place} already holds {there[0]}; give --force to replace it, or another folder")
        if not self.record.is_file() and self.manifest_path.is_file():
            raise ValueError(
                f"{self.path} has no record.json, and a model card states what an evaluation found; "
                f"make one with: memdef evaluate {self.path}"
            )


def _check(manifest: dict[str, Any]) -> None:
    """Raise TypeError, KeyError or ValueError unless a manifest has all that is read from it, of the right type."""
    model = ModelSpec(**manifest["model"])
    try:
        TypeAdapter(ModelSpec).validate_json(json.dumps(model.entry()), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"model: {(first['loc'] or ('all of it',))[-1]}: {first['msg']}") from error
    for key, kind in _TYPES.items():
        if not isinstance(manifest[key], kind):
            raise TypeError(f"{key} is {manifest[key]!r}")
    hashes = manifest.get("sha256", {})
    if not isinstance(hashes, dict) or not all(
        isinstance(one, str) for one in cast("dict[str, Any]", hashes).values()
    ):
        raise TypeError("sha256 is not a table of hashes")


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def is_exported(path: Path) -> bool:
    """Return whether this is a file or a hub folder that ``memdef export`` writes, rather than a run directory."""
    return path.suffix in (".onnx", ".safetensors") or (path / CONFIG).is_file()
