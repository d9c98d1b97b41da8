from __future__ import annotations

import io
import re

from rich.console import Console

from memory_defense.evaluation.record import WorstCase
from memory_defense.reporting import headline_markdown, headline_table, markdown, terminal_tables
from memory_defense.reporting.rows import Section


def printed(sections, width: int = 200) -> str:
    written = io.StringIO()
    console = Console(width=width, file=written, force_terminal=False, color_system=None)
    for table in terminal_tables(sections):
        console.print(table)
    return written.getvalue()


def tables_of(text: str) -> list[list[str]]:
    blocks = [block.splitlines() for block in text.split("\n\n")]
    return [block for block in blocks if block[0].startswith("|")]


def test_markdown_tables_are_rectangular(record):
    found = tables_of(markdown([Section("a|b", record), Section("*c*\nd", record)]))
    assert len(found) == 5
    for block in found:
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in block}
        assert len(bars) == 1
        assert set(block[1]) <= set("|:- ")


def test_headline_markdown(record):
    lines = headline_markdown([Section("mine", record)]).splitlines()
    assert lines[0].startswith("| system | clean | the paper's attack (PGD-40, L-inf 25/255; spares the selector) ")
    assert lines[2] == (
        "| mine | 93.1 [91.4, 94.5] | 83.4 [81.0, 85.6] | **1.1** [0.6, 2.0] | **20.6** [18.2, 23.2] |"
    )


def test_markdown_escapes_what_would_be_markup(record):
    text = markdown([Section("<script>alert(1)</script> *x* [y](z)", record, summary="one & `two`\n\nthree")])
    assert "<script" not in text
    assert r"&lt;script&gt;alert(1)&lt;/script&gt; \*x\* \[y\](z)" in text
    assert "one &amp; \\`two\\`\n\nthree" in text


def test_markdown_of_a_bare_record(bare):
    text = markdown([Section("bare", bare)])
    assert "| bare | 93.1 [91.4, 94.5] |" in text
    assert "No attack was run." in text


def test_terminal_shows_every_number(record):
    text = printed([Section("mine", record)])
    for result in (*record.attacks[:5], record.clean, *record.worst_case[2:]):
        assert f"{result.accuracy:.1%}".rstrip("%") in text
    assert "✗ fail" in text


def test_terminal_reads_no_markup_and_no_control_characters(record):
    text = printed([Section("[red]x[/red] \x1b[31m", record)])
    assert "[red]x[/red]" in text
    assert "\x1b" not in text


def test_terminal_of_a_bare_record(bare):
    assert "93.1" in printed([Section("bare", bare)], width=60)


def test_the_headline_comes_last_where_a_terminal_shows_it(record):
    tables = terminal_tables([Section("mine", record)])
    assert str(tables[-1].title) == "Headline"
    assert str(tables[0].title) != "Headline"


def test_many_columns_of_few_systems_are_turned_round(record, factory):
    """Nine columns have no room in a terminal: each of them becomes a row, and no number is lost."""
    balls = [
        WorstCase(norm="linf", epsilon=e, accuracy=a, ci95=(a, a))
        for e, a in ((0.1, 0.61), (0.2, 0.42), (0.3, 0.23))
    ]
    sections = [Section("one", record), Section("two", factory(attacks=(), worst_case=tuple(balls)))]
    drawn = terminal_tables(sections)[-1]
    assert [str(column.header) for column in drawn.columns] == ["right, in %", "one", "two"]
    text = printed(sections, width=80)
    for number in ("93.1", "83.4", "1.1", "20.6", "61.0", "42.0", "23.0", "worst case (L-inf 0.2)"):
        assert number in text
    assert [len(terminal_tables([one])[-1].columns) for one in sections] == [5, 5]


def test_a_turned_table_has_every_cell(record):
    table = headline_table([Section("a", record), Section("b", record)])
    turned = table.turned("x")
    assert [column.title for column in turned.columns] == ["x", "a", "b"]
    assert [row[0].text for row in turned.rows] == [str(column) for column in table.columns[1:]]
    assert [[row[place] for row in turned.rows] for place in (1, 2)] == [list(row[1:]) for row in table.rows]
    assert turned.notes == table.notes


def test_what_passed_is_counted_in_the_terminal_and_not_listed(record):
    text = printed([Section("mine", record)])
    assert "gradients" not in text
    assert "1 of 3 checks failed, 1 passed and 1 was not run." in " ".join(text.split())
