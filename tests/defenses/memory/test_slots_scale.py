"""What the memory remembers in eval mode is never out of date."""

import copy

import pytest
import torch

from memory_defense.defenses.memory.slots import SlotMemory

D = 3


def memory() -> SlotMemory:
    made = SlotMemory(items=20, code_size=D, classes=4, shrink_threshold=0, keep_one=False).double()
    with torch.no_grad():
        made.items.normal_()
    return made.eval()


def steps(store: SlotMemory) -> dict[str, object]:
    """Return ways in which items change, each as a function that changes them."""

    def optimise(kind, **options):
        def run() -> None:
            store.items.grad = torch.ones_like(store.items)
            kind([store.items], lr=0.5, **options).step()

        return run

    other = copy.deepcopy(store.state_dict())
    other["items"] = other["items"] * 2 + 1
    return {
        "sgd": optimise(torch.optim.SGD),
        "adam": optimise(torch.optim.Adam),
        "adam fused": optimise(torch.optim.Adam, fused=True),
        "adam foreach": optimise(torch.optim.Adam, foreach=True),
        "load": lambda: store.load_state_dict(other),
        "load assign": lambda: store.load_state_dict(other, assign=True),
        "in place": lambda: store.items.detach().add_(1),
        "numbers outside the sample": lambda: store.items.detach()[:, 1:].add_(1),
        "half": lambda: store.half().double(),
        "data in place": lambda: store.items.data.mul_(2),
        "data": lambda: setattr(store.items, "data", store.items.data * 2 + 1),
    }


@pytest.mark.parametrize("change", list(steps(memory())))
def test_what_eval_mode_remembers_is_forgotten_when_the_items_change(change: str):
    store = memory()
    with torch.no_grad():
        before = store.scale().clone()
        assert store.scale() is store.scale(), "nothing is remembered at all"

    steps(store)[change]()  # type: ignore[operator]

    with torch.no_grad():
        assert torch.equal(store.scale(), 1 / store.items.norm(dim=1))
        assert not torch.equal(store.scale(), before)


def test_what_is_remembered_never_hides_a_gradient_or_leaks_from_inference_mode():
    store, codes = memory(), torch.randn(2, D, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        store.raw_attention(torch.randn(2, D, dtype=torch.float64))

    assert store.scale().requires_grad
    store.items.requires_grad_(False)
    weights = store.raw_attention(codes)

    assert torch.autograd.grad(weights[:, 0].sum(), codes)[0].abs().sum() > 0


def test_a_copy_remembers_for_itself():
    store = memory()
    with torch.no_grad():
        store.scale()
        twin = copy.deepcopy(store)
        twin.items.mul_(3)

        assert torch.allclose(twin.scale() * 3, store.scale())
