"""Evaluating a recipe's defense by its plan, into a record and a gallery."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from memory_defense.attacks.suites import parts_of
from memory_defense.contracts import Defense, Progress
from memory_defense.data.images import Splits
from memory_defense.data.spec import DatasetSpec
from memory_defense.evaluation.audit import audit
from memory_defense.evaluation.gallery import write_gallery
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.results import write_per_image
from memory_defense.evaluation.robustness import Case, Conduct, cross, evaluate
from memory_defense.evaluation.shards import current_shard
from memory_defense.evaluation.store import discard
from memory_defense.recipes.any_model import per_image_path
from memory_defense.recipes.campaign import cascade_cases
from memory_defense.recipes.provenance import provenance
from memory_defense.recipes.recipe import EvaluationPlan, Recipe
from memory_defense.recipes.run_directory import RunDirectory
from memory_defense.threat import L2


def plan_cases(
    plan: EvaluationPlan, knowledge: Sequence[str], transfers: Collection[str] = (), *, numbers: int = 0
) -> list[Case]:
    """Return every case of a plan for a defense that publishes this knowledge, small balls first.

    Parameters
    ----------
    transfers
        The knowledge whose surrogate decides otherwise than the defense.
    numbers
        C * H * W: an L2 ball with its square root as radius holds all images, for what the plan leaves unbounded.
    """
    cases = cross(plan.attacks, knowledge, plan.linf)
    cases += cross(plan.white_box, [known for known in knowledge if known not in transfers], plan.linf)
    cases += cross(plan.minimum_norm, knowledge, plan.l2)
    cases += cross(plan.unbounded, knowledge, (L2(math.sqrt(numbers)),))
    if plan.curve is not None:
        cases += cross({"pgd": plan.curve}, knowledge, plan.curve_balls, purpose="curve")
    return cases


def assess(
    recipe: Recipe,
    run: RunDirectory,
    defense: Defense,
    splits: Splits,
    *,
    seed: int = 0,
    out: Path | None = None,
    conduct: Conduct | None = None,
    progress: Progress | None = None,
) -> Record:
    """Evaluate a trained defense by its recipe's plan and write its record, and a gallery beside it.

    Parameters
    ----------
    recipe, run
        What was trained, and where it lies.
    defense
        The trained defense, on the device of the data.
    splits
        Of these only the test images are used.
    seed
        Of the attacks' draws.
    out
        Where the record goes; the run's own place by default.
    conduct
        How it is carried out; a stopped evaluation is continued from a file beside the record.
    progress
        Told after each case.
    """
    plan = recipe.evaluation
    spec = splits.spec
    subset = splits.test.first(min(plan.images, len(splits.test)))
    cases = plan_cases(
        plan,
        plan.knowledge or tuple(defense.surrogates()),
        getattr(defense, "transfer_knowledge", ()),
        numbers=subset.images[0].numel(),
    )
    if plan.suite is not None:
        going_on = cascade_cases(defense, parts_of(plan.suite), (*plan.linf, *plan.l2))
        cases += [case for case in going_on if plan.knowledge is None or case.knowledge in plan.knowledge]
    place = out or run.record
    unfinished = place.with_suffix(".progress.safetensors")
    evaluation = evaluate(
        defense,
        subset.floats(),
        subset.labels,
        cases,
        seed=seed,
        ids=subset.ids,
        conduct=replace(conduct or Conduct(), resume_at=unfinished, keep_state=True),
        progress=progress,
    )
    lines = audit(defense, evaluation, classes=len(spec.classes), seed=seed)
    record = Record(
        defense=f"{recipe.model.defense}/{recipe.model.preset}",
        recipe=_trained_as(recipe, run, spec),
        dataset=spec.name,
        images=len(subset),
        clean=evaluation.clean,
        attacks=tuple(outcome.result for outcome in evaluation.outcomes),
        worst_case=evaluation.worst_cases(),
        cascades=evaluation.cascades,
        submissions=evaluation.submissions.count,
        bfloat16=evaluation.bfloat16,
        batch_invariance=evaluation.batch_invariance,
        per_image=per_image_path(place).name,
        audit=lines,
        provenance=provenance(seed, subset.images.device, recipe.sha256),
    )
    if current_shard().rank > 0:
        return record  # the first rank writes
    write_per_image(per_image_path(place), evaluation.state, evaluation.cases)
    record.write(place)
    if evaluation.broken:
        gallery = run.gallery if out is None else out.with_suffix(".gallery.safetensors")
        write_gallery(gallery, defense, evaluation, classes=spec.classes, name=record.defense)
    discard(unfinished)
    return record


def _trained_as(recipe: Recipe, run: RunDirectory, spec: DatasetSpec) -> str:
    """Return the recipe's name, with the number of training images where it was not all of them."""
    images = int(run.read()["train_images"])
    return (
        recipe.name if images == spec.train_images - spec.held_out_images else f"{recipe.name} on {images} images"
    )
