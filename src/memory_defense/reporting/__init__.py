"""Records to what people read: terminal tables, Markdown, and one HTML page that needs nothing else."""

from memory_defense.reporting.figures import accuracy_figure
from memory_defense.reporting.gallery import Gallery
from memory_defense.reporting.html import write_report
from memory_defense.reporting.rows import Section
from memory_defense.reporting.summary import why_protocols_differ
from memory_defense.reporting.tables import headline_table, matrix_table
from memory_defense.reporting.text import headline_markdown, markdown, terminal_tables

__all__ = [
    "Gallery",
    "Section",
    "accuracy_figure",
    "headline_markdown",
    "headline_table",
    "markdown",
    "matrix_table",
    "terminal_tables",
    "why_protocols_differ",
    "write_report",
]
