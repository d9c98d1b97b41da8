"""Evaluating a recipe's defense by its plan, into a record and a gallery."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from memory_defense.attacks import Pgd
from memory_defense.attacks.suites import left_out, parts_of
from memory_defense.checks import nearest
from memory_defense.contracts import Attack, Ball, Defense, Flagging, transfers_of
from memory_defense.data.images import ImageSet, Splits
from memory_defense.data.spec import DatasetSpec
from memory_defense.evaluation.attempt import EXACT_KNOWLEDGE
from memory_defense.evaluation.cases import Case, cross
from memory_defense.evaluation.detection_results import AttackedSet, detect, fighting
from memory_defense.evaluation.flag import Flag, calibrate
from memory_defense.evaluation.gallery import write_gallery
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.pixels import Pixels
from memory_defense.evaluation.place import GALLERY, per_image_of, state_path
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.replay import EARLIER
from memory_defense.evaluation.results import Reserve, read_per_image
from memory_defense.evaluation.robustness import published
from memory_defense.evaluation.store import discard
from memory_defense.outputs import beside
from memory_defense.passes import granules_of
from memory_defense.ranks import current
from memory_defense.recipes.recipe import EvaluationPlan, Recipe
from memory_defense.run_directory import RunDirectory
from memory_defense.threat import L2
from memory_defense.workflows.evaluate import alone_at, cascade_cases, finished_record, reserve_of, saved_evaluation

ANY_NORM = Pgd(steps=20, loss="margin")
"""Attacks the flag where the plan has no white-box attack for the norm."""


def calibrated(defense: Defense, held_out: ImageSet, false_alarms: float) -> Flag:
    """Put a flag for this rate of false alarms on the defense and return it.

    Raises ValueError for a defense without scores, or what `evaluation.flag.calibrate` raises.
    """
    if not isinstance(defense, Flagging):
        raise ValueError(
            f"--detection: {type(defense).__name__} has no scores, so there is no flag to evaluate; leave it out"
        )
    flag = calibrate(defense, held_out, false_alarms=false_alarms)
    flag.put_on(defense)
    return flag


def detection_cases(plan: EvaluationPlan) -> list[tuple[str, Attack, Ball]]:
    """Return the attacks on the flag: the plan's white-box attacks in its L-inf balls, `ANY_NORM` elsewhere.

    A plan without white-box attacks gives its other L-inf attacks, and `ANY_NORM` if it has none at all.
    """
    linf = plan.white_box or plan.attacks or {"pgd-margin": ANY_NORM}
    cases: list[tuple[str, Attack, Ball]] = [(name, one, ball) for ball in plan.linf for name, one in linf.items()]
    return cases + [("pgd-margin", ANY_NORM, ball) for ball in plan.l2]


def add_detection(
    record: Record,
    place: Path,
    defense: Defense,
    splits: Splits,
    plan: EvaluationPlan,
    flag: Flag,
    options: Options | None = None,
) -> Record:
    """Return the record with its detection part, written in its place.

    Parameters
    ----------
    record, place
        What the evaluation found, and where it lies with its images beside it.
    defense
        With a flag.
    splits
        Thresholds see the held-out images alone; results are about the record's test images.
    plan
        See `detection_cases`.
    flag
        For its rate of false alarms.
    options
        See `evaluation.detection_results.detect`; the seed is the record's.
    """
    test = splits.test.first(record.images)
    with granules_of(record.batch_invariance and record.batch_invariance.granule):
        results = detect(
            defense,
            test,
            splits.held_out,
            replace(options or Options(), seed=record.provenance.seed),
            attacks=detection_cases(plan),
            false_alarms=flag.false_alarms,
            found=found_by(per_image_of(record, place), test, fighting(defense)),
        )
    whole = record.model_copy(update={"detection": results})
    whole.write(place)
    return whole


def found_by(path: Path, test: ImageSet, fighters: list[str]) -> list[AttackedSet]:
    """Return what the evaluation's attacks broke first in each ball without fighting the flag.

    Only images that fool the defense are kept there, so the sets are not whole.
    """
    results = read_per_image(path)
    fights = [any(f", {name}, " in text for name in fighters) for text in results.breakers]
    place = {number: row for row, number in enumerate(cast("list[int]", test.ids.tolist()))}
    sets: list[AttackedSet] = []
    for broken in results.broken:
        rows = [
            row
            for row, breaker in enumerate(cast("list[int]", broken.breaker.tolist()))
            if breaker >= 0 and not fights[breaker] and int(results.ids[row]) in place
        ]
        if rows:
            one = AttackedSet(
                attack="all attacks, first to fool",
                knowledge="any",
                ball=broken.ball,
                rows=test.labels.new_tensor([place[int(results.ids[row])] for row in rows]),
                images=broken.images[torch.tensor(rows)].to(test.labels.device),
                fooled=test.labels.new_ones(len(rows)).bool(),
                whole=False,
            )
            sets.append(one)
    return sets


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
    out: Path | None = None,
    options: Options | None = None,
) -> Record:
    """Evaluate a trained defense by its recipe's plan and write its record, and a gallery beside it.

    Parameters
    ----------
    recipe, run
        What was trained, and its run directory.
    defense
        The trained defense, on the device of the data.
    splits
        Images; only the test images are used.
    out
        File of the record; the run's own by default. A stopped evaluation goes on from a file beside it.
    options
        Seed, batch size and so on; ids are the dataset's, and the names the recipe's where `Options.defense` gives
        none.
    """
    plan, spec = recipe.evaluation, splits.spec
    subset = splits.test.first(min(plan.images, len(splits.test)))
    _check_knowledge(plan, defense)
    cases = plan_cases(
        plan, plan.knowledge or tuple(defense.surrogates()), transfers_of(defense), numbers=subset.images[0].numel()
    )
    place, chosen, reserve = out or run.record, options or Options(), Reserve()
    if plan.suite is not None:
        balls = (*plan.linf, *plan.l2)
        going_on = cascade_cases(defense, parts_of(plan.suite), balls)
        cases += [case for case in going_on if plan.knowledge is None or case.knowledge in plan.knowledge]
        reserve = reserve_of(plan.suite, balls, defense, classes=len(spec.classes), seed=chosen.seed)
        if plan.knowledge is not None:
            reserve = reserve._replace(cases=tuple(one for one in reserve.cases if one.knowledge in plan.knowledge))
        missing = left_out(plan.suite, [ball.norm for ball in balls])
        chosen = replace(chosen, notes=(*chosen.notes, *missing))
        if chosen.progress is not None:
            for line in missing:
                chosen.progress.note(line)
    _check_something_is_left(plan, cases)
    if len(subset) < len(splits.test):
        limited = f"the first {len(subset):,} of {len(splits.test):,} test images were attacked"
        chosen = replace(chosen, notes=(*chosen.notes, limited))
        if chosen.progress:
            chosen.progress.note(limited.replace("were", "are"))
    built_of = f"{recipe.model.defense}/{recipe.model.preset}"
    chosen = replace(
        chosen,
        ids=subset.ids,
        defense=built_of if chosen.defense == Options.defense else chosen.defense,
        dataset=spec.name,
        weights_sha256=recipe.sha256,
    )
    trained_as = _trained_as(recipe, run, spec)
    with alone_at(place):
        evaluation = saved_evaluation(
            defense, Pixels.of(subset), subset.labels, cases, chosen, place, recipe=trained_as, reserve=reserve
        )
        record = finished_record(defense, evaluation, chosen, place, recipe=trained_as, classes=len(spec.classes))
        if current().leads:
            if evaluation.broken:
                gallery = run.gallery if out is None else beside(out, GALLERY)
                write_gallery(gallery, defense, evaluation, classes=spec.classes, name=record.defense)
            discard(state_path(place))
    return record


def _check_knowledge(plan: EvaluationPlan, defense: Defense) -> None:
    """Raise ValueError for a knowledge that the defense does not publish, whether or not an attack would use it."""
    known = [name for name in published(defense) if name != EARLIER]
    for name in plan.knowledge or ():
        if name not in known:
            raise nearest(name, known, "knowledge")


def _check_something_is_left(plan: EvaluationPlan, cases: Sequence[Case]) -> None:
    """Raise ValueError where no attack of the plan goes with the knowledge that was asked for."""
    if not cases and plan.knowledge is not None:
        raise ValueError(
            f"none of the attacks that were asked for is tried with the knowledge {', '.join(plan.knowledge)}: "
            f"those without gradients only ask the defense itself ({EXACT_KNOWLEDGE}); leave the knowledge out, or "
            "give attacks that follow a gradient, such as pgd"
        )


def _trained_as(recipe: Recipe, run: RunDirectory, spec: DatasetSpec) -> str:
    """Return the recipe's name, with the number of training images where it was not all of them."""
    images = int(run.read()["train_images"])
    return (
        recipe.name if images == spec.train_images - spec.held_out_images else f"{recipe.name} on {images} images"
    )
