"""One way to call a classifier: whole granules, one layout, rows that stay with their images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from memory_defense.attacks import Apgd, Pgd
from memory_defense.contracts import Classifier
from memory_defense.evaluation.invariance import agreeing_granule
from memory_defense.foreign import ModelError
from memory_defense.passes import (
    GRANULE,
    Regular,
    bfloat16_gradients,
    channels_last,
    fastest_micro_batch,
    granule,
    granules_of,
    micro_batch_for,
    micro_batches_of,
    regular,
    settled_micro_batch,
)
from memory_defense.randomness import ImageDraws
from memory_defense.threat import Linf
from memory_defense.wrappers import CountingPasses, rows_of


class Shifts:
    """Row i adds its own number to the first logit, and says which rows it was asked for."""

    def __init__(self, shifts: Tensor, asked: list[int]) -> None:
        self.shifts, self.asked = shifts, asked

    def __call__(self, images: Tensor) -> Tensor:
        assert len(images) == len(self.shifts)
        self.asked.append(len(images))
        return torch.stack([images.flatten(1).sum(1) + self.shifts, -self.shifts], 1)

    def rows(self, index: Tensor) -> Shifts:
        return Shifts(self.shifts[index], self.asked)


@given(count=st.integers(1, 40), data=st.data())
def test_rows_stay_with_their_images_and_passes_are_whole(count, data) -> None:
    asked: list[int] = []
    model: Classifier = Regular(Shifts(torch.arange(100.0), asked))
    index = torch.tensor(data.draw(st.lists(st.integers(0, 99), min_size=count, max_size=count)))
    images = torch.rand(count, 1, 3, 3)
    logits = rows_of(model, index)(images)
    assert torch.allclose(logits[:, 0], images.flatten(1).sum(1) + index)
    assert torch.equal(logits[:, 1], -index.float())
    assert asked[-1] % GRANULE == 0
    again = rows_of(rows_of(model, index), torch.arange(count).flip(0))(images.flip(0))
    assert torch.equal(again.flip(0), logits)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 64),
        nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


IMAGES = torch.rand(70, 1, 20, 20, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def measured() -> int | None:
    """What holds for `network` on this processor; whether measuring is right has tests of its own."""
    return agreeing_granule(network().requires_grad_(False), IMAGES, len(IMAGES))


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 70))
def test_answers_and_gradients_are_bit_for_bit_those_of_any_batch(measured, count) -> None:
    """Where nothing agrees, they are those of the same batch."""
    model = Regular(network().requires_grad_(False))
    images = IMAGES if measured is not None else IMAGES[:count]

    def both(points: Tensor) -> tuple[Tensor, Tensor]:
        leaf = points.clone().requires_grad_()
        logits = model(leaf)
        (gradient,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
        return logits.detach(), gradient

    with granules_of(measured):
        whole, part = both(images), both(images[:count])
        assert torch.equal(part[0], whole[0][:count])
        assert torch.equal(part[1], whole[1][:count])
        with torch.no_grad():
            assert torch.equal(model(images[:count]), part[0])


def test_a_granule_is_in_force_for_a_block() -> None:
    asked: list[int] = []
    model = Regular(Shifts(torch.arange(40.0), asked))
    for count, passed in ((16, 32), (64, 64), (None, 24)):
        with granules_of(count), granules_of(count):
            rows_of(model, torch.arange(20))(IMAGES[:20])
            assert granule() == (count or GRANULE)
        assert asked[-1] == passed
    assert granule() == GRANULE


def test_passes_are_counted_without_what_fills_them_up() -> None:
    counted = regular(CountingPasses(network()))
    assert isinstance(counted, CountingPasses)
    leaf = torch.rand(5, 1, 20, 20, requires_grad=True)
    counted(leaf).sum().backward()
    assert (counted.passes.forward, counted.passes.backward) == (5, 5)
    assert leaf.grad is not None
    assert regular(regular(counted.model)) is counted.model


def test_a_model_that_views_gets_the_default_layout_from_then_on() -> None:
    calls: list[bool] = []

    def viewing(images: Tensor) -> Tensor:
        calls.append(images.is_contiguous())
        return images.view(len(images), -1)[:, :3]

    model = Regular(viewing)
    colour = torch.rand(8, 3, 4, 4).to(memory_format=torch.channels_last)
    for _ in range(2):
        assert torch.equal(model(colour), colour.contiguous().view(8, -1)[:, :3])
    assert calls == [False, True, True]


def test_what_the_model_gets_wrong_is_still_its_error() -> None:
    with pytest.raises(ModelError, match="mat1"):
        Regular(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))(torch.rand(8, 1, 4, 4))


def test_the_micro_batch_is_chosen_among_what_there_is() -> None:
    images = torch.rand(128, 1, 20, 20)
    assert fastest_micro_batch(network(), images) in (32, 64, 128)
    assert fastest_micro_batch(network(), images[:20]) == micro_batch_for(images.device)
    assert [settled_micro_batch(torch.rand(n, 1, 1, 1)) for n in (20, 63, 64, 130, 5000)] == [
        256,
        256,
        64,
        128,
        256,
    ]
    with micro_batches_of(7):
        assert micro_batch_for(images.device) == 7
        with micro_batches_of(None):
            assert micro_batch_for(images.device) == 7
    with pytest.raises(ValueError, match="at least 1"), micro_batches_of(0):
        pass


def test_bfloat16_is_for_gradients_only_and_off_by_default() -> None:
    kinds: list[torch.dtype] = []

    class Told(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 3)

        def forward(self, images: Tensor) -> Tensor:
            logits = self.linear(images.flatten(1))
            kinds.append(logits.dtype)
            return logits

    model, images = Told().requires_grad_(False), torch.rand(8, 1, 4, 4)
    labels = model(images).argmax(1)
    for wanted, kind in ((False, torch.float32), (True, torch.bfloat16)):
        kinds.clear()
        with bfloat16_gradients(wanted):
            moved = Pgd(steps=3)(model, images, labels, Linf(1e-3), ImageDraws.of(0, "a", 8))
        assert kinds == [torch.float32, kind, kind, kind, torch.float32]
        assert moved.dtype == torch.float32


class Coarse(nn.Module):
    """Two logits so large and so near that bfloat16 cannot tell them apart; the first image's do change places."""

    def forward(self, images: Tensor) -> Tensor:
        level = (images.flatten(1) @ torch.ones(16, 1)).float()[:, 0] / 16
        lead = 0.25 + torch.where(level < 0.5, 10 * (0.45 - level), 0)  # only the dark ones can be broken
        logits = torch.stack([lead + 1000, torch.full_like(lead, 1000.0)], 1)
        return logits.bfloat16().float() if torch.is_autocast_enabled("cpu") else logits


