"""Evaluations of the runs as the page's tables, and as the report that `reporting` writes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from memory_defense.evaluation.kept import read_whole
from memory_defense.reporting import Section, headline_table, matrix_table, write_report
from memory_defense.reporting.cells import Table
from memory_defense.reporting.rows import answer, caution
from memory_defense.reporting.selection import selection_tables
from memory_defense.reporting.tables import audit_table, cascade_tables, detection_tables
from memory_defense.studio.messages import Message
from memory_defense.studio.runs import Run

TITLE = "Memory Defense: what survives"


class CellView(Message):
    """See `reporting.tables.Cell`."""

    text: str
    detail: str
    strong: bool


class ColumnView(Message):
    """See `reporting.tables.Column`."""

    title: str
    note: str
    numeric: bool


class TableView(Message):
    """See `reporting.tables.Table`."""

    title: str
    columns: list[ColumnView]
    rows: list[list[CellView]]
    notes: list[str]


class RecordView(Message):
    """One run's evaluation."""

    run: str
    title: str
    answer: str
    caution: str
    images: int
    dataset: str
    tables: list[TableView]


class Records(Message):
    """Every evaluation below the root."""

    headline: TableView | None
    records: list[RecordView]
    faults: list[str]
    """Records that cannot be read, and why."""


def records_of(runs: Sequence[Run]) -> Records:
    """Return the tables of every run that has a record; damaged ones are named among the faults."""
    faults: list[str] = []
    sections: list[Section] = []
    names: list[str] = []
    for run in runs:
        if not run.directory.record.is_file():
            continue
        try:
            sections.append(_section(run))
            names.append(run.name)
        except (ValueError, OSError) as error:
            faults.append(f"{run.name}: {error}")
    return Records(
        headline=_view(headline_table(sections)) if sections else None,
        records=[_record(name, section) for name, section in zip(names, sections, strict=True)],
        faults=faults,
    )


def report_of(run: Run) -> str:
    """Return one run's whole report as a page; raise ValueError when it has no record."""
    if not run.directory.record.is_file():
        raise ValueError(f"{run.name} has no record; make one with: memdef evaluate {run.directory.path}")
    with tempfile.TemporaryDirectory(prefix="memdef-studio-") as directory:
        page = Path(directory) / "report.html"
        write_report(page, [_section(run)], title=TITLE)
        return page.read_text(encoding="utf-8")


def _section(run: Run) -> Section:
    record = read_whole(run.directory.record)
    gallery = run.directory.gallery
    return Section(title=run.name, record=record, gallery_path=gallery if gallery.is_file() else None)


def _record(name: str, section: Section) -> RecordView:
    record = section.record
    tables = [matrix_table(record)] if record.attacks else []
    tables += cascade_tables(record)
    tables += selection_tables(record)
    tables += detection_tables(record)
    if record.audit:
        tables.append(audit_table(record))
    return RecordView(
        run=name,
        title=section.title,
        answer=answer(section),
        caution=caution(record),
        images=record.images,
        dataset=record.dataset,
        tables=[_view(table) for table in tables],
    )


def _view(table: Table) -> TableView:
    return TableView.model_validate(table, from_attributes=True)
