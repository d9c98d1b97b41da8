"""Tables as LaTeX (booktabs), ready to paste into a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence

from memory_defense.reporting.cells import Cell, Column, Table
from memory_defense.reporting.rows import Section
from memory_defense.reporting.tables import audit_table, headline_table, result_tables
from memory_defense.reporting.wording import plain

PREAMBLE = "% In the preamble: \\usepackage[utf8]{inputenc} \\usepackage[T1]{fontenc} \\usepackage{booktabs}\n"

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after the end of a row it would be read as a length
    "]": "{]}",
    "*": "{*}",
    "–": "--",
    "—": "---",
    "×": r"$\times$",
    "✓": "",
    "✗": "",
    "\N{NO-BREAK SPACE}": "~",
}
_LABEL = re.compile(r"[^a-z0-9]+")


def latex(sections: Sequence[Section]) -> str:
    """Return every table of a report as LaTeX, the headline first; the preamble's line is a comment at the top."""
    blocks = [PREAMBLE, latex_table(headline_table(sections), caption="Headline.")]
    for section in sections:
        tables = (*result_tables(section.record), audit_table(section.record, explained=False))
        blocks += [latex_table(table, caption=f"{section.title}: {table.title}.") for table in tables if table.rows]
    return "\n".join(blocks)


def latex_table(table: Table, *, caption: str = "") -> str:
    """Return one table: caption and notes above and below a booktabs tabular.

    Names are set left, numbers right; the interval stands small beside its number and the number to remember
    bold. Characters that LaTeX reads as commands are escaped.
    """
    title = caption or f"{table.title}."
    label = _LABEL.sub("-", title.lower()).strip("-")
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(title)}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in table.columns)}}}",
        r"\toprule",
        _row([escaped(column.title) for column in table.columns]),
    ]
    if any(column.note for column in table.columns):
        lines.append(_row([_small(column.note) for column in table.columns]))
    lines += [
        r"\midrule",
        *(
            _row([_cell(cell, column) for cell, column in zip(cells, table.columns, strict=True)])
            for cells in table.rows
        ),
        r"\bottomrule",
        r"\end{tabular}",
        *((rf"\par\smallskip{{\footnotesize {escaped(' '.join(table.notes))}}}",) if table.notes else ()),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return text that LaTeX sets as it is, on one line."""
    return "".join(_SPECIAL.get(letter, letter) for letter in plain(text)).strip()


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _small(text: str) -> str:
    return rf"{{\footnotesize {escaped(text)}}}" if text else ""


def _cell(cell: Cell, column: Column) -> str:
    text = escaped(cell.text)
    if cell.strong and text:
        text = rf"\textbf{{{text}}}"
    if not cell.detail:
        return text
    detail = _small(cell.detail) if column.numeric else escaped(cell.detail)
    return f"{text} {detail}".strip()
