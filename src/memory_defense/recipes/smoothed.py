"""Classifiers trained with noise, to be smoothed with it (`certificates.smoothing`)."""

from __future__ import annotations

from dataclasses import replace

from memory_defense.attacks import Pgd
from memory_defense.contracts import Attack
from memory_defense.data.augmentation import Augmentation
from memory_defense.recipes.parts import QUICK_OPTIMIZER
from memory_defense.recipes.recipe import EvaluationPlan, HeldOutAttack, ModelSpec, Recipe, Stage
from memory_defense.threat import L2, Linf
from memory_defense.training.fit import FitConfig
from memory_defense.training.noise import NoiseTraining

_FIT = FitConfig(
    epochs=30,
    optimizer=QUICK_OPTIMIZER,
    averaging=0.998,
    augmentation=Augmentation(horizontal_flip=True),
    validate_every=5,
)
_FAR_FIT = replace(_FIT, epochs=36, validate_every=3)
_ATTACKS: dict[str, Attack] = {"pgd": Pgd(steps=20)}
_PLAN = EvaluationPlan(images=1000, linf=(Linf(9 / 255),), attacks=_ATTACKS, l2=(L2(0.5), L2(1.0)), suite="brief")


def _smoothed(dataset: str, name: str, network: str, objective: NoiseTraining, fit: FitConfig = _FIT) -> Recipe:
    """Return a classifier trained under the noise that it is to be smoothed with."""
    return Recipe(
        name=f"{dataset}/{name}",
        summary=f"A classifier to be smoothed with normal noise of {objective.sigma:g} (memdef certify --sigma)",
        model=ModelSpec(dataset=dataset, defense="undefended", preset="paper", selector=network),
        stages=(Stage(name="noise", objective=objective, score="objective", fit=fit),),
        held_out=HeldOutAttack(attack=Pgd(steps=10), ball=Linf(9 / 255)),
        evaluation=_PLAN,
    )


SMOOTHED = (
    _smoothed(
        "fashion-mnist",
        "smoothed",
        "lenet",
        NoiseTraining(sigma=0.25, copies=2, consistency=5.0, entropy=0.5, epsilon=0.5, steps=2),
        _FAR_FIT,
    ),
    _smoothed(
        "fashion-mnist",
        "smoothed-far",
        "lenet",
        NoiseTraining(sigma=0.5, copies=2, consistency=5.0, entropy=0.5, epsilon=1.0, steps=2),
        _FAR_FIT,
    ),
)
"""Recipes by increasing noise."""
