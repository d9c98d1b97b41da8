"""A table of plain text as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from memory_defense.reporting.wording import plain


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numeric_from: int = 1) -> list[str]:
    """Return the lines of a Markdown table; columns from `numeric_from` on stand at the right."""
    marks = ["---" if number < numeric_from else "---:" for number in range(len(head))]
    return [_line(head), _line(marks), *(_line(row) for row in rows)]


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numeric_from: int = 1) -> str:
    """Return an HTML table; the first cell of a row names it."""
    start = "".join(f'<th scope="col">{escape(plain(cell))}</th>' for cell in head)
    body = "".join(f"<tr>{_html_row(row, numeric_from)}</tr>\n" for row in rows)
    return f"<table>\n<thead><tr>{start}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def _html_row(row: Sequence[str], numeric_from: int) -> str:
    name, *cells = (escape(plain(cell)) for cell in row)
    kinds = [' class="number"' if number >= numeric_from else "" for number in range(1, len(row))]
    return f'<th scope="row">{name}</th>' + "".join(
        f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, cells, strict=True)
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(plain(cell).replace("|", r"\|") for cell in cells) + " |"
