"""``memdef predict`` for a classifier that is no run: labels and confidences, without a flag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from memory_defense.cli.machine import Machine
from memory_defense.cli.own_options import OwnOptions
from memory_defense.cli.predicted import SOME_UNREADABLE, counted, print_json, print_table
from memory_defense.systems.doors import door_of

if TYPE_CHECKING:
    from memory_defense.cli.predicted import Line

_CLASSES_SEEN = 64
"""Images of --data that are read at most, to see in which order the classes are."""


@dataclass(frozen=True, kw_only=True)
class Pictured:
    """A classifier, the pictures that it is asked about, and what brings them to its pixels."""

    own: OwnOptions
    pictures: Sequence[Path]
    batch: int

    def check(self, flags: Mapping[str, object]) -> None:
        """Raise ValueError for options that do not go together; those in `flags` are for trained defenses alone."""
        target = self.own.target
        if only := [name for name, value in flags.items() if value is not None]:
            raise ValueError(f"{', '.join(only)}: only for a run directory; {target} has no flag")
        self.own.check(images=False)
        if self.own.data is None and door_of(target) == "code":
            raise ValueError(
                f"the classes and the image size of {target} are unknown; give --data, images like those of its "
                "training"
            )
        if not any(path.exists() for path in self.pictures):
            named = " or ".join(map(str, self.pictures))
            raise ValueError(f"there is no {named}; give image files, folders of them, or .npz files")


def predict_classifier(options: Pictured, machine: Machine, *, as_json: bool) -> None:
    """Print what a classifier says of pictures."""
    device = machine.ready()

    from memory_defense.cli.progress import shown
    from memory_defense.data.limits import TYPED, Limits
    from memory_defense.data.pictures import Unreadable, pictures
    from memory_defense.systems.load import load_model
    from memory_defense.workflows.predict import predict

    kept: list[Line] = []
    with shown(live=not as_json) as progress:
        asked = options.own
        if asked.data is None:
            loaded = load_model(asked.target, asked.preprocess)
            model, names, framing = loaded.module.to(device), loaded.names, asked.framing(loaded)
        else:
            own = asked.load(device, progress, images=_CLASSES_SEEN, look=False)
            loaded, model, names = own.loaded, own.model, own.classes
            framing = asked.framing(loaded) or own.size
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
