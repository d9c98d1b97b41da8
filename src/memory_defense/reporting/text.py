"""Tables as text: for the terminal (rich) and for a README (Markdown)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from memory_defense.reporting.cells import Cell, Table
from memory_defense.reporting.certified import certified_tables
from memory_defense.reporting.rows import Section, answer, caution
from memory_defense.reporting.selection import selection_tables
from memory_defense.reporting.tables import (
    audit_table,
    cascade_tables,
    detection_tables,
    headline_table,
    matrix_table,
)
from memory_defense.reporting.wording import plain

_WIDE = 6
"""Columns of the headline above which a terminal has no room for them side by side."""

_MARKDOWN = re.compile(r"([\\`*_\[\]|])")


def terminal_tables(sections: Sequence[Section]) -> tuple[RichTable, ...]:
    """Return for each section its attacks by knowledge, its cascades and its audit; then the headline.

    The headline comes last, since a terminal shows the end. Titles and names are never read as console markup.
    """
    tables: list[RichTable] = []
    for section in sections:
        proven = certified_tables(section.record)
        tables += [terminal_table(table, f"{section.title}: {table.title}") for table in proven]
        if section.record.attacks:
            tables.append(terminal_table(matrix_table(section.record), section.title, intervals=False))
        more = (
            *cascade_tables(section.record),
            *selection_tables(section.record),
            *detection_tables(section.record),
        )
        tables += [terminal_table(table, f"{section.title}: {table.title}") for table in more]
        if section.record.audit:
            brief = audit_table(section.record, explained=False)
            tables.append(terminal_table(brief, f"{section.title}: audit (explained in the report)"))
    headline = headline_table(sections)
    narrow = len(headline.columns) > _WIDE and len(sections) < len(headline.columns)
    return (*tables, terminal_table(headline.turned("right, in %") if narrow else headline, "Headline"))


def terminal_table(table: Table, title: str, *, intervals: bool = True) -> RichTable:
    """Return one table for the terminal; `intervals` shows what stands beside numbers."""
    notes = [note if intervals else note.replace(", with its 95 % interval", "") for note in table.notes]
    drawn = RichTable(
        title=Text(plain(title), style="bold"),
        title_justify="left",
        caption=Text(" ".join(notes)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for column in table.columns:
        heading = Text(plain(column.title))
        if column.note:
            heading.append(f"\n{column.note}", style="italic")
        drawn.add_column(heading, justify="right" if column.numeric else "left", vertical="top")
    for row in table.rows:
        cells: list[Text] = []
        for column, cell in zip(table.columns, row, strict=True):
            text = Text(cell.text, style="bold" if cell.strong else "")
            if cell.detail and (intervals or not column.numeric):
                text.append(f"\n{cell.detail}" if column.numeric else f" {cell.detail}", style="dim not bold")
            cells.append(text)
        drawn.add_row(*cells)
    return drawn


def headline_markdown(sections: Sequence[Section]) -> str:
    """Return the headline table alone, in Markdown."""
    return table_markdown(headline_table(sections))


def markdown(sections: Sequence[Section]) -> str:
    """Return the whole result in Markdown: headline, then each section's answer, attacks and audit."""
    blocks = [headline_markdown(sections)]
    for section in sections:
        blocks += [f"## {escaped(section.title)}", escaped(answer(section))]
        if warning := caution(section.record):
            blocks.append(f"**{escaped(warning)}**")
        blocks += [escaped(paragraph) for paragraph in section.paragraphs()]
        proven = certified_tables(section.record)
        blocks += [f"{escaped(one.title)}\n\n{table_markdown(one)}" for one in proven]
        if section.record.attacks or not proven:
            blocks.append(table_markdown(matrix_table(section.record)))
        more = (
            *cascade_tables(section.record),
            *selection_tables(section.record),
            *detection_tables(section.record),
        )
        blocks += [f"{escaped(one.title)}\n\n{table_markdown(one)}" for one in more]
        if section.record.audit:
            blocks.append(table_markdown(audit_table(section.record)))
    return "\n\n".join(blocks) + "\n"


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    shown = _MARKDOWN.sub(r"\\\1", plain(" ".join(text.split())))
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def cell_markdown(cell: Cell) -> str:
    """Return one cell in Markdown, the number to remember in bold."""
    text = f"**{escaped(cell.text)}**" if cell.strong and cell.text else escaped(cell.text)
    return f"{text} {cell.detail}".strip()


def table_markdown(table: Table) -> str:
    """Return one table in Markdown, with its notes below."""
    notes = "\n".join(f"<sub>{escaped(note)}</sub>" for note in table.notes)
    if not table.rows:
        return notes
    heading = [escaped(str(column)) for column in table.columns]
    rows = [[cell_markdown(cell) for cell in row] for row in table.rows]
    drawn = "\n".join(markdown_lines(heading, rows, [column.numeric for column in table.columns]))
    return f"{drawn}\n\n{notes}".strip()


def markdown_lines(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> list[str]:
    """Return the lines of a table whose cells are Markdown; `numeric` columns are set to the right."""
    rule = ["---:" if right else "---" for right in numeric]
    return ["| " + " | ".join(line) + " |" for line in (head, rule, *rows)]


def plain_markdown(head: Sequence[str], rows: Sequence[Sequence[str]], *, numeric_from: int = 1) -> list[str]:
    """Return the lines of a table of plain text; columns from `numeric_from` on are set to the right."""
    first, *others = ([plain(cell).replace("|", r"\|") for cell in row] for row in (head, *rows))
    return markdown_lines(first, others, [number >= numeric_from for number in range(len(head))])
