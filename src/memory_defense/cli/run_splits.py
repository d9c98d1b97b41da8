"""The images of a run, by the options that several commands share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from memory_defense.data.limits import TYPED, Limits
from memory_defense.workflows import run_images

if TYPE_CHECKING:
    import torch

    from memory_defense.contracts import Progress
    from memory_defense.data.images import Splits
    from memory_defense.run_directory import RunDirectory


def run_splits(
    run: RunDirectory,
    *,
    source: str | None,
    device: torch.device,
    data_dir: Path | None,
    offline: bool,
    progress: Progress,
) -> Splits:
    """Return the images that a run was trained on, or those of `source`; raise what `splits_of` raises."""
    return run_images.splits_of(
        run,
        source=source,
        device=device,
        data_dir=data_dir,
        offline=offline,
        may_update=True,
        progress=progress,
        limits=Limits(words=replace(TYPED, size="", images="")),
    )
