"""The strong recipes: what they are named after is what they do."""

import pytest
from torch import nn

from memory_defense.recipes.registry import recipe
from memory_defense.recipes.strong import CIFAR_STRONG, FASHION_STRONG, NETWORK, STRONG
from memory_defense.systems.build import build_classifier
from memory_defense.training.trades import Trades
from memory_defense.training.weight_perturbation import WeightPerturbation


@pytest.mark.parametrize("one", STRONG, ids=lambda one: one.name)
def test_the_selector_is_trained_by_trades_with_perturbed_weights_and_averaged(one) -> None:
    assert recipe(one.name) is one
    selector, autoencoder = one.stages
    assert (selector.part, autoencoder.part) == ("selector", "autoencoder")
    assert isinstance(selector.objective, WeightPerturbation)
    assert isinstance(selector.objective.objective, Trades)
    assert selector.objective.gamma > 0
    assert selector.fit.averaging > 0
    assert selector.score == "robust"
    assert one.model.preset == "sound"


@pytest.mark.parametrize(("one", "radius"), [(FASHION_STRONG, 0.1), (CIFAR_STRONG, 8 / 255)])
def test_it_is_chosen_and_judged_at_the_radius_it_is_trained_for(one, radius) -> None:
    trades = one.stages[0].objective.objective
    assert trades.epsilon == radius == one.held_out.ball.epsilon == one.evaluation.linf[-1].epsilon
    assert one.evaluation.images == 10_000
    assert one.evaluation.suite == "fast"


def test_its_network_is_smooth() -> None:
    network = build_classifier(NETWORK, "cifar10", 0, "selector")
    kinds = {type(module) for module in network.modules()}
    assert nn.SiLU in kinds
    assert nn.ReLU not in kinds
    assert FASHION_STRONG.model.selector == CIFAR_STRONG.model.selector == NETWORK
