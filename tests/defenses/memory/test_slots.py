"""The memory against loops written straight from Eqs. 8 to 11, in float64."""

import math

import pytest
import torch
from torch import Tensor

from memory_defense.defenses.memory.slots import (
    SlotMemory,
    attention,
    class_mask,
    cosine_logits,
    hard_shrink,
    item_mask,
    masked,
    read,
    removed_share,
)

K, S, D = 4, 5, 3
M = K * S
REGIMES = {
    "nothing can be removed": (0.5 * math.exp(-2) / M, False),
    "some removed": (1 / M, False),
    "some removed, one kept": (1 / M, True),
    "nearly all removed": (2.2 / M, False),
    "all removed but one": (0.9, True),
}


def memory(threshold: float, keep_one: bool, size: int = M) -> SlotMemory:
    made = SlotMemory(items=size, code_size=D, classes=K, shrink_threshold=threshold, keep_one=keep_one).double()
    with torch.no_grad():
        made.items.normal_()
    return made.eval()


def by_loops(code: list[float], items: list[list[float]], slot: int, threshold: float, keep_one: bool):
    """Return (w, w-hat, z-hat, z-hat') of one image: mask, then shrink, then renormalise."""
    length = math.sqrt(sum(value**2 for value in code))
    logits = []
    for item in items:
        dot = sum(a * b for a, b in zip(code, item, strict=True))
        logits.append(dot / (length * math.sqrt(sum(value**2 for value in item))))
    total = sum(math.exp(logit) for logit in logits)
    soft = [math.exp(logit) / total for logit in logits]

    results: list[list[float]] = []
    reads: list[list[float]] = []
    for complement in (False, True):
        weights = []
        for index, weight in enumerate(soft):
            inside = (index // S == slot) != complement
            weights.append(weight if inside else 0.0)
        for start in range(0, len(weights), S):
            block = weights[start : start + S]
            largest = block.index(max(block))
            for offset in range(S):
                keep = block[offset] > threshold or (keep_one and offset == largest)
                weights[start + offset] = block[offset] if keep else 0.0
        total = max(sum(weights), 1e-12)
        weights = [weight / total for weight in weights]
        results.append(weights)
        reads.append([sum(w * item[d] for w, item in zip(weights, items, strict=True)) for d in range(len(code))])
    return *results, *reads


@pytest.mark.parametrize("regime", REGIMES)
def test_weights_and_reads_agree_with_the_equations_written_as_loops(regime: str):
    threshold, keep_one = REGIMES[regime]
    slots = torch.tensor([0, 3, 3, 1, 2, 0])
    codes, store = torch.randn(6, D, dtype=torch.float64), memory(threshold, keep_one)
    expected = [
        by_loops(code, store.items.tolist(), slot, threshold, keep_one)
        for code, slot in zip(codes.tolist(), slots.tolist(), strict=True)
    ]

    weights = store.address(codes, class_mask(slots, K))

    for position, got in enumerate(
        (weights.target, weights.complement, store.read(weights.target), store.read(weights.complement))
    ):
        want = torch.tensor([row[position] for row in expected], dtype=torch.float64)
        assert torch.allclose(got, want, atol=1e-12), position


def test_the_regimes_are_what_their_names_say():
    codes, slots = torch.randn(50, D, dtype=torch.float64), torch.arange(50) % K
    left = {}
    for name, (threshold, keep_one) in REGIMES.items():
        weights = memory(threshold, keep_one).address(codes, class_mask(slots, K)).target
        left[name] = (weights > 0).sum(1)

    assert (left["nothing can be removed"] == S).all()
    assert 0 < left["some removed"].double().mean() < S
    assert (left["some removed, one kept"] >= 1).all()
    assert (left["nearly all removed"] == 0).any()
    assert (left["all removed but one"] == 1).all()


def test_weights_sum_to_one_and_target_and_complement_never_meet():
    codes, slots = torch.randn(20, D, dtype=torch.float64), torch.arange(20) % K

    weights = memory(1 / M, True).address(codes, class_mask(slots, K))

    for each in weights:
        assert torch.allclose(each.sum(1), torch.ones(20, dtype=torch.float64))
    assert ((weights.target == 0) | (weights.complement == 0)).all()


def test_an_emptied_slot_reads_zero_and_not_nan():
    store = memory(2.9 / M, False)
    codes = torch.randn(30, D, dtype=torch.float64)

    weights = store.address(codes, class_mask(torch.arange(30) % K, K)).target
    empty = (weights == 0).all(1)

    assert empty.any()
    assert torch.equal(store.read(weights)[empty], torch.zeros(int(empty.sum()), D, dtype=torch.float64))


def test_logits_are_cosines_and_scale_is_only_a_shortcut():
    codes, items = torch.randn(7, D), torch.randn(9, D)

    expected = torch.nn.functional.cosine_similarity(codes[:, None], items[None], dim=2)

    assert torch.allclose(cosine_logits(codes, items), expected, atol=1e-6)
    assert torch.allclose(cosine_logits(codes, items, 1 / items.norm(dim=1)), expected, atol=1e-6)
    assert cosine_logits(torch.zeros(1, D), items).abs().max() == 0


def test_items_are_assigned_to_slots_in_order():
    mask = item_mask(class_mask(torch.tensor([1]), 3), 6)

    assert mask.tolist() == [[0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize("keep_one", [False, True])
def test_shrinking_before_or_after_a_hard_mask_is_the_same(keep_one: bool):
    weights = attention(torch.randn(40, M, dtype=torch.float64))
    mask = item_mask(class_mask(torch.arange(40) % K, K, torch.float64), M)

    after = hard_shrink(weights * mask, 1 / M, classes=K, keep_one=keep_one)
    before = hard_shrink(weights, 1 / M, classes=K, keep_one=keep_one) * mask

    assert torch.equal(after, before)


def test_a_real_valued_mask_mixes_slots_and_keeps_a_gradient_where_it_is_zero():
    store, codes = memory(1 / M, True), torch.randn(2, D, dtype=torch.float64)
    mask = torch.tensor([[0.5, 0.5, 0, 0], [1, 0, 0, 0]], dtype=torch.float64, requires_grad=True)

    weights = store.address(codes, mask).target
    blocks = weights.reshape(2, K, S).sum(2)
    (gradient,) = torch.autograd.grad(store.read(weights).square().sum(), mask)

    assert (blocks[0, :2] > 0).all()
    assert torch.equal(blocks[:, 2:], torch.zeros(2, 2, dtype=torch.float64))
    assert (gradient[mask == 0] != 0).all()
    assert gradient[1, 0].abs() < 1e-12, "scaling the only slot that is read changes nothing"


def test_gradients_are_right():
    store = memory(0.5 * math.exp(-2) / M, False).train()
    codes = torch.randn(3, D, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(3, K, dtype=torch.float64, requires_grad=True)

    def reads(codes: Tensor, mask: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        weights = store.address(codes, mask)
        return store.read(weights.target), store.read(weights.complement)

    assert torch.autograd.gradcheck(reads, (codes, mask, store.items))


def test_every_slots_read_is_the_read_of_each_slot():
    store, codes = memory(1 / M, True), torch.randn(6, D, dtype=torch.float64)

    every = store.read_every_slot(codes)

    for slot in range(K):
        weights = store.address(codes, class_mask(torch.full((6,), slot), K)).target
        assert torch.allclose(every[:, slot], store.read(weights), atol=1e-12)


def test_reading_is_the_weighted_sum_of_items():
    weights = masked(torch.tensor([[0.2, 0.2, 0.6]]), torch.tensor([[1.0, 1.0, 0.0]]))

    assert torch.allclose(weights, torch.tensor([[0.5, 0.5, 0.0]]))
    assert torch.allclose(read(weights, torch.tensor([[2.0], [4.0], [9.0]])), torch.tensor([[3.0]]))


def test_removed_share_counts_the_chosen_slots_zeros():
    weights = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])

    assert removed_share(weights, torch.tensor([0, 1]), 2) == 0.25


@pytest.mark.parametrize("threshold", [1e-12, 1e-4, 0.9 * math.exp(-2) / 500])
def test_the_papers_thresholds_provably_remove_nothing(threshold: float):
    store = SlotMemory(items=500, code_size=2, classes=10, shrink_threshold=threshold, keep_one=False)
    with torch.no_grad():  # the worst case: one item along the code, all others against it
        store.items.copy_(torch.tensor([-1.0, 0.0]).expand(500, 2))
    codes = torch.tensor([[1.0, 0.0]])

    assert not store.shrinks
    assert (store.address(codes, class_mask(torch.tensor([0]), 10)).target[:, :50] > 0).all()
    assert SlotMemory(items=500, code_size=2, classes=10, shrink_threshold=1 / 500, keep_one=True).shrinks


def test_items_start_kaiming_uniform():
    items = SlotMemory(items=500, code_size=1024, classes=10, shrink_threshold=0, keep_one=False).items
    bound = math.sqrt(6 / 1024)

    assert items.abs().max() <= bound
    assert items.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


def test_autocast_does_not_reach_the_weights():
    store, codes = memory(1 / M, True).float(), torch.rand(6, D)
    slots = torch.arange(6) % K
    expected = store.address(codes, class_mask(slots, K)).target

    with torch.autocast("cpu", torch.bfloat16):
        weights = store.address(codes, class_mask(slots, K)).target
        reads = store.read_slot(codes, slots)

    assert torch.equal(weights, expected)
    assert reads.dtype == torch.float32
    assert torch.equal(reads, store.read_slot(codes, slots))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"items": 42}, "42 items for 10 classes.*use 40 or 50"),
        ({"items": 5}, "use 10 or 20"),
        ({"classes": 1}, "classes is 1"),
        ({"shrink_threshold": -0.1}, "shrink_threshold is -0.1"),
        ({"shrink_threshold": 1.0}, "shrink_threshold is 1.0"),
        ({"shrink_threshold": 0.5}, "nothing is ever read; use keep_one"),
    ],
)
def test_impossible_memories_are_refused_with_a_remedy(options, message: str):
    given = {"items": 100, "code_size": 4, "classes": 10, "shrink_threshold": 0.0, "keep_one": False, **options}

    with pytest.raises(ValueError, match=message):
        SlotMemory(**given)
