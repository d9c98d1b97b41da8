"""Memory Defense on an accelerator: its answer, its flag, and everything an adversary may differentiate."""

import pytest
import torch

from memory_defense.contracts import Binding
from memory_defense.defenses.memory.defense import MemoryDefense
from memory_defense.model_spec import ModelSpec
from memory_defense.systems.build import build_defense
from pretend import accelerator

COUNT = 9


def defense(preset: str) -> MemoryDefense:
    made = build_defense(ModelSpec(dataset="fashion-mnist", preset=preset, selector="linear", memory_size=40), 0)
    assert isinstance(made, MemoryDefense)
    return made.eval()


def images() -> torch.Tensor:
    return torch.rand(COUNT, 1, 28, 28, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("preset", ["paper", "reference", "sound"])
def test_an_answer_waits_for_nothing(preset) -> None:
    with torch.no_grad():
        expected = defense(preset)(images())
    with accelerator() as (device, ledger), torch.no_grad():
        there, seen = defense(preset).to(device), images().to(device)
        logits = there(seen)
        assert ledger.waits.total() == 0, ledger.told()
        torch.testing.assert_close(logits.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", ["paper", "sound"])
def test_reads_agree_with_the_processors(preset) -> None:
    here = defense(preset)
    with torch.no_grad():
        codes, slots = here.encoder(here.normalize(images())), here.choose_slots(images())
        expected = here.memory.read_slot(codes, slots), here.memory.read_every_slot(codes)
    with accelerator() as (device, ledger), torch.no_grad():
        memory = defense(preset).to(device).memory
        found = memory.read_slot(codes.to(device), slots.to(device)), memory.read_every_slot(codes.to(device))
        assert ledger.waits.total() == 0, ledger.told()
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("preset", ["paper", "sound"])
def test_every_surrogate_has_its_gradient_there(preset) -> None:
    with accelerator() as (device, ledger):
        there, seen = defense(preset).to(device), images().to(device)
        there.flag_threshold = 0.01
        published = dict(there.surrogates()) | {name: one.surrogate for name, one in there.adaptive().items()}
        assert published
        for name, one in published.items():
            leaf = seen.clone().requires_grad_()
            bound = one.bind(seen) if isinstance(one, Binding) else one
            before = ledger.waits.total()
            (gradient,) = torch.autograd.grad(bound(leaf).square().sum(), leaf, allow_unused=True)
            assert ledger.waits.total() - before <= 1, f"{name}\n{ledger.told()}"
            assert gradient is None or gradient.device == device
        for score in there.scores(seen).values():
            assert score.device == device
        assert there.suspicious(seen).device == device
        assert there.diagnostics(seen, there.choose_slots(seen))
