"""What is proven, in every form of a report: the sentence, the bars, the table, and its links into the record."""

from __future__ import annotations

import pytest

from evaluation.test_record import certified, make
from memory_defense.reporting import Section, markdown, terminal_tables, write_report
from memory_defense.reporting.certified import certified_tables
from memory_defense.reporting.figures import accuracy_figure
from memory_defense.reporting.rows import answer, answer_pieces, figure_norms
from reporting.pages import Page

PROVEN = make().model_copy(
    update={"attacks": (), "worst_case": (), "certified": (certified(0.25, 7, 9, 1), certified(0.5, 5, 7))}
)


def test_the_answer_says_what_is_proven_and_where_it_stands() -> None:
    section = Section("mine", PROVEN)
    said = answer(section)
    assert (
        "proven to stay right, 70.0\N{NO-BREAK SPACE}% within L2 0.25 and 50.0\N{NO-BREAK SPACE}% within L2 0.5"
        in said
    )
    assert said.endswith("whatever the attack.")
    places = [piece.source for piece in answer_pieces(section) if piece.source.startswith("/certified")]
    assert places == ["/certified/0/accuracy", "/certified/1/accuracy"]


def test_an_attacked_record_says_both() -> None:
    section = Section("mine", make().model_copy(update={"certified": (certified(0.25, 7, 9),)}))
    assert "proven to stay right" in answer(section)
    assert "in the worst case over every attack" in answer(section)


def test_the_table_has_a_row_for_each_radius() -> None:
    (table,) = certified_tables(PROVEN)
    assert [row[0].text for row in table.rows] == ["L2 0.25", "L2 0.5"]
    assert [cell.text for cell in table.rows[0][1:]] == ["70.0", "90.0", "100.0", "10.0", "–"]
    assert table.rows[1][2].source == "/certified/1/gate/right_or_flagged/accuracy"
    assert "wrong with probability 0.001 at most" in " ".join(table.notes)
    assert certified_tables(make()) == ()


def test_two_ways_are_two_tables() -> None:
    other = certified(0.1, 3, 4).model_copy(
        update={"method": "interval bounds", "norm": "linf", "sigma": None, "n": None, "alpha": None, "broken": 1}
    )
    tables = certified_tables(PROVEN.model_copy(update={"certified": (*PROVEN.certified, other)}))
    assert [table.title for table in tables] == ["Proven, smoothing", "Proven, interval bounds"]
    assert "By interval bounds, in one pass" in tables[1].notes[0]
    assert tables[1].rows[0][-1].strong, "a broken proof stands out"


def test_the_page_and_the_text_have_them(tmp_path) -> None:
    sections = [Section("mine", PROVEN)]
    write_report(tmp_path / "report.html", sections, title="Proofs")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for words in ("proven within L2 0.25", "proven within L2 0.5, right or flagged", "Proven, smoothing"):
        assert words in " ".join(Page(page).text.split())
    assert "Proven, smoothing" in markdown(sections)
    assert len(terminal_tables(sections)) >= 2


def test_a_figure_shows_what_is_proven_against_the_radius() -> None:
    assert figure_norms(PROVEN) == ("l2",)
    drawn = accuracy_figure(PROVEN, "l2", prefix="f")
    assert "proven 50.0 %" in drawn
    assert "right or flagged, proven 70.0 %" in drawn
    with pytest.raises(ValueError, match="draw 'l2'"):
        accuracy_figure(PROVEN, "linf", prefix="f")
    assert figure_norms(make().model_copy(update={"attacks": (), "certified": (certified(0.25, 7, 9),)})) == ()
