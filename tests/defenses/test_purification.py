import pytest
import torch
from torch import Tensor, nn

from memory_defense.defenses.purification import Purification
from memory_defense.networks.classifiers import Linear
from memory_defense.wrappers import frozen, modules_of


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Halved(Purification):
    """Rounds to two levels: nothing to differentiate."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__(classifier)
        self.dropout = nn.Dropout()

    def purify(self, images: Tensor) -> Tensor:
        return images.detach().round()


class Dimmed(Halved):
    """Has a true gradient."""

    def purify(self, images: Tensor) -> Tensor:
        return images / 2

    def differentiable_purify(self, images: Tensor) -> Tensor:
        return self.purify(images)


def classifier() -> nn.Module:
    linear = Linear(channels=1, size=4, classes=3, mean=(0.5,), std=(0.5,))
    return nn.Sequential(linear, nn.Tanh(), nn.Dropout(0.5))


def gradient(model, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    return torch.autograd.grad(model(images)[:, 1].sum(), images)[0]


def test_the_classifier_answers_for_purified_images():
    defense, images = Halved(classifier()), torch.rand(5, 1, 4, 4)
    assert torch.equal(defense(images), defense.classifier(images.round()))


def test_the_classifier_is_frozen_and_never_trains():
    defense = Halved(classifier())
    assert not any(parameter.requires_grad for parameter in defense.parameters())
    assert defense.train() is defense
    assert defense.dropout.training
    assert not any(module.training for module in defense.classifier.modules())
    assert not defense.eval().dropout.training


@pytest.mark.parametrize("kind", [Halved, Dimmed])
def test_end_to_end_has_the_defenses_value_bit_for_bit(kind):
    defense, images = kind(classifier()).eval(), torch.rand(5, 1, 4, 4)
    surrogate, expected = defense.surrogates()["end-to-end"], defense(images)
    assert torch.equal(surrogate(images), expected)
    assert torch.equal(surrogate(images.clone().requires_grad_()), expected)
    assert torch.equal(defense(images.clone().requires_grad_()), expected)


def test_the_gradient_is_the_classifiers_at_the_purified_point():
    defense, images = Halved(classifier()), torch.rand(5, 1, 4, 4)
    expected = gradient(defense.classifier, images.round())
    assert torch.equal(gradient(defense.surrogates()["end-to-end"], images), expected)
    assert torch.equal(gradient(defense, images), expected)
    assert not torch.allclose(gradient(defense.classifier, images), expected)


def test_a_true_gradient_takes_the_identitys_place():
    defense, images = Dimmed(classifier()), torch.rand(5, 1, 4, 4)
    expected = gradient(defense.classifier, images / 2) / 2
    torch.testing.assert_close(gradient(defense.surrogates()["end-to-end"], images), expected)


def test_the_oblivious_adversary_knows_the_classifier_alone():
    defense = Halved(classifier())
    assert defense.surrogates()["oblivious"] is defense.classifier
    assert set(defense.surrogates()) - defense.transfer_knowledge == {"end-to-end"}


def test_surrogates_reach_every_module_that_must_be_frozen():
    defense = Halved(classifier()).train()
    surrogate = defense.surrogates()["end-to-end"]
    assert set(defense.modules()) <= set(modules_of(surrogate))
    with frozen(surrogate):
        assert not defense.dropout.training
    assert defense.dropout.training
