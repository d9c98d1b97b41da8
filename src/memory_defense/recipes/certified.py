"""Classifiers whose answers are proven in an L-inf ball: plain networks trained for interval bounds.

A certificate at radius r also proves something at 2 r of a classifier that abstains where it is not certified: two
accepted images so close have an image within r of both, and so one label. Hence one recipe is trained for half the
radius of the tables, and another for the whole.
"""

from __future__ import annotations

from dataclasses import replace

from memory_defense.attacks import PAPER_PGD, Pgd
from memory_defense.data.augmentation import Augmentation
from memory_defense.recipes.recipe import EvaluationPlan, HeldOutAttack, ModelSpec, Recipe, Stage
from memory_defense.threat import Linf
from memory_defense.training.fit import FitConfig
from memory_defense.training.intervals import IntervalTraining
from memory_defense.training.optimizer import OptimizerConfig

_HELD_OUT = HeldOutAttack(attack=Pgd(steps=10, loss="margin"), ball=Linf(0.05), images=1000)
_FIT = FitConfig(
    epochs=24,
    batch_size=128,
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-3, schedule="one-cycle", clip=10.0),
    averaging=0.998,
    augmentation=Augmentation(horizontal_flip=True),
    validate_every=2,
)


def _plan(*radii: float) -> EvaluationPlan:
    return EvaluationPlan(
        images=1000,
        linf=tuple(Linf(radius) for radius in radii),
        attacks={"pgd": PAPER_PGD},
        white_box={"pgd-margin": Pgd(steps=20, loss="margin")},
        suite="brief",
    )


FASHION_LINF = Recipe(
    name="fashion-mnist/certified-linf",
    summary="A classifier trained by interval bounds, to be certified at 0.05, in half an hour of two cores",
    model=ModelSpec(dataset="fashion-mnist", defense="undefended", preset="sound", selector="interval-cnn"),
    stages=(Stage(name="intervals", objective=IntervalTraining(epsilon=0.06), score="certified", fit=_FIT),),
    held_out=_HELD_OUT,
    evaluation=_plan(9 / 255, 0.05, 0.1),
)

FASHION_LINF_STRONG = replace(
    FASHION_LINF,
    name="fashion-mnist/certified-linf-strong",
    summary="The same, to be certified at 0.1",
    stages=(replace(FASHION_LINF.stages[0], objective=IntervalTraining(epsilon=0.1)),),
    held_out=replace(_HELD_OUT, ball=Linf(0.1)),
)

DEMO_PROVEN = replace(
    FASHION_LINF_STRONG,
    name="fashion-mnist/demo-proven",
    summary="The demo's third: a small classifier whose answers are proven at 0.1, in three minutes of one core",
    model=replace(FASHION_LINF.model, selector="lenet-small"),
    stages=(
        replace(FASHION_LINF_STRONG.stages[0], fit=replace(_FIT, epochs=15, averaging=0.995, validate_every=5)),
    ),
)

FASHION_LINF_TINY = replace(
    FASHION_LINF,
    name="fashion-mnist/certified-linf-tiny",
    summary="The certified recipe's stage in seconds, to try the machinery; its numbers mean nothing",
    model=replace(FASHION_LINF.model, selector="lenet-small"),
    stages=(
        replace(
            FASHION_LINF.stages[0],
            fit=replace(_FIT, epochs=1, batch_size=50, checkpoint_every=2),
        ),
    ),
    held_out=HeldOutAttack(attack=Pgd(steps=2), ball=Linf(0.02), images=20),
    evaluation=replace(_plan(0.1), images=12, suite="glimpse"),
)

CIFAR_LINF = replace(
    FASHION_LINF,
    name="cifar10/certified-linf",
    summary="CNN7 trained by interval bounds for a GPU, to be certified at 2/255",
    model=replace(FASHION_LINF.model, dataset="cifar10", selector="interval-cnn7"),
    stages=(
        Stage(
            name="intervals",
            objective=IntervalTraining(
                epsilon=2 / 255, start=1 / 160, warm_up=0.5, clean_weight=0.2, regularisation=0.5
            ),
            score="certified",
            fit=FitConfig(
                epochs=160,
                batch_size=128,
                optimizer=OptimizerConfig(name="adam", learning_rate=5e-4, schedule="cosine", clip=10.0),
                augmentation=Augmentation(crop_padding=2, horizontal_flip=True),
                validate_every=5,
            ),
        ),
    ),
    held_out=replace(_HELD_OUT, ball=Linf(2 / 255)),
    evaluation=_plan(2 / 255, 4 / 255),
)

CERTIFIED = (FASHION_LINF, FASHION_LINF_STRONG, DEMO_PROVEN, FASHION_LINF_TINY, CIFAR_LINF)
