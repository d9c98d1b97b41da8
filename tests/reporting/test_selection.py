"""The tables of answer and flag together: every number is the record's, and every renderer shows them."""

from __future__ import annotations

import pytest
import torch

from memory_defense.evaluation.record import Record
from memory_defense.evaluation.rejection import selection_result
from memory_defense.reporting import Section, markdown, terminal_tables, write_report
from memory_defense.reporting.latex import latex
from memory_defense.reporting.selection import compared, selection_tables


def with_selection(record: Record, epsilon: float = 0.1, lost: int = 2) -> Record:
    """Return the record with verdicts on ten images: two flagged, one of them right; one wrong and accepted."""
    right = torch.arange(10) < 8
    flagged = (torch.arange(10) == 0) | (torch.arange(10) == 9)
    gone = (torch.arange(10) > 0) & (torch.arange(10) <= lost)
    alarmed = torch.arange(10) == 7
    one = selection_result(
        right,
        flagged,
        gone,
        alarmed,
        costs=[0.1],
        norm="linf",
        epsilon=epsilon,
        near=0.01,
        score="mistrust",
        threshold=0.25,
    )
    return record.model_copy(update={"selection": (one,)})


def test_a_record_without_it_has_no_table(record) -> None:
    assert selection_tables(record) == ()


def test_the_numbers_are_the_records(record) -> None:
    (table,) = selection_tables(with_selection(record))
    assert [cell.text for cell in table.rows[0]] == [
        "L-inf 0.1",
        "70.0",
        "10.0",
        "10.0",
        "30.0",
        "50.0",
        "32.0",
        "33.0",
    ]
    assert any("mistrust above 0.25" in note for note in table.notes)
    assert [cell.source for cell in table.rows[0]][1] == "/selection/0/clean_right_accepted/accuracy"
    assert table.rows[0][-1].source == "/selection/0/losses/0/loss_near"


def test_systems_side_by_side(record) -> None:
    sections = [
        Section("head", with_selection(record)),
        Section("gate", with_selection(record, lost=0)),
    ]
    table = compared(sections, "linf", 0.1)
    assert [row[0].text for row in table.rows] == ["head", "gate"]
    assert [row[4].text for row in table.rows] == ["30.0", "10.0"]
    with pytest.raises(ValueError, match=r"says nothing of answer and flag in the ball linf 0\.2"):
        compared(sections, "linf", 0.2)


def test_every_renderer_shows_it(record, tmp_path) -> None:
    section = Section("head", with_selection(record))
    title = "Answer and flag, attacked together"
    assert title in markdown([section])
    assert title in latex([section])
    assert any(title in str(table.title) for table in terminal_tables([section]))
    write_report(tmp_path / "r.html", [section], title="flags")
    assert title in (tmp_path / "r.html").read_text(encoding="utf-8")
