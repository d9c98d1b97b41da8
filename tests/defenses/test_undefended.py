import torch

from memory_defense.contracts import SlotDefense
from memory_defense.defenses.undefended import Undefended
from memory_defense.networks.classifiers import Linear


def build() -> Undefended:
    return Undefended(Linear(channels=1, size=8, classes=3, mean=(0.5,), std=(0.5,)))


def test_it_answers_as_its_network():
    defense, images = build(), torch.rand(4, 1, 8, 8)

    assert torch.equal(defense(images), defense.network(images))


def test_its_only_surrogate_is_the_network_itself():
    defense = build()

    assert dict(defense.surrogates()) == {"end-to-end": defense.network}
    assert defense.transfer_knowledge == frozenset()


def test_it_is_no_slot_defense():
    assert not isinstance(build(), SlotDefense)
