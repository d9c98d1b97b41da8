"""The words of a first page, explained where they are first met, and the first table of all in whole phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory_defense.evaluation.record import Accuracy, AttackResult, Record, WorstCase
from memory_defense.reporting.cells import Cell, Column, Table
from memory_defense.reporting.rows import Section, headline, ordered_worst_cases, protocol_text, proven
from memory_defense.reporting.wording import (
    MISSING,
    NOT_TRIED,
    ball_text,
    epsilon_text,
    interval,
    joined,
    norm_label,
    percent,
    plain,
)


@dataclass(frozen=True)
class Word:
    """A word, the name by which a page links to it, and its meaning in a sentence or two."""

    key: str
    term: str
    meaning: str


def change_text(norm: str, epsilon: float) -> str:
    """Return how far an attack may change an image, such as ``every pixel by at most 9 of 255 grey levels``."""
    written = epsilon_text(epsilon)
    if norm == "linf":
        levels, grey, _ = written.partition("/255")
        size = f"{levels} of 255 grey levels" if grey else f"{written} (black is 0, white is 1)"
        return f"every pixel by at most {size}"
    if norm == "l2":
        return f"all pixels together by at most {written} (the square root of the summed squares)"
    return f"by at most {written} in the norm {norm_label(norm)}"


def words(sections: Sequence[Section]) -> tuple[Word, ...]:
    """Return what the first page of these sections needs explained, in the order in which it is met there."""
    records = [section.record for section in sections]
    _, rows = headline(sections)
    found = [
        Word(
            "clean",
            "clean",
            "The share of the test images, unchanged, that the system names correctly. The brackets hold the 95 % "
            "interval: how far off the number may be because only so many images were tested.",
        )
    ]
    if any(row.paper is not None for row in rows):
        found.append(
            Word(
                "paper",
                "the paper's attack",
                "The attack that the paper measured with. It spares the selector, the part that chooses a slot of "
                "the memory (the items of one class), and so says little about robustness.",
            )
        )
    if any(ordered_worst_cases(record) for record in records):
        found.append(
            Word(
                "worst-case",
                "worst case",
                "The share that stays right under every attack that was tried, image by image: one attack that "
                "succeeds is enough. A better attack could still lower it.",
            )
        )
    if any(one.epsilon > 0 for record in records for one in record.certified):
        found.append(
            Word(
                "proven",
                "proven",
                "The share for which a proof says that no such change of the image changes the right answer, by "
                "whatever attack.",
            )
        )
    if _flags(records):
        found.append(
            Word(
                "flagged",
                "right or flagged",
                "A flagged image is called suspicious and gets no answer. Counted here is what is named correctly "
                "or flagged; only the number without it is robustness.",
            )
        )
    if balls := list(dict.fromkeys((*headline(sections)[0], *proven(sections)[0]))):
        sizes = "; ".join(f"{ball_text(*ball)}: {change_text(*ball)}" for ball in balls)
        names = joined([norm_label(norm) for norm in dict.fromkeys(norm for norm, _ in balls)])
        found.append(Word("ball", names, f"How far an image may be changed. {sizes}."))
    if any(record.attacks or record.cascades for record in records):
        found.append(
            Word(
                "knowledge",
                "knowledge",
                "Which part of the system an attack can look into and work on. The worst case counts every one.",
            )
        )
    return tuple(found)


def _flags(records: Sequence[Record]) -> bool:
    gated = any(one.gate is not None for record in records for one in record.certified)
    return gated or any(one.undetected is not None for record in records for one in record.worst_case)


def first_table(sections: Sequence[Section]) -> Table:
    """Return the headline with a system in each column, in whole phrases, for readers who are new to it."""
    (balls, rows), (proofs, proven_rows) = headline(sections), proven(sections)
    counts = {section.record.images for section in sections}
    whose = f" of {counts.pop():,} test images" if len(counts) == 1 else ""
    columns = [Column(f"right, in %{whose}", numeric=False), *(Column(plain(one.title)) for one in sections)]
    body = [(Cell("clean: the images as they are"), *(_cell(section.record.clean) for section in sections))]
    if any(row.paper is not None for row in rows):
        body.append(
            (Cell("the paper's attack: it spares the part that decides"), *(_paper(row.paper) for row in rows))
        )
    for place, ball in enumerate(balls):
        said = f"worst case, {ball_text(*ball)}: under every attack tried that changes {change_text(*ball)}"
        body.append((Cell(said), *(_cell(row.worst[place], strong=True) for row in rows)))
    for place, ball in enumerate(proofs):
        said = f"proven, {ball_text(*ball)}: under any attack at all that changes {change_text(*ball)}"
        body.append((Cell(said), *(_cell(row[place], strong=True) for row in proven_rows)))
    notes = (
        "In brackets, how far each number may be off because only so many images were tested (95 % interval).",
    )
    blank = any(cell.text == MISSING for row in body for cell in row)
    return Table(
        "Headline", tuple(columns), tuple(body), (*notes, *([f"{MISSING}: not measured."] if blank else []))
    )


def _cell(entry: Accuracy | WorstCase | None, *, strong: bool = False) -> Cell:
    if entry is None:
        return Cell(MISSING)
    found = entry.measured if isinstance(entry, WorstCase) else entry
    return Cell(NOT_TRIED) if found is None else Cell(percent(found.accuracy), interval(found), strong)


def _paper(result: AttackResult | None) -> Cell:
    if result is None:
        return Cell(MISSING)
    found = _cell(result)
    return Cell(found.text, f"{found.detail} ({protocol_text(result)})")
