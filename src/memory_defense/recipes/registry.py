"""Recipes: the only place where concrete datasets, networks, attacks and numbers meet."""

from __future__ import annotations

from memory_defense import names
from memory_defense.names import check_name
from memory_defense.plugins import load_plugins
from memory_defense.recipes.certified import CERTIFIED
from memory_defense.recipes.cifar10 import CIFAR10
from memory_defense.recipes.denoised import DENOISED
from memory_defense.recipes.fashion_mnist import FASHION_MNIST
from memory_defense.recipes.mixed import MIXED
from memory_defense.recipes.proving import PROVING
from memory_defense.recipes.recipe import Recipe
from memory_defense.recipes.scales import ROWS
from memory_defense.recipes.selective import SELECTIVE
from memory_defense.recipes.smoothed import SMOOTHED
from memory_defense.recipes.strong import STRONG

_ALL = (
    FASHION_MNIST,
    CIFAR10,
    ROWS,
    STRONG,
    SMOOTHED,
    CERTIFIED,
    PROVING,
    MIXED,
    SELECTIVE,
    DENOISED,
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipes in _ALL for recipe in recipes}


def recipe(name: str) -> Recipe:
    """Return a recipe by name; raise ValueError with the nearest name for an unknown one."""
    if name not in RECIPES:
        load_plugins()
    check_name(name, RECIPES, "recipe")
    return RECIPES[name]


def register(recipe: Recipe) -> None:
    """Add a recipe of a plug-in, so that the command line knows it, too.

    Raises
    ------
    ValueError
        For a name that another recipe has.
    """
    if RECIPES.get(recipe.name, recipe) != recipe:
        raise ValueError(f"there is a recipe {recipe.name!r} already; give this one another name")
    RECIPES[recipe.name] = recipe
    names.RECIPES[recipe.name] = recipe.model.defense
    plan = recipe.evaluation
    names.PLANNED[recipe.name] = tuple({**plan.attacks, **plan.white_box, **plan.minimum_norm, **plan.unbounded})
