"""Recipes: the only place where concrete datasets, networks, attacks and numbers meet."""

from __future__ import annotations

from memory_defense.names import check_name
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
    check_name(name, RECIPES, "recipe")
    return RECIPES[name]
