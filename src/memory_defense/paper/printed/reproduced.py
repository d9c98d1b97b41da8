"""A table of the paper beside ours: what was published, what its protocol gives, and what survives.

Every system has four lines. ``published`` is copied. ``its protocol`` is the same attack with the knowledge that
the published attack had. ``strongest knowledge`` is the same attack with the knowledge that breaks most. ``worst
case`` is the share of images that survive every attack of the record in that ball, image by image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.box import HORIZONTALS
from rich.table import Table

from memory_defense.evaluation.record import Accuracy, AttackResult, Record
from memory_defense.files import write_text
from memory_defense.paper.printed.published import AttackColumn, PublishedRow, PublishedTable
from memory_defense.paper.printed.shortfall import CW_REASON, SEE_CW, Gap, explained
from memory_defense.reporting.cells import Cell
from memory_defense.reporting.text import cell_markdown, markdown_lines
from memory_defense.reporting.wording import NOT_TRIED, percent

LINES = ("published", "its protocol", "strongest knowledge", "worst case")
ADDED = {
    "magnet": ("MagNet", "oblivious"),
    "resnet-online": ("Classifier, adversarially trained", "end-to-end"),
    "memory-defense-sound": ("Memory Defense, sound", "fixed-slots"),
    "memory-defense-reference": ("Memory Defense, released constants", "fixed-slots"),
    "memae": ("MemAE without masking", "end-to-end"),
}
"""Rows that the paper does not have: title, and the knowledge of its own protocol for a system of that kind."""


@dataclass(frozen=True)
class SystemLines:
    """The four lines of one system, in the order of `LINES`."""

    title: str
    note: str
    record_path: str
    lines: Mapping[str, tuple[Cell, ...]]


@dataclass(frozen=True)
class Reproduced:
    """One table, ready to be written."""

    title: str
    head: tuple[str, ...]
    systems: tuple[SystemLines, ...]
    remarks: tuple[str, ...]


def reproduced(table: PublishedTable, records: Sequence[tuple[str, Record, str]], *, scale: str) -> Reproduced:
    """Return a table of the paper with our numbers beside its own.

    Parameters
    ----------
    table
        From `published.PUBLISHED`.
    records
        Key, record and path of the record (as a link) of each row.
    scale
        Name of the scale.

    Raises
    ------
    ValueError
        For a row that is neither the paper's nor in `ADDED`, or a record that lacks an attack of the table.
    """
    published = {row.key: row for row in table.rows}
    head = tuple(column.head(cell) for column, cell in table.cells)
    systems = tuple(_system(table, published.get(key), key, record, place) for key, record, place in records)
    reasons = [_shortfall(head, key, system, scale) for (key, _, _), system in zip(records, systems, strict=True)]
    return Reproduced(
        title=f"{table.title}, at the scale {scale!r}",
        head=head,
        systems=systems,
        remarks=(*_remarks([record for _, record, _ in records]), *_reasons(reasons)),
    )


def _reasons(found: Sequence[str | None]) -> list[str]:
    """Return what is said of single systems, and after it what is said of CW if any of them is about it."""
    said = [reason for reason in found if reason]
    return [*said, *([CW_REASON] if any(SEE_CW in reason for reason in said) else [])]


def _shortfall(head: Sequence[str], key: str, system: SystemLines, scale: str) -> str | None:
    """Return why a system stays under its published numbers, where it does."""
    pairs = zip(head, system.lines["published"], system.lines["its protocol"], strict=True)
    gaps = [
        Gap(name, float(theirs.text), float(ours.text))
        for name, theirs, ours in pairs
        if theirs.text not in ("NA", "–")
    ]
    clean = next((gap for gap in gaps if gap.head == "Clean"), None)
    return explained(system.title, key, scale, clean, [gap for gap in gaps if gap is not clean])


def _system(table: PublishedTable, row: PublishedRow | None, key: str, record: Record, place: str) -> SystemLines:
    if row is None and key not in ADDED:
        raise ValueError(f"there is no row {key!r} in {table.title}, and it is none of {', '.join(ADDED)}")
    title, knowledge = (row.title, row.knowledge) if row else ADDED[key]
    printed = [score for group in row.scores for score in group] if row else []
    return SystemLines(
        title=title if row else f"{title} (not in the paper)",
        note=f"{record.recipe}; {record.images} images; published attack: {knowledge}",
        record_path=place,
        lines={
            "published": tuple(
                Cell("NA" if score is None else f"{score:.2f}".rstrip("0").rstrip(".")) for score in printed
            )
            or (Cell("–"),) * len(table.cells),
            "its protocol": tuple(_under(record, *cell, knowledge) for cell in table.cells),
            "strongest knowledge": tuple(_under(record, *cell, None) for cell in table.cells),
            "worst case": tuple(_worst(record, *cell) for cell in table.cells),
        },
    )


def _under(record: Record, column: AttackColumn, cell: int, knowledge: str | None) -> Cell:
    """Return the accuracy under one attack: with one knowledge, or with the one that breaks most."""
    if column.attack == "clean":
        return _cell(record.clean, "clean")
    fitting = [
        (number, result)
        for number, result in enumerate(record.attacks)
        if _is(result, column, cell) and knowledge in (None, result.knowledge)
    ]
    if not fitting:
        raise ValueError(
            f"the record of {record.recipe} has no {column.head(cell)} with the knowledge {knowledge or 'any'}; "
            "evaluate it again with the plan of this table"
        )
    number, strongest = min(fitting, key=lambda one: one[1].accuracy)
    return _cell(strongest, f"attacks[{number}]")


def _is(result: AttackResult, column: AttackColumn, cell: int) -> bool:
    if column.settings:
        return result.attack == column.settings[cell]
    radius = column.radii[cell]
    return (result.attack, result.norm) == (column.attack, column.norm) and abs(result.epsilon - radius) < 1e-9


def _worst(record: Record, column: AttackColumn, cell: int) -> Cell:
    if column.attack == "clean":
        return replace(_cell(record.clean, "clean"), strong=True)
    if column.settings:  # the largest L2 ball holds every image
        balls = [(one.epsilon, number) for number, one in enumerate(record.worst_case) if one.norm == "l2"]
    else:
        radius = column.radii[cell]
        balls = [
            (one.epsilon, number)
            for number, one in enumerate(record.worst_case)
            if one.norm == column.norm and abs(one.epsilon - radius) < 1e-9
        ]
    if not balls:
        raise ValueError(
            f"the record of {record.recipe} has no worst case for {column.head(cell)}; "
            "evaluate it again with the plan of this table"
        )
    number = max(balls)[1]
    found = record.worst_case[number].measured
    if found is None:
        return Cell(NOT_TRIED)
    return replace(_cell(found, f"worst_case[{number}]"), strong=True)


def _cell(accuracy: Accuracy, source: str) -> Cell:
    return Cell(percent(accuracy.accuracy), source=source)


def _remarks(records: Sequence[Record]) -> tuple[str, ...]:
    fewest, most = min(record.images for record in records), max(record.images for record in records)
    widest = max((record.clean.ci95[1] - record.clean.ci95[0]) / 2 for record in records)
    images = f"{most} test images" if fewest == most else f"{most} test images, of the slowest system {fewest}"
    return (
        f"Percent of {images} answered right; intervals of 95 % reach up to {100 * widest:.1f} points to each side "
        "of a number near 90 and are in the records.",
        "published: as the paper prints it. its protocol: the same attack with the knowledge that the published "
        "attack had. strongest knowledge: the same attack with the knowledge that breaks most. worst case: every "
        "attack of the record in that ball, image by image; CW may go anywhere in [0, 1], so its worst case says "
        "that something fools the system, not that it looks alike.",
        "All rows stand on the same classifier, data and attacks. The paper used ResNet-50 and copied its "
        "baselines' numbers from papers with other classifiers.",
    )


def markdown(table: Reproduced) -> str:
    """Return the table as Markdown."""
    rows = [
        (f"[{system.title}]({system.record_path})" if name == LINES[0] else "", name, *map(cell_markdown, cells))
        for system in table.systems
        for name, cells in system.lines.items()
    ]
    head = ("System", "", *table.head)
    lines = markdown_lines(head, rows, [number > 1 for number in range(len(head))])
    return "\n".join([f"### {table.title}", "", *lines, "", *(f"- {remark}" for remark in table.remarks), ""])


def terminal(table: Reproduced) -> Table:
    """Return the table for a terminal."""
    drawn = Table(title=table.title, title_justify="left", box=HORIZONTALS, padding=(0, 1, 0, 0))
    drawn.add_column("System", min_width=18)
    drawn.add_column("", no_wrap=True)
    for name in table.head:
        drawn.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for system in table.systems:
        for name, cells in system.lines.items():
            title, last = system.title if name == LINES[0] else "", name == LINES[-1]
            shown = (cell.text for cell in cells)
            drawn.add_row(title, name, *shown, end_section=last, style="bold" if last else "")
    return drawn


def page(tables: Sequence[Reproduced], title: str) -> str:
    """Return one self-contained HTML page with these tables."""
    environment = Environment(
        loader=PackageLoader("memory_defense.paper.printed"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("reproduced.html.j2").render(tables=tables, title=title, lines=LINES)


def write_reproduced(tables: Sequence[Reproduced], directory: Path, name: str) -> tuple[Path, Path]:
    """Write ``name.md`` and ``name.html`` and return their paths."""
    text, html = directory / f"{name}.md", directory / f"{name}.html"
    write_text(text, "\n".join(markdown(table) for table in tables))
    write_text(html, page(tables, "The paper's numbers and what survives"))
    return text, html
