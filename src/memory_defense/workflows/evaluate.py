"""Evaluate any classifier, whoever trained it: worst case, audit and one record."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from memory_defense.attacks import ATTACKS
from memory_defense.attacks.suites import Suite, SuitePart, parts_of
from memory_defense.contracts import (
    Adaptation,
    Adaptive,
    Ball,
    Classifier,
    Defense,
    Images,
    Labels,
    Progress,
    Rows,
    Targeting,
    needs_gradient,
    transfers_of,
)
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.attempt import EXACT_KNOWLEDGE
from memory_defense.evaluation.audit.run import audit
from memory_defense.evaluation.cases import QUERIES, Case
from memory_defense.evaluation.provenance import provenance
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.replay import EARLIER, Replay
from memory_defense.evaluation.results import read_per_image, write_per_image
from memory_defense.evaluation.robustness import Conduct, Evaluation
from memory_defense.evaluation.robustness import evaluate as run
from memory_defense.evaluation.store import discard
from memory_defense.ranks import current
from memory_defense.threat import ball as ball_of


def cascade_cases(
    defense: Defense, suite: Suite, balls: Sequence[Ball], start_from: Replay | None = None
) -> list[Case]:
    """Return the cascade of every ball: what an earlier evaluation found, then the suite with every knowledge.

    A gradient-free attack runs against the defense itself only, as knowledge changes gradients. A part that names
    target classes also runs with every adaptation that is worth attacking towards each class; every other part
    runs with the others.

    Parameters
    ----------
    defense
        Its surrogates that decide as it does are attacked, and its adaptive set; transfer belongs to tables.
    suite
        From `attacks.suites.parts_of`.
    balls
        One cascade each.
    start_from
        Images of an earlier evaluation, tried first.
    """
    cases: list[Case] = []
    for ball in balls:
        if start_from is not None:
            cases.append(Case(name="replay", attack=start_from, knowledge=EARLIER, ball=ball, purpose="cascade"))
        for part in suite(ball.norm):
            cases += [
                Case(
                    name=part.name,
                    attack=part.attack,
                    knowledge=known,
                    ball=ball,
                    purpose="cascade",
                    role=part.role,
                )
                for known in _knowledge_for(part, defense)
            ]
    return cases


def _knowledge_for(part: SuitePart, defense: Defense) -> list[str]:
    surrogates = defense.surrogates()
    deciding = [known for known in surrogates if known not in transfers_of(defense)]
    if not needs_gradient(part.attack):
        return [EXACT_KNOWLEDGE] if EXACT_KNOWLEDGE in deciding else deciding[:1]
    adaptive: Mapping[str, Adaptation] = defense.adaptive() if isinstance(defense, Adaptive) else {}
    towards_classes = isinstance(part.attack, Targeting)
    deciding += [name for name, one in adaptive.items() if one.towards_each_class == towards_classes]
    return deciding


_CONDUCT = Conduct()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an evaluation needs to know beside the model, the images and the threat.

    Parameters
    ----------
    seed
        Of the attacks' draws, at least 0.
    ids
        (N,) int64, positions in the dataset, which name the images' draws; 0..N-1 by default.
    start_from
        The file of images beside an earlier record, of this model or of another (transfer): tried first.
    defense, dataset
        What the record calls the model and the images.
    weights_sha256
        Of the weights, or of whatever identifies the model; empty if unknown.
    conduct
        How it is carried out.
    progress
        Told how far it is.
    """

    seed: int = 0
    ids: Rows | None = None
    start_from: Path | str | None = None
    defense: str = "a classifier"
    dataset: str = "images in memory"
    weights_sha256: str = ""
    conduct: Conduct = _CONDUCT
    progress: Progress | None = None


