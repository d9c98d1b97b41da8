import pytest
import torch
from torch import nn

from memory_defense.contracts import Binding, RowBound
from memory_defense.defenses.memory.slots import class_mask
from memory_defense.defenses.memory.surrogates import TRANSFER_KNOWLEDGE, EndToEnd
from memory_defense.wrappers import frozen, modules_of

PUBLISHED = ["fixed-slots", "selector", "end-to-end", "target-classifier"]


def gradient(model, images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    images = images.clone().requires_grad_()
    return torch.autograd.grad((model(images) * weight).sum(), images)[0]


def test_surrogates_are_published_by_the_adversarys_knowledge(build):
    defense, source = build(), nn.Linear(1, 1)

    assert list(defense.surrogates()) == PUBLISHED
    defense.transfer_source = source
    assert list(defense.surrogates()) == [*PUBLISHED, "undefended"]
    assert defense.surrogates()["undefended"] is source


def test_what_only_transfers_is_named(build):
    defense = build()
    defense.transfer_source = nn.Linear(1, 1)

    assert defense.transfer_knowledge is TRANSFER_KNOWLEDGE
    assert set(defense.surrogates()) - TRANSFER_KNOWLEDGE == {"selector", "end-to-end"}


@pytest.mark.parametrize("preset", ["paper", "sound"])
def test_end_to_end_has_the_defenses_value_bit_for_bit(build, batch, preset):
    defense, images = build(preset), batch(20).images
    surrogate = defense.surrogates()["end-to-end"]

    with torch.no_grad():
        expected = defense(images)
        assert torch.equal(surrogate(images), expected)
    assert torch.equal(surrogate(images.clone().requires_grad_()), expected)
    with frozen(defense):
        assert torch.equal(surrogate(images.clone().requires_grad_()), expected)


@pytest.mark.parametrize("preset", ["paper", "sound"])
def test_end_to_end_gradient_also_goes_through_the_selector(build, batch, preset):
    defense, images = build(preset), batch().images
    weight = torch.randn(8, 4)
    slots = defense.choose_slots(images)

    logits = EndToEnd(defense)(images)
    of_selector = torch.autograd.grad((logits * weight).sum(), defense.selector.output.weight)[0]
    whole = gradient(EndToEnd(defense), images, weight)
    frozen_slots = gradient(lambda x: defense.answer(x, slots), images, weight)

    assert of_selector.abs().sum() > 0
    assert not torch.allclose(whole, frozen_slots)


def test_end_to_end_gradient_is_the_soft_masks_at_the_hard_value(build, batch):
    defense, images, weight = build("paper").double(), batch().images.double(), torch.randn(8, 4).double()

    def soft(x: torch.Tensor) -> torch.Tensor:
        scores = defense.selector(x)
        probabilities = (scores / 2).softmax(1)
        hard = class_mask(scores.argmax(1), 4, x.dtype)
        mask = hard + probabilities - probabilities.detach()
        weights = defense.memory.address(defense.encoder(defense.normalize(x)), mask).target
        return defense.classifier_b(defense.decoder(weights @ defense.memory.items))

    got = gradient(EndToEnd(defense, temperature=2), images, weight)

    assert torch.allclose(got, gradient(soft, images, weight), rtol=1e-6, atol=1e-12)


def test_temperature_must_be_positive(build):
    with pytest.raises(ValueError, match="temperature is 0"):
        EndToEnd(build(), temperature=0)


def test_fixed_slots_stay_those_of_the_clean_images(build, batch):
    defense, images = build(), batch().images
    binding = defense.surrogates()["fixed-slots"]
    assert isinstance(binding, Binding)
    bound = binding.bind(images)
    slots = defense.choose_slots(images)
    moved = 1 - images
    assert not torch.equal(defense.choose_slots(moved), slots)

    assert torch.equal(bound(images), defense(images))
    assert torch.equal(bound(moved), defense.classify_with_slots(moved, slots))


def test_fixed_slots_follow_the_rows(build, batch):
    defense, images = build().double(), batch().images.double()
    bound = defense.surrogates()["fixed-slots"].bind(images)
    assert isinstance(bound, RowBound)
    index = torch.tensor([5, 0, 5, 2])

    assert torch.allclose(bound.rows(index)(1 - images[index]), bound(1 - images)[index])
    inner = torch.tensor([1, 3])
    assert torch.equal(bound.rows(index).rows(inner).slots, bound.slots[index[inner]])


def test_fixed_slots_refuse_a_batch_of_another_length(build, batch):
    bound = build().surrogates()["fixed-slots"].bind(batch().images)

    with pytest.raises(ValueError, match="3 images but 8 frozen slots"):
        bound(batch(3).images)


def test_fixed_slots_have_no_gradient_through_the_selector(build, batch):
    defense, images = build(), batch().images
    logits = defense.surrogates()["fixed-slots"].bind(images)(images)

    gradients = torch.autograd.grad(logits.sum(), list(defense.selector.parameters()), allow_unused=True)

    assert gradients == (None, None)


def test_selector_and_target_classifier_are_those_parts(build, batch):
    defense, images = build(), batch().images
    surrogates = defense.surrogates()

    assert surrogates["selector"] is defense.selector
    expected = defense.classifier_b((images - 0.3) / 0.4)
    assert torch.allclose(surrogates["target-classifier"](images), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["fixed-slots", "end-to-end", "target-classifier"])
def test_an_attacker_can_freeze_what_it_was_handed(build, name):
    defense = build()

    assert defense in list(modules_of(defense.surrogates()[name]))


def test_surrogates_add_no_parameters(build):
    defense = build()
    names = list(defense.state_dict())

    defense.surrogates()

    assert list(defense.state_dict()) == names
