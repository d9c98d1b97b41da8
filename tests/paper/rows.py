"""Made-up data for the rows of a table at scale tiny, and a display that remembers."""

from __future__ import annotations

import torch

from memory_defense.data.images import ImageSet, Splits
from memory_defense.data.spec import DATASETS


def splits(name: str) -> Splits:
    spec = DATASETS[name]

    def some(count: int, seed: int) -> ImageSet:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % len(spec.classes)
        pixels = torch.randint(0, 60, (count, spec.channels, spec.size, spec.size), generator=generator)
        pixels[torch.arange(count), :, labels, :] += 150  # a bright row tells the class
        return ImageSet(pixels.to(torch.uint8), labels, torch.arange(count))

    return Splits(train=some(200, 0), held_out=some(100, 1), test=some(20, 2), spec=spec)


class Notes:
    """A `Progress` that keeps what it is told."""

    def __init__(self) -> None:
        self.notes = list[str]()

    def begin(self, what: str, total: int) -> None: ...

    def advance(self, steps: int, text: str = "") -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)
