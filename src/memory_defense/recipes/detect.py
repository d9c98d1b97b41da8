"""What a run's flag is worth, by its recipe's plan: into the record that its evaluation wrote."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from memory_defense.attacks import Pgd
from memory_defense.contracts import Attack, Ball, Defense, Flagging, Progress
from memory_defense.data.images import ImageSet, Splits
from memory_defense.evaluation.conduct import Conduct
from memory_defense.evaluation.detection_results import AttackedSet, DetectionPlan, detect, fighting
from memory_defense.evaluation.flag import Flag, calibrate
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.results import read_per_image
from memory_defense.passes import granules_of
from memory_defense.recipes.any_model import per_image_path
from memory_defense.recipes.recipe import EvaluationPlan

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
    *,
    conduct: Conduct | None = None,
    progress: Progress | None = None,
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
    conduct, progress
        See `evaluation.detection_results.detect`.
    """
    test = splits.test.first(record.images)
    with granules_of(record.batch_invariance and record.batch_invariance.granule):
        results = detect(
            defense,
            test,
            splits.held_out,
            DetectionPlan(attacks=detection_cases(plan), false_alarms=flag.false_alarms),
            seed=record.provenance.seed,
            found=found_by(per_image_path(place), test, fighting(defense)),
            conduct=conduct,
            progress=progress,
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
            device = test.labels.device
            positions = test.labels.new_tensor([place[int(results.ids[row])] for row in rows])
            sets.append(
                AttackedSet(
                    attack="all attacks, first to fool",
                    knowledge="any",
                    ball=broken.ball,
                    rows=positions,
                    images=broken.images[rows].to(device),
                    fooled=test.labels.new_ones(len(rows)).bool(),
                    whole=False,
                )
            )
    return sets
