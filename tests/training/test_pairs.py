"""Images with clean counterparts: both are moved alike, and nothing else changes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from memory_defense.contracts import Batch
from memory_defense.data.augmentation import Augmentation
from memory_defense.data.images import ImageSet
from memory_defense.training.adversarial import Benign, ClassificationLosses
from memory_defense.training.fit import FitConfig, fit

MOVES = Augmentation(crop_padding=2, horizontal_flip=True, vertical_flip=True)
CONFIG = FitConfig(epochs=2, batch_size=8, precision="float32", augmentation=MOVES)


class Recorder(Benign):
    """The benign objective; it keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "seen", [])

    def __call__(self, model: nn.Module, batch: Batch, /) -> ClassificationLosses:
        self.seen.append(batch)
        return super().__call__(model, batch)


def paired(count: int = 24) -> ImageSet:
    """Random images whose pixels are 1 below their clean counterparts."""
    clean = torch.randint(1, 256, (count, 1, 6, 6), generator=torch.Generator().manual_seed(4)).to(torch.uint8)
    return ImageSet(clean - 1, torch.arange(count) % 2, torch.arange(count), clean)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 2))


def test_both_are_moved_alike() -> None:
    objective = Recorder()
    fit(linear(), objective, paired(), CONFIG, seed=1)
    assert len(objective.seen) == 6
    for batch in objective.seen:
        difference = ((batch.clean - batch.images) * 255).round()
        shown = batch.clean > 0  # the border that cropping adds is black in both
        assert torch.equal(difference, shown.float())
    assert any((batch.clean == 0).any() for batch in objective.seen)


def test_counterparts_change_no_weight() -> None:
    images, (one, other) = paired(), (linear(), linear())
    fit(one, Benign(), images, CONFIG, seed=1)
    fit(other, Benign(), replace(images, clean=None), CONFIG, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_without_counterparts_clean_is_the_same_tensor() -> None:
    objective = Recorder()
    fit(linear(), objective, replace(paired(), clean=None), CONFIG, seed=1)
    assert objective.seen
    assert all(batch.clean is batch.images for batch in objective.seen)


@pytest.mark.parametrize("painting", [{"noise_std": 0.1}, {"erase_probability": 0.5}])
def test_painting_over_clean_images_is_refused(painting) -> None:
    config = replace(CONFIG, augmentation=replace(MOVES, **painting))
    with pytest.raises(ValueError, match=f"{next(iter(painting))} would paint.*set them to 0"):
        fit(linear(), Benign(), paired(), config, seed=1)
    fit(linear(), Benign(), replace(paired(), clean=None), config, seed=1)


def test_a_batch_is_rebuilt_with_its_clean_images() -> None:
    images = torch.rand(2, 1, 4, 4)
    batch = Batch(images, torch.zeros(2).long(), torch.arange(2), None, 0.0)
    changed = batch._replace(images=images / 2)
    assert type(changed) is Batch
    assert changed.clean is images
    assert Batch(*changed).clean is images
