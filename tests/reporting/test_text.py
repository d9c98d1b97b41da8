from __future__ import annotations

import io
import re

from rich.console import Console

from memory_defense.reporting import headline_markdown, markdown, terminal_tables
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
