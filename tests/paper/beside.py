"""Made-up images for what is measured beside the tables: as many as the scale tiny asks for."""

from __future__ import annotations

from dataclasses import replace

import torch

from memory_defense.data.images import Splits
from paper.made_up import made_up_splits


def made_up_source() -> Splits:
    """Return 200 training images, 100 held-out and 100 test images."""
    splits = made_up_splits(held_out=50)
    enough = replace(splits, train=splits.train.take(torch.arange(200)))
    return replace(enough, held_out=splits.test)


_SPLITS = made_up_source()


def SOURCE(name: str) -> Splits:  # noqa: N802 - a constant to its users
    """Return the images, whatever the name."""
    del name
    return _SPLITS
