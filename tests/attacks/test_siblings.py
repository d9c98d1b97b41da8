"""Several targets in one pass find, and cost, what one target after the other does."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from attacks import victims
from memory_defense.attacks import ApgdTargeted, FabTargeted, apgd, fab
from memory_defense.attacks.engine import Victim
from memory_defense.attacks.targets import Siblings, together
from memory_defense.contracts import Attack, Ball
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.wrappers import CountingPasses
from memory_defense.wrappers.counting import Passes

COUNT = 24
ATTACKS: dict[str, tuple[ModuleType, Attack]] = {
    "apgd-t": (apgd, ApgdTargeted(steps=12, targets=3)),
    "apgd-t, no stops": (apgd, ApgdTargeted(steps=12, targets=3).for_transfer()),
    "fab-t": (fab, FabTargeted(steps=12, targets=3, stop_when_fooled=True)),
    "fab-t, closest": (fab, FabTargeted(steps=12, targets=3)),
    "fab-t, best effort": (fab, FabTargeted(steps=12, targets=3, stop_when_fooled=True).for_transfer()),
}


def one_after_the_other(victim: Victim, images: int, rank: int, targets: int) -> range:
    """Stand in for `together`."""
    del victim, images, targets
    return range(rank, rank + 1)


def run(attack: Attack, ball: Ball) -> tuple[Tensor, Passes, int]:
    """Return the images, the counted passes, and how many fool a model whose every row differs."""
    bound = victims.row_bound(COUNT)
    images = victims.images(COUNT, seed=9)
    labels = victims.right_answers(bound, images)
    counted = CountingPasses(bound)
    found = attack(counted, images, labels, ball, ImageDraws.of(3, "attack", COUNT))
    return found, counted.passes, int((bound(found).argmax(1) != labels).sum())


@pytest.mark.parametrize("ball", [Linf(0.06), L2(0.4)], ids=["linf", "l2"])
@pytest.mark.parametrize("name", ATTACKS)
def test_targets_together_find_and_cost_what_they_do_one_by_one(
    name: str, ball: Ball, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, attack = ATTACKS[name]
    groups: list[range] = []

    def noted(victim: Victim, images: int, rank: int, targets: int) -> range:
        groups.append(together(victim, images, rank, targets))
        return groups[-1]

    monkeypatch.setattr(home, "together", noted)
    found, spent, fooled = run(attack, ball)
    assert groups == [range(3)]
    monkeypatch.setattr(home, "together", one_after_the_other)
    expected, cost, _ = run(attack, ball)
    assert torch.equal(found, expected)
    assert spent == cost
    assert 0 < fooled < COUNT


def test_as_many_targets_as_fit_into_a_micro_batch_run_together() -> None:
    victim = Victim(victims.mlp(), torch.zeros(100, dtype=torch.long), micro_batch=64)
    assert together(victim, 100, 2, 9) == range(2, 3)
    assert together(victim, 33, 2, 9) == range(2, 3)
    assert together(victim, 32, 2, 9) == range(2, 4)
    assert together(victim, 1, 2, 9) == range(2, 9)


def test_a_copy_is_dropped_only_for_an_earlier_sibling() -> None:
    victim = Victim(victims.mlp(), torch.zeros(10, dtype=torch.long), micro_batch=64)
    group = Siblings(victim, torch.tensor([4, 7]), range(1, 4))
    assert group.index.tolist() == [4, 7, 4, 7, 4, 7]
    assert group.rank.tolist() == [1, 1, 2, 2, 3, 3]
    group.settle(torch.tensor([2, 5]))  # row 4 by rank 2, row 7 by rank 3
    assert group.needed(torch.arange(6)).tolist() == [True, True, True, True, False, True]
    group.settle(torch.tensor([1]))  # row 7 by rank 1 after all
    assert group.needed(torch.arange(6)).tolist() == [True, True, True, False, False, False]
    assert [(at.tolist(), copies.tolist()) for at, copies in group.by_rank()] == [
        ([4, 7], [0, 1]),
        ([4], [2]),
        ([], []),
    ]
