"""What a table is made of: plain cells, which the renderers lay out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One cell: what it says, the interval beside it, whether it is the number to remember, and where it stands.

    `source` is a pointer into the table's record (see `sources`); in a table of several records, `system` counts
    them from 1. Without a source the cell holds no number of a record.
    """

    text: str
    detail: str = ""
    strong: bool = False
    source: str = ""
    system: int = 0

    def __str__(self) -> str:
        return f"{self.text} {self.detail}".rstrip()


@dataclass(frozen=True)
class Column:
    """A column's title, a caution under it, and whether its cells are numbers."""

    title: str
    note: str = ""
    numeric: bool = True

    def __str__(self) -> str:
        return f"{self.title} ({self.note})" if self.note else self.title


@dataclass(frozen=True)
class Table:
    """A title, columns, rows of as many cells, and notes; the first cell of a row names it."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def turned(self, corner: str) -> Table:
        """Return the table with rows and columns exchanged; `corner` is the title of its first column."""
        names = (Column(row[0].text) for row in self.rows)
        titles = enumerate(self.columns[1:], start=1)
        rows = ((Cell(str(title)), *(row[place] for row in self.rows)) for place, title in titles)
        return Table(self.title, (Column(corner, numeric=False), *names), tuple(rows), self.notes)
