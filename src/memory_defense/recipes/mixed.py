"""Recipes of the mixture of a robust and an accurate classifier: half an hour of one core, and a tiny one.

The accurate classifier is the run's plain net, of the same network as the robust one.
"""

from __future__ import annotations

from dataclasses import replace

from memory_defense.attacks import Pgd
from memory_defense.recipes.fashion_mnist import DEMO, TINY
from memory_defense.recipes.parts import quick_plan
from memory_defense.recipes.recipe import EvaluationPlan, ModelSpec, Recipe
from memory_defense.threat import Linf


def _mixed(recipe: Recipe, name: str, summary: str, plan: EvaluationPlan) -> Recipe:
    """Return the recipe of a mixture whose members are trained as a Memory Defense's selector and plain net are."""
    model = ModelSpec(
        dataset=recipe.model.dataset, defense="mixture", preset="gelu", selector=recipe.undefended_network
    )
    stages = tuple(stage for stage in recipe.stages if stage.part == "selector")
    return replace(recipe, name=name, summary=summary, model=model, stages=stages, evaluation=plan)


FASHION_MIXTURE = _mixed(
    DEMO,
    "fashion-mnist/mixture",
    "The demo's robust selector mixed with a plain classifier (MixedNUTS), for clean accuracy",
    replace(quick_plan((0.1,), 1.5), l2=(), minimum_norm={}, curve=None, curve_balls=()),
)

TINY_MIXTURE = _mixed(
    TINY,
    "fashion-mnist/mixture-tiny",
    "A mixture in seconds, to try the machinery; its numbers mean nothing",
    EvaluationPlan(images=20, linf=(Linf(0.1),), attacks={"pgd": Pgd(steps=2)}, suite="glimpse"),
)

MIXED = (FASHION_MIXTURE, TINY_MIXTURE)
