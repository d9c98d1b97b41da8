from collections.abc import Callable

import pytest
import torch

from memory_defense.contracts import Batch
from memory_defense.defenses.memory.defense import MemoryDefense
from memory_defense.defenses.memory.presets import build_memory_defense
from memory_defense.networks.classifiers import Linear
from memory_defense.randomness import ImageDraws

SIZE, CLASSES = 16, 4


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def build() -> Callable[..., MemoryDefense]:
    """Make a small defense in eval mode whose parts are all awake: items, biases and statistics are random."""

    def make(preset: str = "sound", channels: int = 1, size: int = SIZE, **options: object) -> MemoryDefense:
        shape = {"channels": channels, "size": size, "classes": CLASSES}
        constants = {"mean": (0.3,) * channels, "std": (0.4,) * channels}
        selector = Linear(**shape, **constants)
        options = {"memory_size": 5 * CLASSES, **options}
        defense = build_memory_defense(preset=preset, selector=selector, **shape, **constants, **options)
        with torch.no_grad():
            defense.memory.items.normal_()
            for module in defense.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.1)
                    module.running_var.uniform_(0.5, 1.5)
        return defense.eval()

    return make


@pytest.fixture
def batch() -> Callable[..., Batch]:
    def make(count: int = 8, channels: int = 1, size: int = SIZE) -> Batch:
        ids = torch.arange(count)
        labels = torch.randint(CLASSES, (count,))
        draws = ImageDraws.of(0, "test", ids)
        return Batch(torch.rand(count, channels, size, size), labels, ids, draws, 0.0)

    return make
