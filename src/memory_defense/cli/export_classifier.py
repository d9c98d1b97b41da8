"""``memdef export`` for a classifier that is no run: an ONNX file of images in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from memory_defense.cli.own_options import OwnOptions
from memory_defense.systems.doors import door_of, path_of

_COMPARED = 64
"""Real images that the file is compared on, at most."""


@dataclass(frozen=True, kw_only=True)
class ToExport:
    """A classifier, the images that say its classes and its pixels, and where the file goes."""

    own: OwnOptions
    out: Path | None
    force: bool

    @property
    def place(self) -> Path:
        """Where the file goes: as said, or here by the classifier's own name."""
        if self.out is not None:
            return self.out
        target = self.own.target
        named = target.partition(":")[0] if door_of(target) == "code" else path_of(target).stem
        return Path(f"{named}.exported.onnx")

    def check(self, format: str) -> None:
        """Raise ValueError for options that do not go together, and for a place that cannot be written."""
        from memory_defense.outputs import check_file

        target = self.own.target
        if format != "onnx":
            raise ValueError(
                f"--format {format}: only a trained run can be written in it, and {target} is a classifier; give "
                "--format onnx"
            )
        if door_of(target) == "export":
            raise ValueError(f"{target} is an export already; export the run itself with --format onnx")
        self.own.check()
        if self.place.exists() and not self.force:
            raise ValueError(f"{self.place} already exists; give --force to replace it, or another name")
        check_file(self.place, example="classifier.onnx", inputs={"the classifier": path_of(target)})


def export_classifier(options: ToExport) -> None:
    """Write the file, and say how it was checked."""
    import torch

    from memory_defense.cli.progress import shown
    from memory_defense.systems.classifier_export import export_classifier as write
    from memory_defense.systems.onnx_foreign import Described

    with shown() as progress:
        own = options.own.load(torch.device("cpu"), progress, images=_COMPARED)
        progress.begin(f"exporting {options.own.target} as onnx", 0)
        geometry = options.own.geometry or own.loaded.geometry
        described = Described(
            classes=own.classes,
            geometry="" if geometry is None else str(geometry),
            source=options.own.target,
            notes=(f"exported from {options.own.target}", *own.model_notes),
        )
        done = write(own.model, options.place, own.images.floats(), described)
    typer.echo(f"exported: {done.path}\nchecked: {done.checked}\nload it: memory_defense.load({str(done.path)!r})")
