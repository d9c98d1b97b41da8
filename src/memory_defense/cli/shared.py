"""Tables of records on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from memory_defense.reporting import Section, terminal_tables


def wide_console() -> Console:
    """Return a console that does not squeeze tables into 80 columns if the output is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 116))


def print_tables(sections: Sequence[Section]) -> None:
    """Print the tables of these records."""
    console = wide_console()
    for table in terminal_tables(sections):
        console.print(table)
