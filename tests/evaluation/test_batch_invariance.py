"""The measured granule, on layers that round as other processors do, and what an evaluation then keeps."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rounding
from evaluation.helpers_evaluation import SlotToy, grey
from memory_defense.attacks import ATTACKS, Fgsm, Pgd, Square
from memory_defense.evaluation import invariance
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.invariance import agreeing_granule, draws_at_random, largest_pass, measured
from memory_defense.evaluation.record import BatchInvariance
from memory_defense.passes import granules_of, micro_batches_of, regular
from memory_defense.randomness import ImageDraws
from memory_defense.ranks import current
from memory_defense.threat import L2, Linf

EXPECTED = {"exact": 8, "small-batches": 16, "positions": None, "blocks": 64}
IMAGES = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Flatten(), rounding.Linear(name, 64, 48), nn.ReLU(), rounding.Linear(name, 48, 5))
    return nn.Sequential(*layers).requires_grad_(False)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize(("images", "largest"), [(1, 64), (8, 64), (40, 64), (40, 200), (40, 256)])
def test_the_granule_is_what_the_layers_need(name: str, gradients: bool, images: int, largest: int) -> None:
    found = agreeing_granule(network(name), IMAGES[:images], largest, gradients=gradients)
    assert found == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_measured_is_what_regular_passes_keep(name: str) -> None:
    """By brute force: every number of images, in another order, against all of them."""
    model, needed = regular(network(name)), EXPECTED[name]

    def both(rows: Tensor) -> tuple[Tensor, Tensor]:
        leaf = IMAGES[rows].requires_grad_()
        logits = model(leaf)
        return logits.detach(), torch.autograd.grad(logits.square().sum(), leaf)[0]

    def kept(count: int | None) -> bool:
        with granules_of(count):
            whole = both(torch.arange(40))
            for size in range(1, 41):
                rows = torch.randperm(40, generator=torch.Generator().manual_seed(size))[:size]
                if not all(torch.equal(one, other[rows]) for one, other in zip(both(rows), whole, strict=True)):
                    return False
        return True

    counts = [8, 16, 32, 64]
    assert [kept(one) for one in counts] == [needed is not None and one >= needed for one in counts]


class Backwards(nn.Module):
    """Exact answers; the gradient alone is rounded by the batch."""

    def forward(self, images: Tensor) -> Tensor:
        return _Half.apply(network("exact")(images), images)


class _Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, images: Tensor) -> Tensor:
        ctx.shape = images.shape
        return logits.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor]:
        rows = gradient.sum(1) * (1 + 1e-7 * (len(gradient) < 16))
        return None, rows[:, None, None, None].expand(ctx.shape) * 1.0


def test_gradients_count_where_they_are_followed() -> None:
    model = Backwards()
    assert agreeing_granule(model, IMAGES, 64) == 16
    assert agreeing_granule(model, IMAGES, 64, gradients=False) == 8


def test_rows_stay_with_their_images() -> None:
    defense = SlotToy(repeats=False)
    case = Case(name="pgd", attack=Pgd(steps=1), knowledge="fixed-slots", ball=Linf(0.1))
    levels = torch.linspace(0.1, 0.9, 24).tolist()
    images = grey(levels)
    found = measured(defense, defense.surrogates(), [case], images, torch.arange(24), largest=24, seed=0)
    assert found.granule is not None
    rows = torch.arange(24)

    @dataclass(frozen=True)
    class Named:
        """Answers by its own number, and refuses a batch of another length."""

        numbers: Tensor

        def __call__(self, points: Tensor) -> Tensor:
            assert len(points) == len(self.numbers)
            return torch.stack([points.flatten(1)[:, 0], self.numbers.float()], 1)

        def rows(self, index: Tensor) -> Named:
            return Named(self.numbers[index])

    assert agreeing_granule(Named(rows), images, 256) == 8


def nervous(images: Tensor) -> Tensor:
    return network("exact")(images) + 0.1 * torch.randn(len(images), 5) + 0.1 * random.random() + np.random.rand()


def test_chance_is_told_from_rounding_and_its_generators_are_left_alone() -> None:
    assert draws_at_random(nervous, IMAGES)
    assert not draws_at_random(network("positions"), IMAGES)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    case = Case(name="square", attack=Square(), knowledge="end-to-end", ball=Linf(0.1))
    found = measured(nervous, {"end-to-end": nervous}, [case], IMAGES, torch.arange(40), largest=64, seed=0)
    assert found == BatchInvariance(granule=None, randomised=True)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])


def broken(images: Tensor) -> Tensor:
    raise RuntimeError("no")


def small(images: Tensor) -> Tensor:
    if len(images) > 16:
        raise torch.OutOfMemoryError("too many")
    return network("exact")(images)


class Learns(nn.Module):
    """Remembers what it was asked, and answers by it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.asked += 1
        return network("exact")(images) + self.asked


