"""Sound Memory Defense behind the strongest selectors that a short time on one GPU trains.

TRADES at adversarially perturbed weights on a ResNet-18 with the smooth SiLU; the moving average of its weights is
what is kept (Zhang et al. 2019, Wu et al. 2020, Gowal et al. 2020, arXiv:2010.03593). The evaluation spends its
time on the worst case inside the radius that was trained for.
"""

from __future__ import annotations

from dataclasses import replace

from memory_defense.attacks import PAPER_PGD, Pgd
from memory_defense.data.augmentation import Augmentation
from memory_defense.defenses.memory.objective import MemoryObjective
from memory_defense.recipes.parts import PAPER_AUGMENTATION, QUICK_OPTIMIZER, STRONG_OPTIMIZER
from memory_defense.recipes.recipe import EvaluationPlan, HeldOutAttack, ModelSpec, Recipe, Stage
from memory_defense.threat import Linf
from memory_defense.training.adversarial import Benign
from memory_defense.training.fit import FitConfig
from memory_defense.training.trades import Trades
from memory_defense.training.weight_perturbation import WeightPerturbation

NETWORK = "resnet18-silu"

_FIT = FitConfig(
    epochs=30,
    batch_size=256,
    optimizer=replace(STRONG_OPTIMIZER, learning_rate=0.2),
    averaging=0.998,
    validate_every=5,
)
"""A selector's training: minutes of one large GPU. The average looks back 500 steps, as there are few."""

_QUICK = FitConfig(epochs=15, batch_size=512, optimizer=QUICK_OPTIMIZER, averaging=0.998)
"""The training of what is quickly trained."""


def _selector(trades: Trades, fit: FitConfig) -> Stage:
    perturbed = WeightPerturbation(objective=trades, gamma=5e-3, warm_up=0.1)
    return Stage(name="trades-awp", objective=perturbed, score="robust", fit=fit)


def _autoencoder(fit: FitConfig) -> Stage:
    return Stage(name="joint", part="autoencoder", objective=MemoryObjective(), score="objective", fit=fit)


def _plan(*radii: float) -> EvaluationPlan:
    return EvaluationPlan(
        images=10_000,
        linf=tuple(Linf(radius) for radius in radii),
        attacks={"pgd": PAPER_PGD},
        suite="fast",
    )


FASHION_STRONG = Recipe(
    name="fashion-mnist/strong",
    summary="Sound Memory Defense for a GPU: ResNet-18 selector, two-step TRADES with perturbed weights at 0.1",
    model=ModelSpec(dataset="fashion-mnist", preset="sound", selector=NETWORK),
    undefended=Stage(
        name="benign", objective=Benign(), fit=replace(_QUICK, epochs=10, augmentation=PAPER_AUGMENTATION)
    ),
    undefended_network="resnet18",
    stages=(
        _selector(
            Trades(epsilon=0.1, warm_up=0.1, beta=6.0, steps=2, step=0.75, start="uniform"),
            replace(_FIT, epochs=25, augmentation=Augmentation(crop_padding=2, horizontal_flip=True)),
        ),
        _autoencoder(replace(_QUICK, augmentation=Augmentation(horizontal_flip=True))),
    ),
    held_out=HeldOutAttack(attack=Pgd(steps=10, loss="margin"), ball=Linf(0.1)),
    evaluation=_plan(9 / 255, 0.1),
)

CIFAR_STRONG = replace(
    FASHION_STRONG,
    name="cifar10/strong",
    summary="Sound Memory Defense for a GPU: ResNet-18 selector, two-step TRADES with perturbed weights at 8/255",
    model=ModelSpec(dataset="cifar10", preset="sound", selector=NETWORK),
    stages=(
        _selector(
            Trades(epsilon=8 / 255, warm_up=0.1, beta=6.0, steps=2, step=0.75, start="uniform"),
            replace(_FIT, epochs=30, augmentation=Augmentation(crop_padding=4, horizontal_flip=True)),
        ),
        _autoencoder(replace(_QUICK, augmentation=Augmentation(horizontal_flip=True))),
    ),
    held_out=HeldOutAttack(attack=Pgd(steps=10, loss="margin"), ball=Linf(8 / 255)),
    evaluation=_plan(8 / 255),
)

_TINY_FIT = FitConfig(epochs=1, batch_size=50, optimizer=QUICK_OPTIMIZER, averaging=0.9, checkpoint_every=2)
_TINY = ModelSpec(dataset="fashion-mnist", preset="sound", selector="linear", memory_size=20)

FASHION_STRONG_TINY = Recipe(
    name="fashion-mnist/strong-tiny",
    summary="The strong recipe's stages in seconds, to try the machinery; its numbers mean nothing",
    model=_TINY,
    undefended=Stage(name="benign", objective=Benign(), fit=_TINY_FIT),
    undefended_network="linear",
    stages=(_selector(Trades(epsilon=0.1, steps=2, start="uniform"), _TINY_FIT), _autoencoder(_TINY_FIT)),
    held_out=HeldOutAttack(attack=Pgd(steps=2), ball=Linf(0.1), images=20),
    evaluation=replace(_plan(0.1), images=12, suite="glimpse"),
)

CIFAR_STRONG_TINY = replace(
    FASHION_STRONG_TINY,
    name="cifar10/strong-tiny",
    model=replace(_TINY, dataset="cifar10"),
    evaluation=replace(FASHION_STRONG_TINY.evaluation, linf=(Linf(8 / 255),)),
)

STRONG = (FASHION_STRONG, CIFAR_STRONG, FASHION_STRONG_TINY, CIFAR_STRONG_TINY)
