"""Recipes of the memory that proves: an hour of one core each, and a tiny one to try the machinery.

Certified radii of an image are in the L2 norm and in pixel units; the plans attack inside the same balls.
"""

from __future__ import annotations

from dataclasses import replace

from memory_defense.attacks import Ddn, Pgd
from memory_defense.data.augmentation import Augmentation
from memory_defense.defenses.proving_memory import ProvingObjective
from memory_defense.recipes.parts import quick_plan
from memory_defense.recipes.recipe import EvaluationPlan, HeldOutAttack, ModelSpec, Recipe, Stage
from memory_defense.threat import L2, Linf
from memory_defense.training.fit import FitConfig
from memory_defense.training.optimizer import OptimizerConfig

_OPTIMIZER = OptimizerConfig(name="adamw", learning_rate=1e-2, schedule="one-cycle")

_FASHION_FIT = FitConfig(
    epochs=50,
    batch_size=256,
    optimizer=_OPTIMIZER,
    averaging=0.998,
    augmentation=Augmentation(horizontal_flip=True),
    validate_every=4,
)


def _stage(objective: ProvingObjective, fit: FitConfig) -> Stage:
    return Stage(name="margins", part="memory", objective=objective, score="objective", fit=fit)


FASHION_PROVING = Recipe(
    name="fashion-mnist/proving-memory",
    summary="A memory that proves: nearest of 40 items behind a 1-Lipschitz encoder, an hour of one core",
    model=ModelSpec(dataset="fashion-mnist", defense="proving-memory", preset="small"),
    stages=(_stage(ProvingObjective(), _FASHION_FIT),),
    held_out=HeldOutAttack(attack=Pgd(steps=10, loss="margin"), ball=L2(0.5)),
    evaluation=replace(quick_plan((9 / 255,), 0.5), l2=(L2(0.25), L2(0.5), L2(1.0))),
)

CIFAR_PROVING = Recipe(
    name="cifar10/proving-memory",
    summary="A memory that proves: nearest of 40 items behind a 1-Lipschitz encoder, an hour of one core",
    model=ModelSpec(dataset="cifar10", defense="proving-memory", preset="small"),
    stages=(_stage(ProvingObjective(margin=0.4), replace(_FASHION_FIT, epochs=30)),),
    held_out=HeldOutAttack(attack=Pgd(steps=10, loss="margin"), ball=L2(0.25)),
    evaluation=replace(
        quick_plan((2 / 255,), 0.5), l2=(L2(36 / 255), L2(72 / 255), L2(108 / 255)), curve=None, curve_balls=()
    ),
)

TINY_PROVING = Recipe(
    name="fashion-mnist/proving-tiny",
    summary="A memory that proves, in seconds, to try the machinery; its numbers mean nothing",
    model=ModelSpec(dataset="fashion-mnist", defense="proving-memory", preset="tiny"),
    stages=(
        _stage(ProvingObjective(), FitConfig(epochs=1, batch_size=50, optimizer=_OPTIMIZER, checkpoint_every=2)),
    ),
    held_out=HeldOutAttack(attack=Pgd(steps=2), ball=L2(0.5), images=50),
    evaluation=EvaluationPlan(
        images=20,
        linf=(Linf(0.1),),
        attacks={"pgd": Pgd(steps=2)},
        l2=(L2(0.5),),
        minimum_norm={"ddn": Ddn(steps=5)},
    ),
)

PROVING = (FASHION_PROVING, CIFAR_PROVING, TINY_PROVING)
