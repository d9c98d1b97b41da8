"""What a report is made of: one section for each evaluated system."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from memory_defense.evaluation.record import Record


@dataclass(frozen=True)
class Section:
    """One evaluated system in a report.

    Parameters
    ----------
    title
        The system's name, as readers should see it.
    record
        Its evaluation; every number shown comes from here.
    summary
        What the numbers mean, in the caller's words; an empty line starts a new paragraph.
    gallery_path
        A gallery of images (see `gallery`), or None.
    record_path
        Where the record lies, for the link; None leaves the link out.
    """

    title: str
    record: Record
    summary: str = ""
    gallery_path: Path | None = None
    record_path: Path | None = None

    def paragraphs(self) -> tuple[str, ...]:
        """Return the summary's paragraphs."""
        return paragraphs(self.summary)


def paragraphs(text: str) -> tuple[str, ...]:
    """Return the non-empty paragraphs of a text, which empty lines separate."""
    blocks = (" ".join(block.split()) for block in text.replace("\r\n", "\n").split("\n\n"))
    return tuple(block for block in blocks if block)
