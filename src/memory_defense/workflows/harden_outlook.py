"""What a hardening consists of, and what each part will cost, for its display (`workflows.outlook`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from torch import nn

from memory_defense.attacks.suites import parts_of
from memory_defense.contracts import Defense, FineProgress, Progress, transfers_of
from memory_defense.data.images import ImageSet, Splits
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.watch import GRADIENT_COST, expected_cost, opening, passes_of
from memory_defense.passes import regular
from memory_defense.recipes.hardened import HardenOptions
from memory_defense.recipes.recipe import Recipe, Stage
from memory_defense.systems.build import build_defense
from memory_defense.workflows.assess import detection_cases, plan_cases
from memory_defense.workflows.evaluate import as_defense, cascade_cases
from memory_defense.workflows.outlook import Outlook, Part
from memory_defense.wrappers import frozen, gradient_at

ORIGINAL, TUNED, FLAG = "attacking the classifier as it was", "attacking the fine-tuned one", "attacking the flag"
"""Names of parts; the others are those of the training stages, and `whole`."""

_TIMED = 8
"""Images in the passes that are timed before anything begins."""
_STANDING = (0.1, 0.4)
"""The share of images that stand in the end, before and after hardening, until held-out images were attacked."""
_STEP_COST = 2 * GRADIENT_COST
"""Forward passes of an image in a training step: one step of an attack, and the step itself."""
_WAYS = 3
"""Adversaries of the flag, about."""


def whole(hardening: HardenOptions) -> str:
    """Return the name of the part that attacks what came of it."""
    return f"attacking the {hardening.result}"


def outlook_of(
    progress: Progress | None, hardening: HardenOptions, recipe: Recipe, original: nn.Module, splits: Splits
) -> Progress | None:
    """Return a display that says the time left of all parts; the same where it would not hear of passes.

    Parameters
    ----------
    progress
        Where it is said.
    hardening, recipe
        What is done.
    original
        The classifier as it was, on the device of the images.
    splits
        The images.
    """
    if not isinstance(progress, FineProgress):
        return progress
    plan, images = recipe.evaluation, min(recipe.evaluation.images, len(splits.test))
    plain = as_defense(original)
    cases = cascade_cases(plain, parts_of(hardening.attacks), plan.linf, transfers=True)
    rate = _seconds_a_pass(original, splits.test)
    attacked = partial(expected_cost, cases, images)
    parts = [Part(ORIGINAL, attacked), *(_training(recipe, one, splits) for one in recipe.stages)]
    last = cases + plan_cases(plan, tuple(plain.surrogates()))
    slower = 1.0
    if not hardening.without_memory:
        built = build_defense(recipe.model).to(splits.test.labels.device).eval()
        slower = _seconds_a_pass(built, splits.test) / rate
        last = _cases_of(built, recipe, splits)
        if hardening.fine_tune:
            parts.append(Part(TUNED, attacked))
    parts.append(Part(whole(hardening), partial(expected_cost, last, images), slower=slower))
    if not hardening.without_memory:
        flag = [Case(name=name, attack=one, knowledge="", ball=ball) for name, one, ball in detection_cases(plan)]
        cost = float(_WAYS * images * sum(map(passes_of, flag)))
        parts.append(Part(FLAG, lambda _: cost, slower=slower, audited=False))
    return Outlook(progress, parts, rate, _STANDING)


def _cases_of(defense: nn.Module, recipe: Recipe, splits: Splits) -> Sequence[Case]:
    assert isinstance(defense, Defense)
    plan, numbers = recipe.evaluation, splits.test.images[0].numel()
    cases = plan_cases(plan, tuple(defense.surrogates()), transfers_of(defense), numbers=numbers)
    return cases + (cascade_cases(defense, parts_of(plan.suite), plan.linf) if plan.suite else [])


def _training(recipe: Recipe, stage: Stage, splits: Splits) -> Part:
    fit, held_out = stage.fit, min(recipe.held_out.images, len(splits.held_out))
    steps = fit.epochs * (len(splits.train) // fit.batch_size)
    last = fit.epochs % fit.validate_every > 0
    attack = recipe.held_out
    case = Case(name="held-out", attack=attack.attack, knowledge="", ball=attack.ball)
    score = held_out + opening(held_out, _STANDING[1]) * passes_of(case)
    training = float(steps * fit.batch_size * _STEP_COST)
    return Part(
        "fine-tuning" if stage.part == "selector" else f"training the {stage.part}",
        lambda _: training,
        steps=steps,
        scores=fit.epochs // fit.validate_every + last,
        score_cost=score if stage.score == "robust" else float(held_out),
    )


def _seconds_a_pass(model: nn.Module, images: ImageSet) -> float:
    """Return the time of an image's forward pass, a third of what a pass there and back takes."""
    leaf = images.first(min(_TIMED, len(images))).floats().requires_grad_()
    asked, began = regular(model), time.monotonic()
    with frozen(model):
        for _ in range(2):  # the first pays for what the second finds ready
            began = time.monotonic()
            gradient_at(leaf, lambda: asked(leaf).float().sum())
    return max(time.monotonic() - began, 1e-6) / (GRADIENT_COST * len(leaf))
