"""Work for a GPU, most valuable first: what each entry proves, and its recipes.

An entry is a list of recipes; `queue_work.work` trains and evaluates them, a few minutes at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from memory_defense.attacks import Fgsm
from memory_defense.checks import nearest
from memory_defense.contracts import Attack
from memory_defense.recipes.recipe import EvaluationPlan, Recipe
from memory_defense.recipes.registry import recipe
from memory_defense.recipes.scales import FASHION_CPU

_BRIEF_CW = FASHION_CPU.slow.unbounded


@dataclass(frozen=True, kw_only=True)
class QueueEntry:
    """One claim that needs a GPU to be measured."""

    claim: str
    """Claim that the results decide, in one line."""
    recipes: tuple[str, ...]
    """Trained and evaluated in this order; names of `recipes.RECIPES`."""
    minutes: int
    """Minutes on one large GPU for training and evaluation: an estimate until it is run."""
    back: str
    """Results that are kept."""
    images: int
    """Test images, at most; the recipe's plan may have fewer."""
    chunk: int = 256
    """Images attacked between two looks at the clock."""
    suite: str | None = None
    """Suite of the cascade; None takes the recipe's."""
    unbounded: Mapping[str, Attack] | None = None
    """In place of the recipe's unbounded attacks."""

    def chosen(self, *, tiny: bool) -> tuple[Recipe, ...]:
        """Return its recipes with the plans that it asks for; at toy size with `tiny`."""
        if tiny:
            return tuple(_toy(recipe(_tiny(name))) for name in self.recipes)
        return tuple(self._planned(recipe(name)) for name in self.recipes)

    def _planned(self, one: Recipe) -> Recipe:
        plan = one.evaluation
        plan = replace(plan, images=min(plan.images, self.images), suite=self.suite or plan.suite)
        if self.unbounded is not None:
            plan = replace(plan, unbounded=self.unbounded)
        return replace(one, evaluation=plan)


def _tiny(name: str) -> str:
    return name.replace("/paper/", "/tiny/") if "/paper/" in name else f"{name}-tiny"


def _toy(one: Recipe) -> Recipe:
    """Return a tiny recipe that is judged by little: one attack on two images in one ball, and a cascade.

    PixelDefend, each of whose passes takes a processor seconds, goes without the cascade.
    """
    suite = None if one.model.defense == "pixeldefend" else "glimpse"
    plan = EvaluationPlan(images=2, linf=one.evaluation.linf[:1], attacks={"fgsm": Fgsm()}, suite=suite)
    return replace(one, evaluation=plan, held_out=replace(one.held_out, images=4))


def _rows(dataset: str, *rows: str) -> tuple[str, ...]:
    return tuple(f"{dataset}/paper/{row}" for row in rows)


_CLASSIFIERS = ("resnet-benign", "resnet-offline", "resnet-online")
_MEMORY = ("memory-defense", "memory-defense-sound")
_KEPT = "a record and the weights of each"

QUEUE: dict[str, QueueEntry] = {
    "fashion-mnist-paper": QueueEntry(
        claim="Table 1 at the paper's own size: ResNet-50, Memory Defense and its baselines on Fashion-MNIST",
        recipes=_rows("fashion-mnist", *_CLASSIFIERS, *_MEMORY, "magnet", "comdefend"),
        minutes=230,
        back=_KEPT,
        images=500,
    ),
    "fashion-mnist-strong": QueueEntry(
        claim="What a selector trained by TRADES with perturbed weights holds at 25/255, and whether a memory adds",
        recipes=("fashion-mnist/strong",),
        minutes=55,
        back="a record of all 10,000 test images and the weights",
        images=10_000,
    ),
    "cifar10-strong": QueueEntry(
        claim="The same on CIFAR-10 at 8/255, with a ResNet-18 trained in less than half an hour",
        recipes=("cifar10/strong",),
        minutes=50,
        back="a record of all 10,000 test images and the weights",
        images=10_000,
    ),
    "cifar10-resnet50": QueueEntry(
        claim="The ResNet-50 rows of Table 2 at the paper's own size on CIFAR-10",
        recipes=_rows("cifar10", *_CLASSIFIERS, *_MEMORY),
        minutes=270,
        back=_KEPT,
        images=500,
    ),
    "pixelcnn": QueueEntry(
        claim="PixelDefend with its published PixelCNN++ on both datasets, attacked by those who know it is there",
        recipes=("fashion-mnist/paper/pixeldefend", "cifar10/paper/pixeldefend"),
        minutes=420,
        back=_KEPT,
        images=200,
        chunk=100,
        suite="glimpse",
        unbounded=_BRIEF_CW,
    ),
    "cifar10-purifiers": QueueEntry(
        claim="ComDefend and Defense-VAE on CIFAR-10, attacked through the purifier (Tables 2 and 3)",
        recipes=_rows("cifar10", "comdefend", "defense-vae-rec", "defense-vae-e2e"),
        minutes=200,
        back=_KEPT,
        images=500,
    ),
}
"""Every entry by name, the most valuable first."""


def entry(name: str) -> QueueEntry:
    """Return an entry by name; raise ValueError with the nearest name for an unknown one."""
    if name not in QUEUE:
        raise nearest(name, QUEUE, "entry of the queue")
    return QUEUE[name]


def markdown_table() -> str:
    """Return the queue as the table of docs/gpu-queue.md."""
    lines = ["| name | what it proves | recipes | minutes | what comes back |", "|---|---|---|---|---|"]
    for name, one in QUEUE.items():
        recipes = ", ".join(f"`{name}`" for name in one.recipes)
        lines.append(f"| `{name}` | {one.claim} | {recipes} | about {one.minutes} | {one.back} |")
    return "\n".join(lines) + "\n"
