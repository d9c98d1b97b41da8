"""Answer and flag together, as tables: of one record, and of several systems side by side."""

from __future__ import annotations

from collections.abc import Sequence

from memory_defense.evaluation.record import Accuracy, Record, SelectionResult
from memory_defense.reporting.cells import Cell, Column, Table
from memory_defense.reporting.rows import Section
from memory_defense.reporting.sources import Sources
from memory_defense.reporting.wording import MISSING, ball_text, interval, percent, plain

_SHARES = (
    Column("clean", "right and accepted"),
    Column("clean", "right but flagged"),
    Column("clean", "wrong and accepted"),
    Column("attacked", "wrong and accepted"),
    Column("attacked", "robust with rejection"),
)
_NAMES = ("clean_right_accepted", "clean_right_flagged", "clean_wrong_accepted", "wrong_accepted", "robust")

NOTES = (
    "Attacked: an image counts as wrong and accepted if the clean image, or an image that an attack found in the "
    "ball, is answered wrongly and accepted. It counts as robust if the clean image is right and accepted, and no "
    "attack made it wrong and accepted.",
    "Total loss, times 100: the mean of 1 for each image that can be wrong and accepted, of the cost c for every "
    "other image that is flagged when clean, and of 0 for the rest. Near: c also for an image that an attack got "
    "flagged within a tenth of the radius.",
)


def selection_tables(record: Record) -> tuple[Table, ...]:
    """Return one table with a row for each ball; none where answer and flag were not attacked together."""
    if not record.selection:
        return ()
    sources = Sources(record)
    rows = [(ball_text(one.norm, one.epsilon), one, sources) for one in record.selection]
    first = record.selection[0]
    flag = (
        f"The flag: {plain(first.score)} above {first.threshold:.4g}."
        if first.threshold is not None
        else "No flag."
    )
    return (_table("Answer and flag, attacked together", "ball", rows, (flag, *NOTES)),)


def compared(sections: Sequence[Section], norm: str, epsilon: float) -> Table:
    """Return one table with a row for each system, in one ball.

    Raises ValueError for a record in which answer and flag were not attacked together there.
    """
    rows: list[tuple[str, SelectionResult, Sources]] = []
    for section in sections:
        found = [one for one in section.record.selection if (one.norm, one.epsilon) == (norm, epsilon)]
        if not found:
            raise ValueError(
                f"the record of {section.title} says nothing of answer and flag in the ball {norm} {epsilon:g}; "
                "make it again with 'memdef evaluate RUN --rejection-cost 0.1'"
            )
        rows.append((plain(section.title), found[0], Sources(section.record)))
    return _table(f"Which flag is worth having, {ball_text(norm, epsilon)}", "flag", rows, NOTES)


def _table(
    title: str, head: str, rows: Sequence[tuple[str, SelectionResult, Sources]], notes: Sequence[str]
) -> Table:
    costs = sorted({loss.cost for _, one, _ in rows for loss in one.losses})
    losses = [Column("total loss", f"c = {cost:g}{near}") for cost in costs for near in ("", ", near")]
    return Table(
        title,
        (Column(head, numeric=False), *_SHARES, *losses),
        tuple((Cell(name), *_cells(one, costs, sources)) for name, one, sources in rows),
        ("In %, with its 95 % interval.", *notes),
    )


def _cells(one: SelectionResult, costs: Sequence[float], sources: Sources) -> tuple[Cell, ...]:
    shares = tuple(_share(getattr(one, name), sources, strong=name == "wrong_accepted") for name in _NAMES)
    known = {loss.cost: loss for loss in one.losses}
    return (
        *shares,
        *(
            Cell(percent(getattr(known[cost], name)), source=sources.of(known[cost], name))
            if cost in known
            else Cell(MISSING)
            for cost in costs
            for name in ("loss", "loss_near")
        ),
    )


def _share(share: Accuracy, sources: Sources, *, strong: bool = False) -> Cell:
    return Cell(percent(share.accuracy), interval(share), strong, sources.of(share, "accuracy"))
