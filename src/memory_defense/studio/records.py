"""Records, of runs and of any other classifier, as the page's tables and as the report that `reporting` writes."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from memory_defense.evaluation.kept import read_whole
from memory_defense.evaluation.record import Accuracy, Record
from memory_defense.reporting import Section, matrix_table, write_report
from memory_defense.reporting.cells import Table
from memory_defense.reporting.failures import audit_sentence
from memory_defense.reporting.rows import answer, caution, ordered_worst_cases, sorted_balls
from memory_defense.reporting.selection import selection_tables
from memory_defense.reporting.tables import audit_table, cascade_tables, detection_tables
from memory_defense.reporting.wording import MISSING, NOT_TRIED, ball_text, interval, number, percent, plain
from memory_defense.studio.messages import Message
from memory_defense.studio.runs import Evaluated, Runs

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


class NumberView(Message):
    """One number of a record's first line."""

    name: str
    text: str
    detail: str
    """Its 95 % interval; empty where nothing was measured."""


class FailedView(Message):
    """One check of the audit that failed."""

    check: str
    value: str
    meaning: str
    remedy: str


class RecordView(Message):
    """One evaluation."""

    name: str
    title: str
    run: bool
    """Whether it is a run's, which can be played with; else it is a record of any other classifier."""
    numbers: list[NumberView]
    answer: str
    notes: list[str]
    caution: str
    audit: str
    """The audit in one sentence."""
    failed: list[FailedView]
    images: int
    dataset: str
    tables: list[TableView]


class Records(Message):
    """Every record in the folders given."""

    looked: list[str]
    """The folders, in words."""
    headline: TableView | None
    records: list[RecordView]
    faults: list[str]
    """Records that cannot be read, and why."""


def records_of(runs: Runs) -> Records:
    """Return the tables of every record; damaged ones are named among the faults."""
    faults: list[str] = []
    found: list[tuple[Evaluated, Record]] = []
    for one in runs.evaluated().values():
        try:
            found.append((one, read_whole(one.record)))
        except (ValueError, OSError) as error:
            faults.append(f"{one.name}: {error}")
    named = Counter(record.defense for one, record in found if not one.run)
    sections = [_section(one, record, alone=named[record.defense] == 1) for one, record in found]
    return Records(
        looked=runs.looked,
        headline=_headline(sections) if sections else None,
        records=[_record(one, section) for (one, _), section in zip(found, sections, strict=True)],
        faults=faults,
    )


def report_of(one: Evaluated) -> str:
    """Return one record's whole report as a page."""
    with tempfile.TemporaryDirectory(prefix="memdef-studio-") as directory:
        page = Path(directory) / "report.html"
        write_report(page, [_section(one, read_whole(one.record), alone=True)], title=TITLE)
        return page.read_text(encoding="utf-8")


def _section(one: Evaluated, record: Record, *, alone: bool) -> Section:
    """Return a record under its run's name, or its classifier's, with its file's where others have the same."""
    called = one.name if one.run else record.defense if alone else f"{record.defense} ({one.name})"
    return Section(title=called, record=record, gallery_path=one.gallery)


def _record(one: Evaluated, section: Section) -> RecordView:
    record = section.record
    tables = [matrix_table(record)] if record.attacks else []
    tables += cascade_tables(record)
    tables += selection_tables(record)
    tables += detection_tables(record)
    if record.audit:
        tables.append(replace(audit_table(record), title="Audit: every check"))
    failed = [line for line in record.audit if line.verdict == "fail"]
    return RecordView(
        name=one.name,
        title=section.title,
        run=one.run,
        numbers=_numbers(record),
        answer=answer(section),
        notes=[plain(note) for note in record.notes],
        caution=caution(record),
        audit=_audit(record),
        failed=[
            FailedView(
                check=plain(line.check),
                value=number(line.value),
                meaning=plain(line.meaning),
                remedy=plain(line.remedy),
            )
            for line in failed
        ],
        images=record.images,
        dataset=record.dataset,
        tables=[_view(table) for table in tables],
    )


def _numbers(record: Record) -> list[NumberView]:
    """Return the accuracy on clean images, in each ball's worst case, and within each radius of a proof, in %."""
    said = [_number("clean", record.clean)]
    for worst in ordered_worst_cases(record):
        said.append(_number(f"worst case, {ball_text(worst.norm, worst.epsilon)}", worst.measured))
    for one in record.certified:
        if one.epsilon > 0:
            said.append(_number(f"proven, {ball_text(one.norm, one.epsilon)}", one))
    return said


def _number(name: str, found: Accuracy | None) -> NumberView:
    if found is None:
        return NumberView(name=name, text=NOT_TRIED, detail="")
    return NumberView(name=name, text=percent(found.accuracy), detail=interval(found))


def _headline(sections: Sequence[Section]) -> TableView:
    """Return one row for each record: its numbers, each radius in a column of its own."""
    worst = sorted_balls(one for section in sections for one in ordered_worst_cases(section.record))
    sure = sorted_balls(one for section in sections for one in section.record.certified if one.epsilon > 0)
    names = ["clean", *(f"worst case, {ball_text(*ball)}" for ball in worst)]
    names += [f"proven, {ball_text(*ball)}" for ball in sure]
    rows: list[list[CellView]] = []
    for section in sections:
        there = {one.name: one for one in _numbers(section.record)}
        cells = [CellView(text=plain(section.title), detail="", strong=False)]
        for name in names:
            one = there.get(name) or NumberView(name=name, text=MISSING, detail="")
            cells.append(CellView(text=one.text, detail=one.detail, strong=name in there and name != "clean"))
        rows.append(cells)
    columns = [ColumnView(title="what", note="", numeric=False)]
    for name in names:
        title, _, note = name.partition(", ")
        columns.append(ColumnView(title=title, note=note, numeric=True))
    notes = [
        "Right answers in %, with the 95 % interval.",
        "Worst case: right under every attack that was tried.",
    ]
    notes += [f"{MISSING}: not run."] if any(one.text == MISSING for row in rows for one in row) else []
    return TableView(title="What was evaluated", columns=columns, rows=rows, notes=notes)


def _audit(record: Record) -> str:
    """Return how many checks failed; what was not checked at all is said as the report says it."""
    verdicts = Counter(line.verdict for line in record.audit)
    if not verdicts:
        return audit_sentence(record)
    failed, passed, skipped = verdicts["fail"], verdicts["pass"], verdicts["not run"]
    return f"Audit: {failed} of {len(record.audit)} checks failed, {passed} passed, {skipped} not run."


def _view(table: Table) -> TableView:
    return TableView.model_validate(table, from_attributes=True)
