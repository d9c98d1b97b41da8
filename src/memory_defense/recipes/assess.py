"""Evaluating a recipe's defense by its plan, into a record and a gallery."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

import memory_defense
from memory_defense.contracts import Defense, Progress
from memory_defense.data.images import Splits
from memory_defense.data.spec import DatasetSpec
from memory_defense.evaluation.audit import audit
from memory_defense.evaluation.gallery import write_gallery
from memory_defense.evaluation.record import Provenance, Record
from memory_defense.evaluation.robustness import Case, cross, evaluate
from memory_defense.recipes.recipe import EvaluationPlan, Recipe
from memory_defense.recipes.run_directory import RunDirectory


def plan_cases(plan: EvaluationPlan, knowledge: Sequence[str], transfers: Collection[str] = ()) -> list[Case]:
    """Return every case of a plan for a defense that publishes this knowledge, small balls first.

    `transfers` names the knowledge whose surrogate decides otherwise than the defense.
    """
    cases = cross(plan.attacks, knowledge, plan.linf)
    cases += cross(plan.white_box, [known for known in knowledge if known not in transfers], plan.linf)
    cases += cross(plan.minimum_norm, knowledge, plan.l2)
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
    knowledge: Sequence[str] | None = None,
    out: Path | None = None,
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
    knowledge
        Only these surrogates; all that the defense publishes by default.
    out
        Where the record goes; the run's own place by default.
    progress
        Told after each case.
    """
    plan = recipe.evaluation
    spec = splits.spec
    subset = splits.test.first(min(plan.images, len(splits.test)))
    cases = plan_cases(plan, tuple(knowledge or defense.surrogates()), getattr(defense, "transfer_knowledge", ()))
    evaluation = evaluate(
        defense, subset.floats(), subset.labels, cases, seed=seed, ids=subset.ids, progress=progress
    )
    lines = audit(defense, evaluation, classes=len(spec.classes), seed=seed)
    record = Record(
        defense=f"memory-defense/{recipe.model.preset}",
        recipe=_trained_as(recipe, run, spec),
        dataset=spec.name,
        images=len(subset),
        clean=evaluation.clean,
        attacks=tuple(outcome.result for outcome in evaluation.outcomes),
        worst_case=evaluation.worst_cases(),
        audit=lines,
        provenance=provenance(seed, subset.images.device, recipe.sha256),
    )
    place = out or run.record
    record.write(place)
    if evaluation.broken:
        gallery = run.gallery if out is None else out.with_suffix(".gallery.safetensors")
        write_gallery(gallery, defense, evaluation, classes=spec.classes, name=record.defense)
    return record


def _trained_as(recipe: Recipe, run: RunDirectory, spec: DatasetSpec) -> str:
    """Return the recipe's name, with the number of training images where it was not all of them."""
    images = int(run.read()["train_images"])
    return (
        recipe.name if images == spec.train_images - spec.held_out_images else f"{recipe.name} on {images} images"
    )


def provenance(seed: int, device: torch.device, recipe_sha256: str) -> Provenance:
    """Return where a number made now, here, comes from."""
    return Provenance(
        version=memory_defense.__version__,
        git=_revision(),
        seed=seed,
        device=_device_name(device),
        torch=torch.__version__,
        recipe_sha256=recipe_sha256,
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def _revision() -> str:
    """Return the git revision of this source tree, or 'unknown' for an installed package."""
    root = Path(memory_defense.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