@pytest.mark.parametrize("attack", [Pgd(steps=8), Apgd(steps=8)], ids=["pgd", "apgd"])
def test_what_seems_to_fool_in_bfloat16_is_asked_anew_in_float32(attack) -> None:
    """Or the attack would rest on images that fool nobody, where a few more steps find some that do."""

    class Flipped(Coarse):
        def forward(self, images: Tensor) -> Tensor:  # a tie is an error here, as rounding may well have it
            return super().forward(images) - torch.tensor([1e-3, 0.0])

    model = Flipped()
    images = torch.stack([torch.full((1, 4, 4), level) for level in (0.4, 0.7)])
    labels, ball = torch.zeros(2, dtype=torch.int64), Linf(0.09)
    assert model(images).argmax(1).tolist() == [0, 0]
    for wanted in (False, True):
        with bfloat16_gradients(wanted):
            found = attack(model, images, labels, ball, ImageDraws.of(0, "a", 2))
        assert model(found).argmax(1).tolist() == [1, 0]


class WritesInPlace(nn.Module):
    """Centres its images where they are, as hurried code does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.sub_(0.5).flatten(1))


@pytest.mark.parametrize("channels", [1, 2])
def test_a_model_that_writes_into_its_images_gets_copies(channels: int) -> None:
    torch.manual_seed(0)
    network = WritesInPlace()
    model = Regular(network)
    images = ImageDraws.of(0, "images", 8).uniform(channels, 2, 4 // channels)
    kept = images.clone()
    for _ in range(3):
        logits = model(images)
        assert torch.equal(images, kept)
        torch.testing.assert_close(logits, network.linear((kept - 0.5).flatten(1)))
    labels = logits.argmax(1)
    found = Pgd(steps=3)(network, images, labels, Linf(0.2), ImageDraws.of(0, "attack", 8))
    assert Linf(0.2).contains(found, kept).all()
    assert torch.equal(images, kept)


def test_a_model_that_starts_to_write_later_is_an_error() -> None:
    network = WritesInPlace()
    writes = iter([False, True])
    model = Regular(lambda images: network(images if next(writes) else images.clone()))
    images = torch.full((8, 1, 2, 4), 0.5)
    model(images)
    with pytest.raises(ValueError, match="changed its images in place"):
        model(images)


def test_one_channel_is_laid_out_without_a_copy() -> None:
    for channels, copied in ((1, False), (3, True)):
        images = ImageDraws.of(0, "images", 5).uniform(channels, 4, 6)
        laid_out = channels_last(images)
        assert torch.equal(laid_out, images)
        assert laid_out.stride() == (24 * channels, 1, 6 * channels, channels)
        assert (laid_out.data_ptr() != images.data_ptr()) == copied
        assert channels_last(laid_out) is laid_out
        leaf = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(channels_last(leaf).square().sum(), leaf)
        torch.testing.assert_close(gradient, 2 * images)
