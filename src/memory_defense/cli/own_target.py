"""A user's own classifier, or an exported one, with the images that it is judged on."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from memory_defense.data.images import ImageSet
from memory_defense.data.limits import TYPED, Limits
from memory_defense.data.own import load_images
from memory_defense.data.spec import DATASETS
from memory_defense.evaluation.options import Options
from memory_defense.run_directory import is_exported
from memory_defense.systems.load import load_defense
from memory_defense.systems.own_model import build_user_model, check_classes
from memory_defense.workflows.folder_order import ASKED, counts_otherwise, on_outputs

if TYPE_CHECKING:
    import torch
    from torch import nn

    from memory_defense.contracts import Progress


@dataclass(frozen=True, kw_only=True)
class OwnTarget:
    """The classifier, its images, and what a record says of both."""

    model: nn.Module
    images: ImageSet
    target: str
    dataset: str
    notes: tuple[str, ...]
    weights_sha256: str

    def named(self, options: Options) -> Options:
        """Return the options with the ids and notes of this target, and its name where they give none."""
        return replace(
            options,
            ids=self.images.ids,
            defense=self.target if options.defense == Options.defense else options.defense,
            dataset=self.dataset,
            notes=self.notes,
            weights_sha256=self.weights_sha256,
        )


def own_target(
    target: str,
    *,
    source: str,
    weights: Path | None,
    size: int | None,
    geometry: str | None = None,
    classes: Path | None = None,
    images: int | None,
    data_dir: Path | None,
    offline: bool,
    device: torch.device,
    progress: Progress,
) -> OwnTarget:
    """Return what the options of a command name; raise ValueError for what does not fit together."""
    read = functools.partial(
        load_images,
        source,
        size=size,
        geometry=geometry,
        images=images,
        limits=Limits(words=TYPED),
        data_dir=data_dir if source in DATASETS else None,
        offline=offline,
        may_update=True,
        progress=progress,
    )
    data = read()
    height, width = data.images.images.shape[2:]
    progress.begin("loading the model", 0)
    model = (
        load_defense(target)
        if is_exported(Path(target))
        else build_user_model(
            target,
            classes=len(data.classes),
            channels=data.channels,
            size=height if height == width else (height, width),
            weights=weights,
            more_outputs=True,
        )
    ).to(device)
    data = on_outputs(model, data, device, classes=classes, progress=progress)
    check_classes(target, model, data.images.first(1).to(device).floats(), len(data.classes))
    asked = data.images.first(min(ASKED, len(data.images))).to(device)
    if why := counts_otherwise(model, asked, data.classes, data.otherwise):
        progress.note(why)
        data = read(classes=data.otherwise)
        data = replace(data, notes=(*data.notes, why))
    return OwnTarget(
        model=model,
        images=data.images,  # not on the device: each pass takes its own there
        target=target,
        dataset=data.name,
        notes=data.notes,
        weights_sha256="" if weights is None else hashlib.sha256(weights.read_bytes()).hexdigest(),
    )