def evaluate(
    model: Classifier | Defense,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Sequence[float],
    norm: str = "linf",
    attacks: str = "fast",
    out: Path | str | None = None,
    settings: Settings | None = None,
) -> Record:
    """Attack a classifier image by image until nothing is left to try, audit the result, and return its record.

    Parameters
    ----------
    model
        Images (B, C, H, W) in [0, 1] to logits (B, K): a module or a function. If it publishes surrogates
        (`contracts.Defense`), every one of them is attacked.
    images, labels
        (N, C, H, W) float32 in [0, 1] and (N,) int64.
    epsilon
        Radii in pixel units of [0, 1], such as 8 / 255.
    norm
        ``linf`` or ``l2``.
    attacks
        A suite (``fast``, ``standard``, which is also called ``autoattack``, ``rand``) or names of attacks joined
        by commas.
    out
        Where the record goes, with every image's verdict and adversarial image in a file beside it. A stopped
        evaluation goes on from there. None writes nothing.
    settings
        Everything else.

    Raises
    ------
    ValueError
        For inputs or settings that make no sense, or a model that asks for more than images.
    """
    defense = as_defense(model)
    chosen = settings or Settings()
    radii = [epsilon] if isinstance(epsilon, (int, float, str)) else list(epsilon)
    if not radii or not all(isinstance(radius, (int, float)) for radius in cast("list[object]", radii)):
        raise ValueError(f"epsilon is {epsilon!r}, expected one radius or several, such as 8 / 255")
    balls: list[Ball] = [ball_of(norm, radius) for radius in radii]
    place, how = None if out is None else Path(out), chosen.conduct
    if place is not None and how.resume_at is None:
        how = replace(how, resume_at=place.with_suffix(".progress.safetensors"), keep_state=True)
    earlier = None
    if chosen.start_from is not None:
        file = Path(chosen.start_from)
        earlier = Replay(source=file.name, results=read_per_image(file))
    cases = cascade_cases(defense, parts_of(attacks), balls, earlier)
    _check_something_can_be_tried(defense, cases, attacks)
    evaluation = run(
        defense,
        images,
        labels,
        cases,
        seed=chosen.seed,
        ids=chosen.ids,
        conduct=how,
        progress=chosen.progress,
    )
    record = _record(defense, evaluation, chosen, attacks)
    if place is not None and current().rank == 0:
        record = record.model_copy(update={"per_image": per_image_path(place).name})
        write_per_image(per_image_path(place), evaluation.state, evaluation.cases)
        record.write(place)
        if how.resume_at is not None and how.keep_state:
            discard(how.resume_at)
    return record


def _check_something_can_be_tried(defense: Defense, cases: Sequence[Case], attacks: str) -> None:
    """Raise ValueError where the model only answers and every case needs a gradient: nothing would be attacked."""
    if set(defense.surrogates()) != {QUERIES} or any(
        isinstance(case.attack, Replay) or not needs_gradient(case.attack) for case in cases
    ):
        return
    remedy = ", ".join(name for name, one in ATTACKS.items() if not needs_gradient(one))
    raise ValueError(
        f"the model answers but has no gradient, and all of {attacks!r} need one: nothing would be tried; "
        f"give attacks that only ask: {remedy}, or the suite fast, which has the first"
    )


def per_image_path(record: Path) -> Path:
    """Return where the verdicts and images of a record are."""
    return record.with_suffix(".images.safetensors")


def _record(defense: Defense, evaluation: Evaluation, settings: Settings, attacks: str) -> Record:
    classes = _classes(defense, evaluation.images)
    return Record(
        defense=settings.defense,
        recipe=f"attacks: {attacks}",
        dataset=settings.dataset,
        images=len(evaluation.images),
        clean=evaluation.clean,
        attacks=tuple(outcome.result for outcome in evaluation.outcomes),
        worst_case=evaluation.worst_cases(),
        cascades=evaluation.cascades,
        submissions=evaluation.submissions.count,
        bfloat16=evaluation.bfloat16,
        audit=audit(defense, evaluation, classes=classes, seed=settings.seed),
        provenance=provenance(settings.seed, evaluation.images.device, settings.weights_sha256),
    )


@torch.no_grad()
def _classes(defense: Defense, images: Images) -> int:
    return int(defense(images[:1]).shape[1])


def as_defense(model: Classifier | Defense) -> Defense:
    """Return the model as a defense; a plain classifier publishes itself.

    Raises
    ------
    ValueError
        For a model that asks for more than images: whoever hands it a label decides its answer.
    """
    needed = _required_arguments(model)
    if len(needed) > 1:
        raise ValueError(
            f"the model asks for {', '.join(needed)}; a classifier is given images only. One that is handed the "
            "label, or a slot made of it, has no robustness to measure: wrap it so that it finds these itself"
        )
    return model if isinstance(model, Defense) else Undefended(model)


def _required_arguments(model: object) -> list[str]:
    """Return the names of the positional arguments that a call must give."""
    function = model.forward if isinstance(model, nn.Module) else model
    try:
        parameters = inspect.signature(cast("type[object]", function)).parameters.values()
    except (TypeError, ValueError):  # some built-in callables do not say
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [one.name for one in parameters if one.kind in kinds and one.default is inspect.Parameter.empty]
