"""The course of a cascade as a table: what each attack found standing, and what it broke and cost."""

from __future__ import annotations

from memory_defense.evaluation.record import CascadeRecord, Record
from memory_defense.reporting.sources import Sources
from memory_defense.reporting.tables import Cell, Column, Table
from memory_defense.reporting.wording import attack_label, ball_text, knowledge_label, plain


def cascade_tables(record: Record) -> tuple[Table, ...]:
    """Return one table for each ball's cascade, attacks in the order taken."""
    sources = Sources(record)
    return tuple(_table(cascade, record.images, sources) for cascade in record.cascades)


def _table(cascade: CascadeRecord, images: int, sources: Sources) -> Table:
    columns = (
        Column("attack", numeric=False),
        Column("knowledge", numeric=False),
        Column("tried"),
        Column("broke"),
        Column("broke first"),
        Column("forward", "passes an image"),
        Column("backward", "passes an image"),
        Column("seconds"),
        Column("note", numeric=False),
    )
    rows = tuple(
        (
            Cell(attack_label(stage)),
            Cell(knowledge_label(stage.knowledge)),
            Cell(f"{stage.tried:,}", source=f"{source}/tried"),
            Cell(f"{stage.fooled:,}", source=f"{source}/fooled"),
            Cell(f"{stage.first:,}", strong=stage.first > 0, source=f"{source}/first"),
            Cell(f"{stage.forward_passes / images:.1f}", source=f"{source}/forward_passes"),
            Cell(f"{stage.backward_passes / images:.1f}", source=f"{source}/backward_passes"),
            Cell(f"{stage.seconds:.1f}", source=f"{source}/seconds"),
            Cell(plain(_note(stage.note, stage.disagreements))),
        )
        for stage, source in zip(cascade.stages, map(sources.of, cascade.stages), strict=True)
    )
    notes = (
        "Each attack saw only what those above it left standing; scouts are first compared on a few images.",
        "Passes are those of the images tried, shared out over all images of the record.",
    )
    return Table(f"Cascade, {ball_text(cascade.norm, cascade.epsilon)}", columns, rows, notes)


def _note(note: str, disagreements: int) -> str:
    said = [note] if note else []
    if disagreements:
        said.append(f"{disagreements} verdicts changed when the defense was asked again")
    return "; ".join(said)
