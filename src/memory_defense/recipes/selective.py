"""Recipes of classifiers with a flag that is attacked together with their answers, and tiny ones to try them.

Network and training are the demo's, so that their flags can be compared with the memory's.
"""

from __future__ import annotations

from dataclasses import replace

from memory_defense.attacks import PAPER_PGD, Pgd
from memory_defense.defenses.rectified import RectifiedObjective
from memory_defense.recipes.fashion_mnist import DEMO
from memory_defense.recipes.recipe import EvaluationPlan, HeldOutAttack, ModelSpec, Recipe, Stage
from memory_defense.threat import Linf
from memory_defense.training.adversarial import WarmStart
from memory_defense.training.fit import FitConfig

_ANSWERS = DEMO.stages[0]
_PLAN = EvaluationPlan(
    images=1000,
    linf=(Linf(0.1),),
    attacks={"pgd": PAPER_PGD},
    white_box={"pgd-margin": Pgd(steps=20, loss="margin")},
    suite="brief",
)
_TINY_FIT = FitConfig(epochs=1, batch_size=50, optimizer=_ANSWERS.fit.optimizer, checkpoint_every=2)
_TINY_PLAN = replace(_PLAN, images=12, attacks={"pgd": Pgd(steps=2)}, suite="glimpse")
_TINY_HELD_OUT = HeldOutAttack(attack=Pgd(steps=2), ball=Linf(0.1), images=20)

RECTIFIED = Recipe(
    name="fashion-mnist/rectified",
    summary="Rectified rejection: answer and flag trained together on adversarial images, minutes of two cores",
    model=ModelSpec(dataset="fashion-mnist", defense="rectified", preset="small"),
    stages=(
        Stage(
            name="together",
            part="rectified",
            objective=RectifiedObjective(crafting=WarmStart(epsilon=0.1, step=0.75)),
            score="robust",
            fit=_ANSWERS.fit,
        ),
    ),
    held_out=DEMO.held_out,
    evaluation=_PLAN,
)

CONSISTENT = Recipe(
    name="fashion-mnist/consistent",
    summary="The demo's classifier, and a flag where a short attack within 0.05 changes its answer",
    model=ModelSpec(
        dataset="fashion-mnist", defense="consistent", preset="fashion-mnist", selector=DEMO.model.selector
    ),
    stages=(_ANSWERS,),
    held_out=DEMO.held_out,
    evaluation=_PLAN,
)

TINY_RECTIFIED = replace(
    RECTIFIED,
    name="fashion-mnist/rectified-tiny",
    summary="Rectified rejection in seconds, to try the machinery; its numbers mean nothing",
    model=replace(RECTIFIED.model, preset="tiny"),
    stages=(replace(RECTIFIED.stages[0], fit=_TINY_FIT),),
    held_out=_TINY_HELD_OUT,
    evaluation=_TINY_PLAN,
)

TINY_CONSISTENT = replace(
    CONSISTENT,
    name="fashion-mnist/consistent-tiny",
    summary="The flag by consistency in seconds, to try the machinery; its numbers mean nothing",
    model=replace(CONSISTENT.model, preset="tiny", selector="linear"),
    stages=(replace(_ANSWERS, fit=_TINY_FIT),),
    held_out=_TINY_HELD_OUT,
    evaluation=_TINY_PLAN,
)

SELECTIVE = (RECTIFIED, TINY_RECTIFIED, CONSISTENT, TINY_CONSISTENT)
