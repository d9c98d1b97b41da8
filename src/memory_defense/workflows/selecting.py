"""Answer and flag of a run attacked together, into its record (`evaluation.selection`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from memory_defense.attacks import ApgdTargeted, Pgd, Square
from memory_defense.contracts import Attack, Ball, Certifying, Defense
from memory_defense.data.images import Splits
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.place import per_image_of
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.selection import select
from memory_defense.passes import granules_of
from memory_defense.recipes.recipe import EvaluationPlan
from memory_defense.workflows.assess import found_by

FIGHTING: dict[str, Attack] = {
    "pgd-margin": Pgd(steps=20, loss="margin"),
    "apgd-t": ApgdTargeted(steps=20, targets=9),
    "square-100": Square(queries=100, p_init=0.3),
}
"""What fights a flag: a climb, one towards each wrong class, and a few queries where its gradient says nothing."""


def selection_balls(defense: Defense, plan: EvaluationPlan) -> tuple[Ball, ...]:
    """Return the plan's balls; for a gate those of the norm that it proves something about."""
    balls = (*plan.linf, *plan.l2)
    if getattr(defense, "gate_epsilon", None) is None or not isinstance(defense, Certifying):
        return balls
    return tuple(one for one in balls if one.norm == defense.certified_norm)


def add_selection(
    record: Record,
    place: Path,
    defense: Defense,
    splits: Splits,
    plan: EvaluationPlan,
    costs: Sequence[float],
    options: Options | None = None,
) -> Record:
    """Return the record with its selection part, written in its place.

    Parameters
    ----------
    record, place
        What the evaluation found, and where it lies with its images beside it.
    defense
        With the flag that it is to be judged by, if it has one.
    splits
        Results are about the record's test images.
    plan
        For its balls.
    costs
        Of a flag; see `evaluation.rejection`.
    options
        As in `assess.add_detection`.
    """
    test = splits.test.first(record.images)
    with granules_of(record.batch_invariance and record.batch_invariance.granule):
        results = select(
            defense,
            test,
            replace(options or Options(), seed=record.provenance.seed),
            attacks=FIGHTING,
            balls=selection_balls(defense, plan),
            costs=costs,
            found=found_by(per_image_of(record, place), test, []),
        )
    whole = record.model_copy(update={"selection": results})
    whole.write(place)
    return whole