@pytest.mark.parametrize(
    ("model", "granule"),
    [(broken, None), (small, 8), (lambda images: images.long(), None), (Learns(), None)],
    ids=["broken", "little memory", "no logits", "learns"],
)
def test_a_model_may_be_anything(model, granule) -> None:
    case = Case(name="fgsm", attack=Fgsm(), knowledge="it", ball=Linf(0.1))
    found = measured(model, {"it": model}, [case], IMAGES, torch.arange(40), largest=200, seed=0)
    assert found.granule == granule
    if isinstance(model, Learns):
        assert model.asked == 0


def test_a_few_images_are_measured_by_a_few() -> None:
    asked: list[int] = []

    def counted(images: Tensor) -> Tensor:
        asked.append(len(images))
        return images.flatten(1)[:, :3]

    case = Case(name="fgsm", attack=Fgsm(), knowledge="it", ball=Linf(0.1))
    largest = largest_pass(8, torch.device("cpu"), None, [case])
    measured(counted, {"it": counted}, [case], IMAGES[:8], torch.arange(8), largest=largest, seed=0)
    assert sum(asked) <= 192
    asked.clear()
    largest = largest_pass(5000, torch.device("cpu"), None, [case])
    measured(counted, {"it": counted}, [case], IMAGES, torch.arange(40), largest=largest, seed=0)
    assert max(asked) == 256
    assert sum(asked) <= 4000


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_keep_within_the_largest_pass(name: str) -> None:
    """And those which do not say so may send more: then larger passes are measured."""
    model, called = network("exact"), list[int]()

    def counted(images: Tensor) -> Tensor:
        called.append(len(images))
        return model(images)

    images = IMAGES[:16]
    attack = ATTACKS[name]()
    budget = {"steps": 4, "queries": 60, "targets": 3, "restarts": 2}
    attack = type(attack)(**{key: value for key, value in budget.items() if hasattr(attack, key)})
    ball = (L2 if name in ("cw", "ddn") else Linf)(0.01)
    largest = largest_pass(
        16, torch.device("cpu"), None, [Case(name=name, attack=attack, knowledge="it", ball=ball)]
    )
    with micro_batches_of(largest):
        attack(counted, images, model(images).argmax(1), ball, ImageDraws.of(0, "a", 16))
    assert max(called) <= largest


def test_ranks_keep_the_weakest() -> None:
    class Gathered:
        def __init__(self, *others: tuple[int, int]) -> None:
            self.others = others

        def gather(self, tensors):
            return [tensors, *({"found": torch.tensor(one)} for one in self.others)]

    mine = BatchInvariance(granule=8)
    assert invariance.weakest(mine, current()) == mine
    assert invariance.weakest(mine, Gathered((8, 0), (16, 0))) == BatchInvariance(granule=16)  # pyright: ignore
    assert invariance.weakest(mine, Gathered((0, 0))) == BatchInvariance(granule=None)  # pyright: ignore
    assert invariance.weakest(mine, Gathered((0, 1))) == BatchInvariance(granule=None, randomised=True)  # pyright: ignore


def test_a_granule_that_does_not_fit_is_not_promised() -> None:
    def tiny(images: Tensor) -> Tensor:
        if len(images) > 8 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("too many")
        return network("small-batches")(images)

    case = Case(name="fgsm", attack=Fgsm(), knowledge="it", ball=Linf(0.1))
    found = measured(tiny, {"it": tiny}, [case], IMAGES, torch.arange(40), largest=40, seed=0)
    assert found == BatchInvariance(granule=8)  # of 8 images there is one batch only
    both = {"it": tiny, "defense": network("small-batches")}
    found = measured(both["defense"], both, [case], IMAGES, torch.arange(40), largest=40, seed=0)
    assert found == BatchInvariance(granule=None)


def test_a_model_that_multiplies_groups_of_its_batch_is_found_out() -> None:
    """As Memory Defense does with the images of a slot: how large a group is decides how its product rounds."""

    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.parts = nn.ModuleList(nn.Linear(144, 5) for _ in range(2))

        def forward(self, images: Tensor) -> Tensor:
            rows = images.flatten(1)
            bright = rows.mean(1) > 0.5
            logits = rows.new_zeros(len(rows), 5)
            for part, mine in zip(self.parts, (bright, ~bright), strict=True):
                chosen = rows[mine]
                one = torch.full((), 1 + 2**-20 * (len(chosen) % 7))  # rounding that depends on the group's size
                logits = logits.index_put((mine.nonzero().squeeze(1),), part(chosen) * one)
            return logits

    model = Grouped()
    for count in (16, 40, 64, 128):
        images = torch.rand(count, 1, 12, 12, generator=torch.Generator().manual_seed(count))
        assert agreeing_granule(model, images, count) is None
