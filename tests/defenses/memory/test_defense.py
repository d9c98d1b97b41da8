import copy
import inspect

import pytest
import torch
from torch import nn

from memory_defense.contracts import SlotDefense
from memory_defense.defenses.memory.autoencoder import plan_for
from memory_defense.defenses.memory.defense import MemoryDefense
from memory_defense.defenses.memory.slots import SlotMemory, class_mask
from memory_defense.networks.layers import Normalize
from memory_defense.wrappers import frozen

PRESETS = ("paper", "reference", "sound")


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_forward_accepts_images_and_nothing_else(build, batch):
    assert list(inspect.signature(MemoryDefense.forward).parameters) == ["self", "images"]
    with pytest.raises(TypeError):
        build()(batch().images, batch().labels)


def test_it_fulfils_the_contract_of_slot_defenses(build):
    assert isinstance(build(), SlotDefense)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_answer_is_the_equations_in_order(build, batch, preset):
    defense, images = build(preset).double(), batch().images.double()

    slots = defense.selector(images).argmax(1)
    codes = defense.encoder(defense.normalize(images))
    weights = defense.memory.address(codes, class_mask(slots, defense.classes)).target
    expected = defense.classifier_b(defense.decoder(weights @ defense.memory.items))

    assert torch.allclose(defense(images), expected, atol=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
def test_forward_trace_and_dictated_slots_are_one_function(build, batch, preset):
    defense, images = build(preset), batch().images
    trace = defense.trace(images)

    with torch.no_grad():
        quiet = defense(images)

    assert torch.equal(quiet, trace.logits)
    assert torch.equal(quiet, defense(images))
    assert torch.equal(quiet, defense.classify_with_slots(images, trace.slots))


def test_dictating_another_slot_changes_the_answer(build, batch):
    defense, images = build(), batch().images
    slots = defense.choose_slots(images)

    assert not torch.allclose(defense.classify_with_slots(images, (slots + 1) % 4), defense(images))


def test_the_trace_says_what_happened(build, batch):
    defense, images = build(), batch().images
    trace = defense.trace(images)

    assert torch.equal(trace.slots, defense.selector(images).argmax(1))
    assert torch.equal(trace.selector_logits, defense.selector(images))
    assert torch.allclose(trace.raw_attention.sum(1), torch.ones(8))
    chosen = trace.attention.reshape(8, 4, 5)[torch.arange(8), trace.slots]
    assert torch.allclose(chosen.sum(1), torch.ones(8)), "all weight is in the chosen slot"
    assert torch.allclose(trace.attention.sum(1), torch.ones(8))
    assert trace.codes.shape == (8, defense.plan.code_size)
    assert 0 < trace.codes.min() < trace.codes.max() < 1
    error = ((images - trace.reconstruction) ** 2).mean((1, 2, 3))
    assert torch.allclose(trace.reconstruction_error, error)


def test_reconstructions_are_in_pixel_units(build, batch):
    defense, images = build(), batch().images
    trace = defense.trace(images)

    inside = defense.decoder(defense.memory.read_slot(trace.codes, trace.slots))

    assert torch.allclose(trace.reconstruction, inside * 0.4 + 0.3)
    assert torch.equal(trace.reconstruction, defense.reconstruct(images, trace.slots))


def test_the_complement_is_read_from_the_other_slots_only(build, batch):
    defense, images = build(), batch().images
    slots = defense.choose_slots(images)
    codes = defense.encoder(defense.normalize(images))

    weights = defense.memory.address(codes, class_mask(slots, 4))
    expected = defense.normalize.invert(defense.decoder(weights.complement @ defense.memory.items))

    assert torch.allclose(defense.trace(images).complement, expected, atol=1e-6)
    assert weights.complement.reshape(8, 4, 5)[torch.arange(8), slots].abs().max() == 0


@pytest.mark.parametrize("preset", PRESETS)
def test_every_slots_reconstruction_is_the_dictated_one(build, batch, preset):
    defense, images = build(preset, channels=3), batch(channels=3).images

    every = defense.reconstruct_all(images)

    assert every.shape == (8, 4, 3, 16, 16)
    for slot in range(4):
        dictated = defense.reconstruct(images, torch.full((8,), slot))
        assert torch.allclose(every[:, slot], dictated, atol=1e-5)


def test_answers_do_not_depend_on_the_company(build, batch):
    defense, images = build().double(), batch(20).images.double()

    together = defense(images)
    apart = torch.cat([defense(images[row : row + 1]) for row in range(20)])

    assert torch.allclose(together, apart, atol=1e-12)


def test_looking_never_changes_the_defense(build, batch):
    defense, given = build(), batch()
    before, images = state_of(defense), given.images.clone()

    defense(given.images)
    defense.trace(given.images)
    defense.reconstruct_all(given.images)
    defense.diagnostics(given.images, given.labels)

    assert same(before, state_of(defense))
    assert torch.equal(given.images, images)
    assert all(parameter.grad is None for parameter in defense.parameters())


def test_train_mode_leaves_the_selector_alone_and_drops_out(build, batch):
    defense, images = build().train(), batch().images
    defense.selector.normalize.mean.fill_(0.5)

    assert not defense.selector.training
    assert all(part.training for part in (defense.encoder, defense.memory, defense.decoder, defense.classifier_b))
    assert not torch.equal(defense(images), defense(images)), "dropout draws again"
    before = state_of(defense)
    defense(images)
    assert not same(before, state_of(defense)), "batch statistics are followed"
    assert not defense.eval().memory.training


def test_channels_last_gives_the_same_answers(build, batch):
    defense, images = build(channels=3), batch(channels=3).images

    expected = defense(images)

    assert torch.allclose(defense(images.contiguous(memory_format=torch.channels_last)), expected, atol=1e-5)
    defense.to(memory_format=torch.channels_last)
    assert torch.allclose(defense(images), expected, atol=1e-5)


def test_state_round_trip(build, batch):
    first, images = build(), batch().images
    second = build()
    assert not torch.equal(first(images), second(images))

    second.load_state_dict(first.state_dict())

    assert torch.equal(first(images), second(images))
    assert torch.equal(copy.deepcopy(first)(images), first(images))


def test_a_transfer_source_moves_along_but_is_no_part_of_the_defense(build, batch):
    defense, source = build(), nn.Linear(1, 1)
    names, count = list(defense.state_dict()), len(list(defense.parameters()))

    defense.transfer_source = source
    defense.double()

    assert defense.transfer_source is source
    assert list(defense.state_dict()) == names
    assert len(list(defense.parameters())) == count
    assert source not in list(defense.modules())
    assert source.weight.dtype == torch.float64
    defense.transfer_source = None
    assert defense.transfer_source is None


def test_gradients_reach_every_part_but_the_selector(build, batch):
    defense, images = build(), batch().images

    defense(images).logsumexp(1).sum().backward()

    assert all(parameter.grad is None for parameter in defense.selector.parameters())
    for part in (defense.encoder, defense.memory, defense.decoder, defense.classifier_b):
        assert all(parameter.grad is not None for parameter in part.parameters())


def test_answers_follow_the_memory_after_a_step_in_eval_mode(build, batch):
    defense, images = build(), batch().images
    with torch.no_grad():
        before = defense(images)
        defense.memory.items.mul_(-1)
        after = defense(images)
        defense.memory.items.mul_(-1)

        assert not torch.allclose(before, after)
        assert torch.equal(defense(images), before)


def test_diagnostics_measure_shrinking_and_work_on_a_frozen_defense(build, batch):
    given = batch()
    values = {}
    for preset in ("paper", "sound"):
        defense = build(preset)
        with frozen(defense):
            values[preset] = defense.diagnostics(given.images, given.labels)
            assert not defense.memory.items.requires_grad
        assert defense.memory.items.requires_grad

    assert values["paper"]["shrink sparsity"] == 0
    assert 0 < values["sound"]["shrink sparsity"] < 1
    assert set(values["paper"]) == {"shrink sparsity", "non-target gradient share"}


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        (torch.zeros(7, dtype=torch.int64), r"expected \(8,\)"),
        (torch.full((8,), 4), "below 4"),
        (torch.full((8,), -1), "at least 0"),
        (torch.zeros(8), "torch.int64"),
    ],
)
def test_dictated_slots_are_checked(build, batch, slots, message):
    for oracle in (build().classify_with_slots, build().reconstruct):
        with pytest.raises(ValueError, match=message):
            oracle(batch().images, slots)


def test_images_of_another_shape_are_refused(build):
    with pytest.raises(ValueError, match=r"takes \(B, 1, H, W\)"):
        build()(torch.rand(2, 3, 16, 16))
    with pytest.raises(ValueError, match=r"takes \(B, 1, 16, 16\)"):
        build().reconstruct_all(torch.rand(2, 1, 17, 17))


def test_parts_that_do_not_fit_are_refused():
    plan = plan_for(3, 32)

    def assemble(code_size: int, channels: int) -> MemoryDefense:
        memory = SlotMemory(items=10, code_size=code_size, classes=10, shrink_threshold=0, keep_one=False)
        return MemoryDefense(
            plan=plan,
            selector=nn.Identity(),
            normalize=Normalize.identity(channels),
            memory=memory,
            classifier_b=nn.Identity(),
        )

    assert assemble(1024, 3).classes == 10
    with pytest.raises(ValueError, match="items have length 1000, the encoder's codes 1024"):
        assemble(1000, 3)
    with pytest.raises(ValueError, match="normalize has 1 channels, the autoencoder 3"):
        assemble(1024, 1)
