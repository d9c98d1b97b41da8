"""The grouped read is the dense read, for every threshold, batch and pattern of slots."""

import math

import pytest
import torch
from torch import Tensor

from memory_defense.defenses.memory.slots import SlotMemory, class_mask

K, S, D = 6, 4, 5
M = K * S
REGIMES = {
    "never fires": (1e-12, False),
    "just below firing": (0.999 * math.exp(-2) / M, True),
    "fires": (1 / M, False),
    "fires, one kept": (1 / M, True),
    "empties slots": (2.5 / M, False),
    "leaves one": (0.9, True),
}
PATTERNS = {
    "mixed": lambda count: torch.randint(K, (count,)),
    "one slot": lambda count: torch.full((count,), K - 1),
    "missing slots": lambda count: torch.randint(2, (count,)) * 3,
    "descending": lambda count: torch.arange(count).flip(0) % K,
}


def memory(regime: str, dtype: torch.dtype = torch.float64) -> SlotMemory:
    threshold, keep_one = REGIMES[regime]
    made = SlotMemory(items=M, code_size=D, classes=K, shrink_threshold=threshold, keep_one=keep_one)
    with torch.no_grad():
        made.items.normal_()
    return made.to(dtype).eval()


def dense(store: SlotMemory, codes: Tensor, slots: Tensor) -> Tensor:
    return store.read(store.address(codes, class_mask(slots, K)).target)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("count", [0, 1, 7, 100])
@pytest.mark.parametrize("regime", REGIMES)
def test_grouped_and_dense_reads_agree(regime: str, count: int, pattern: str):
    store, slots = memory(regime), PATTERNS[pattern](count)
    codes = torch.randn(count, D, dtype=torch.float64)

    for mode in (True, False):
        store.train(mode)
        assert torch.allclose(store.read_slot(codes, slots), dense(store, codes, slots), rtol=1e-12, atol=1e-12)


def test_single_precision_agrees_to_rounding_at_full_size():
    store = SlotMemory(items=500, code_size=1024, classes=10, shrink_threshold=1e-4, keep_one=False).eval()
    codes, slots = torch.rand(100, 1024), torch.randint(10, (100,))

    with torch.no_grad():
        fast = store.read_slot(codes, slots)
        slow = store.read(store.address(codes, class_mask(slots, 10)).target)

    assert (fast - slow).abs().max() / slow.abs().max() < 1e-6


@pytest.mark.parametrize("regime", REGIMES)
def test_gradients_agree(regime: str):
    store, slots = memory(regime), torch.randint(K, (9,))
    codes = torch.randn(9, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, D, dtype=torch.float64)

    fast = torch.autograd.grad((store.read_slot(codes, slots) * weight).sum(), (codes, store.items))
    slow = torch.autograd.grad((dense(store, codes, slots) * weight).sum(), (codes, store.items))

    for got, want in zip(fast, slow, strict=True):
        assert torch.allclose(got, want, rtol=1e-10, atol=1e-12)


def test_the_other_slots_items_have_no_say_when_nothing_is_shrunk():
    store, codes, slots = memory("never fires"), torch.randn(5, D, dtype=torch.float64), torch.full((5,), 2)
    before = store.read_slot(codes, slots)

    with torch.no_grad():
        store.items[: 2 * S] = 7
        store.items[3 * S :] = -7

    assert torch.equal(store.read_slot(codes, slots), before)


def test_the_smallest_threshold_that_can_fire_does():
    code = torch.ones(1, D, dtype=torch.float64)
    store = SlotMemory(
        items=M, code_size=D, classes=K, shrink_threshold=1.2 * math.exp(-2) / M, keep_one=False
    ).double()
    with torch.no_grad():  # one item against the code, all others along it
        store.items.copy_(torch.arange(1, M + 1)[:, None].expand(M, D))
        store.items[0].neg_()
    slots = torch.tensor([0])

    weights = store.address(code, class_mask(slots, K)).target

    assert (weights[0, :S] > 0).tolist() == [False] + [True] * (S - 1)
    assert torch.allclose(store.read_slot(code, slots), dense(store, code, slots), rtol=1e-12)


def test_each_image_is_read_with_its_own_slot_in_its_own_place():
    store, codes = memory("leaves one"), torch.randn(K, D, dtype=torch.float64)
    slots = torch.tensor([3, 0, 5, 1, 4, 2])

    reads = store.read_slot(codes, slots)

    for image, slot in enumerate(slots.tolist()):
        block = store.items[slot * S : (slot + 1) * S]
        best = torch.nn.functional.cosine_similarity(codes[image][None], block).argmax()
        assert torch.allclose(reads[image], block[best])
