"""``memdef predict`` for a classifier that is no run: labels and confidences, without a flag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from memory_defense.cli.machine import Machine
from memory_defense.cli.predicted import SOME_UNREADABLE, counted, print_json, print_table
from memory_defense.systems.doors import LoadedModel, check_target, door_of

if TYPE_CHECKING:
    from memory_defense.cli.predicted import Line
    from memory_defense.data.geometry import Framing

_CLASSES_SEEN = 64
"""Images of --data that are read at most, to see in which order the classes are."""


@dataclass(frozen=True, kw_only=True)
class Pictured:
    """A classifier, the pictures that it is asked about, and what brings them to its pixels."""

    target: str
    pictures: Sequence[Path]
    data: str | None
    size: int | None
    geometry: str | None
    classes: Path | None
    weights: Path | None
    argument: list[str] | None
    preprocess: str | None
    batch: int
    data_dir: Path | None
    offline: bool

    def check(self, flags: Mapping[str, object]) -> None:
        """Raise ValueError for options that do not go together; those in `flags` are for trained defenses alone."""
        from memory_defense.cli.arguments import check_framing, check_source

        if only := [name for name, value in flags.items() if value is not None]:
            raise ValueError(f"{', '.join(only)}: only for a run directory; {self.target} has no flag")
        check_target(self.target, self.weights, self.preprocess, arguments=self.argument)
        check_framing(self.size, self.geometry, self.classes)
        if self.data is not None:
            check_source(self.data, self.data_dir)
        elif door_of(self.target) == "code":
            raise ValueError(
                f"{self.target} does not say its classes and its pixels; give --data, images such as it was "
                "trained on"
            )
        if not any(path.exists() for path in self.pictures):
            named = " or ".join(map(str, self.pictures))
            raise ValueError(f"there is no {named}; give image files, folders of them, or .npz files")


def predict_classifier(options: Pictured, machine: Machine, *, as_json: bool) -> None:
    """Print what a classifier says of pictures."""
    device = machine.ready()

    from memory_defense.cli.own_target import own_target
    from memory_defense.cli.progress import shown
    from memory_defense.data.limits import TYPED, Limits
    from memory_defense.data.pictures import Unreadable, pictures
    from memory_defense.systems.load import load_model
    from memory_defense.workflows.predict import predict

    kept: list[Line] = []
    with shown(live=not as_json) as progress:
        if options.data is None:
            loaded = load_model(options.target, options.preprocess)
            model, names, framing = loaded.module.to(device), loaded.names, _framing(options, loaded)
        else:
            own = own_target(
                options.target,
                source=options.data,
                weights=options.weights,
                arguments=options.argument,
                preprocess=options.preprocess,
                look=False,
                size=options.size,
                geometry=options.geometry,
                classes=options.classes,
                images=_CLASSES_SEEN,
                data_dir=options.data_dir,
                offline=options.offline,
                device=device,
                progress=progress,
            )
            loaded, model, names = own.loaded, own.model, own.classes
            framing = _framing(options, loaded) or own.size
        source = pictures(
            options.pictures,
            channels=loaded.channels,
            size=framing if isinstance(framing, int) else None,
            limits=Limits(words=TYPED),
            geometry=None if isinstance(framing, int) else framing,
        )
        progress.begin("predicting, images done", 0)
        lines = counted(predict(model, None, source, classes=names, batch=options.batch), progress)
        failed = print_json(lines) if as_json else 0
        if not as_json:
            kept.extend(lines)
    if not as_json:
        failed = sum(isinstance(one, Unreadable) for one in kept)
        print_table(iter(kept), "A classifier without a flag.", flagged=False)
    if failed:
        raise typer.Exit(SOME_UNREADABLE)


def _framing(options: Pictured, loaded: LoadedModel) -> Framing:
    from memory_defense.data.geometry import Geometry, framing_of

    if options.size is not None or options.geometry is not None:
        return framing_of(options.size, options.geometry)
    if loaded.geometry is not None:
        return loaded.geometry
    return None if loaded.sides is None else Geometry(resize=loaded.sides)
