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
    epochs=36,
    optimizer=QUICK_OPTIMIZER,
    averaging=0.998,
    augmentation=Augmentation(horizontal_flip=True),
    validate_every=3,
)
_ATTACKS: dict[str, Attack] = {"pgd": Pgd(steps=20)}
_PLAN = EvaluationPlan(images=1000, linf=(Linf(9 / 255),), attacks=_ATTACKS, l2=(L2(0.5), L2(1.0)), suite="brief")

_FAR_FIT = replace(_FIT, epochs=18, augmentation=Augmentation())
"""Half as long, and without mirrored images: the noise is change enough."""


def _smoothed(name: str, sigma: float, epsilon: float, network: str, steps: int, fit: FitConfig) -> Recipe:
    """Return a classifier to be smoothed: SmoothAdv within epsilon (L2), and consistency between two copies."""
    objective = NoiseTraining(sigma=sigma, copies=2, consistency=5.0, entropy=0.5, epsilon=epsilon, steps=steps)
    return Recipe(
        name=f"fashion-mnist/{name}",
        summary=f"A classifier to be smoothed with normal noise of {sigma:g} (memdef certify --sigma)",
        model=ModelSpec(dataset="fashion-mnist", defense="undefended", preset="paper", selector=network),
        stages=(Stage(name="noise", objective=objective, score="objective", fit=fit),),
        held_out=HeldOutAttack(attack=Pgd(steps=10), ball=Linf(9 / 255)),
        evaluation=_PLAN,
    )


SMOOTHED = (
    _smoothed("smoothed", 0.25, 0.5, "lenet", 2, _FIT),
    _smoothed("smoothed-far", 0.5, 1.0, "residual-cnn-32", 1, _FAR_FIT),
)
"""Recipes by increasing noise."""
