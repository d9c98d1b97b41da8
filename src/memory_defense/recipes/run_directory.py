"""A run directory: one manifest, weights, training states, records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memory_defense.files import write_text
from memory_defense.recipes.recipe import ModelSpec, Recipe

SCHEMA = 1


@dataclass(frozen=True)
class RunDirectory:
    """Where everything of one trained system lives; see docs/architecture.md."""

    path: Path

    @property
    def manifest_path(self) -> Path:
        """What was trained, with what, how far."""
        return self.path / "manifest.json"

    @property
    def weights(self) -> Path:
        """The whole defense."""
        return self.path / "weights.safetensors"

    @property
    def undefended(self) -> Path:
        """The independently trained plain net."""
        return self.path / "undefended.safetensors"

    @property
    def record(self) -> Path:
        """What the evaluation found."""
        return self.path / "record.json"

    @property
    def gallery(self) -> Path:
        """Images behind the report."""
        return self.path / "gallery.safetensors"

    def stage(self, name: str) -> Path:
        """Return where a finished stage's weights are."""
        return self.path / "stages" / f"{name}.safetensors"

    def state(self, name: str) -> Path:
        """Return where an unfinished stage's training state is."""
        return self.path / "stages" / f"{name}.state.safetensors"

    def begin(self, recipe: Recipe, seed: int, train_images: int, *, resume: bool) -> dict[str, Any]:
        """Return the manifest of this run, new or continued.

        Raises
        ------
        ValueError
            When the directory already holds a run and `resume` is off, or holds another run's.
        """
        made_by = {
            "recipe": recipe.name,
            "recipe_sha256": recipe.sha256,
            "seed": seed,
            "train_images": train_images,
        }
        if not self.manifest_path.exists():
            manifest = {
                "schema": SCHEMA,
                **made_by,
                "model": asdict(recipe.model),
                "stages": {},
                "complete": False,
            }
            manifest["undefended_network"] = recipe.undefended_network
            self.write(manifest)
            return manifest
        manifest = self.read()
        if not resume:
            raise ValueError(
                f"{self.path} already holds a run; continue it with --resume or choose another directory"
            )
        different = [key for key, value in made_by.items() if manifest.get(key) != value]
        if different:
            raise ValueError(
                f"{self.path} holds another run ({different[0]} is {manifest.get(different[0])!r}, "
                f"not {made_by[different[0]]!r}); choose another directory"
            )
        return manifest

    def write(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, atomically."""
        write_text(self.manifest_path, json.dumps(manifest, indent=1) + "\n")

    def read(self) -> dict[str, Any]:
        """Return the manifest; raise ValueError when there is none or it is damaged."""
        if not self.manifest_path.is_file():
            raise ValueError(
                f"{self.path} is not a run directory: it has no manifest.json; train with 'memdef train'"
            )
        try:
            manifest = json.loads(self.manifest_path.read_text(encoding="utf-8"))
            if manifest["schema"] != SCHEMA:
                raise ValueError(f"schema {manifest['schema']} is not {SCHEMA}")
            ModelSpec(**manifest["model"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.manifest_path} is damaged ({error}); train again into a new directory"
            ) from error
        return manifest
