"""``memdef export`` for a classifier that is no run: an ONNX file of images in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from memory_defense.systems.doors import check_target, door_of, path_of

_COMPARED = 64
"""Real images that the file is compared on, at most."""


@dataclass(frozen=True, kw_only=True)
class ToExport:
    """A classifier, and the images that say its classes and its pixels."""

    target: str
    out: Path | None
    force: bool
    data: str | None
    size: int | None
    geometry: str | None
    classes: Path | None
    weights: Path | None
    argument: list[str] | None
    preprocess: str | None
    random_weights: bool
    data_dir: Path | None
    offline: bool

    @property
    def place(self) -> Path:
        """Where the file goes: as said, or here by the classifier's own name."""
        if self.out is not None:
            return self.out
        named = self.target.partition(":")[0] if door_of(self.target) == "code" else path_of(self.target).stem
        return Path(f"{named}.exported.onnx")

    def check(self, format: str) -> None:
        """Raise ValueError for options that do not go together, and for a place that cannot be written."""
        from memory_defense.cli.arguments import check_framing, check_source
        from memory_defense.outputs import check_file

        if format != "onnx":
            raise ValueError(
                f"--format {format}: {self.target} is no run, whose parts a file could name; give --format onnx"
            )
        if door_of(self.target) == "export":
            raise ValueError(f"{self.target} is an export already; export the run itself with --format onnx")
        if self.data is None:
            raise ValueError("which images? give --data: a folder, a file of arrays, fashion-mnist or cifar10")
        check_target(
            self.target,
            self.weights,
            self.preprocess,
            random_weights=self.random_weights,
            arguments=self.argument,
        )
        check_framing(self.size, self.geometry, self.classes)
        check_source(self.data, self.data_dir)
        if self.place.exists() and not self.force:
            raise ValueError(f"{self.place} already exists; give --force to replace it, or another name")
        check_file(self.place, example="classifier.onnx", inputs={"the classifier": path_of(self.target)})


def export_classifier(options: ToExport) -> None:
    """Write the file, and say how it was checked."""
    import torch

    from memory_defense.cli.own_target import own_target
    from memory_defense.cli.progress import shown
    from memory_defense.systems.classifier_export import export_classifier as write
    from memory_defense.systems.onnx_foreign import Described

    with shown() as progress:
        own = own_target(
            options.target,
            source=options.data or "",
            weights=options.weights,
            arguments=options.argument,
            preprocess=options.preprocess,
            random_weights=options.random_weights,
            size=options.size,
            geometry=options.geometry,
            classes=options.classes,
            images=_COMPARED,
            data_dir=options.data_dir,
            offline=options.offline,
            device=torch.device("cpu"),
            progress=progress,
        )
        progress.begin(f"exporting {options.target} as onnx", 0)
        geometry = options.geometry or own.loaded.geometry
        described = Described(
            classes=own.classes,
            geometry="" if geometry is None else str(geometry),
            source=options.target,
            notes=(f"exported from {options.target}", *own.model_notes),
        )
        done = write(own.model, options.place, own.images.floats(), described)
    typer.echo(f"exported: {done.path}\nchecked: {done.checked}\nload it: memory_defense.load({str(done.path)!r})")
