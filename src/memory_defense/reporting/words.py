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
    """Return how far an attack may change an image, such as ``each pixel by at most 9 of 255 grey levels``."""
    written = epsilon_text(epsilon)
    if norm == "linf":
        levels, grey, _ = written.partition("/255")
        size = f"{levels} of 255 grey levels" if grey else f"{written} (black is 0, white is 1)"
        return f"each pixel by at most {size}"
    if norm == "l2":
        return f"all pixels together by at most {written} (the square root of the sum of the squared changes)"
    return f"by at most {written} in the norm {norm_label(norm)}"


def words(sections: Sequence[Section]) -> tuple[Word, ...]:
    """Return what the first page of these sections needs explained, in the order in which it is met there."""
    records = [section.record for section in sections]
    _, rows = headline(sections)
    found = [
        Word(
            "clean",
            "clean",
            "The share of the unchanged test images that the system classifies correctly. The brackets hold the "
            "95 % interval: the range in which the true number probably lies, given how few images were tested.",
        )
    ]
    if any(row.paper is not None for row in rows):
        found.append(
            Word(
                "paper",
                "the paper's attack",
                "The attack that the paper used. It never attacks the selector, the part that chooses a slot of "
                "the memory (the items of one class), so this number says little about robustness.",
            )
        )
    if any(ordered_worst_cases(record) for record in records):
        found.append(
            Word(
                "worst-case",
                "worst case",
                "The share of the images that stay right under every attack that was tried. An image counts as "
                "wrong as soon as one attack succeeds on it. A better attack could still lower this number.",
            )
        )
    if any(one.epsilon > 0 for record in records for one in record.certified):
        found.append(
            Word(
                "proven",
                "proven",
                "The share of the images for which a proof shows that no change of this size can alter the right "
                "answer, whatever the attack.",
            )
        )
    if _flags(records):
        found.append(
            Word(
                "flagged",
                "right or flagged",
                "A flagged image is reported as suspicious and gets no answer. This number counts the images that "
                "are classified correctly or flagged. Robustness is the number without the flag.",
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
                "The part of the system whose gradient an attack follows. The worst case counts the attacks of "
                "every knowledge.",
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
    columns = [
        Column(f"right answers, in %{whose}", numeric=False),
        *(Column(plain(one.title)) for one in sections),
    ]
    body = [(Cell("clean: the images are unchanged"), *(_cell(section.record.clean) for section in sections))]
    if any(row.paper is not None for row in rows):
        body.append(
            (Cell("the paper's attack: it never attacks the selector"), *(_paper(row.paper) for row in rows))
        )
    for place, ball in enumerate(balls):
        said = (
            f"worst case, {ball_text(*ball)}: right under all attacks tried, which may change {change_text(*ball)}"
        )
        body.append((Cell(said), *(_cell(row.worst[place], strong=True) for row in rows)))
    for place, ball in enumerate(proofs):
        said = f"proven, {ball_text(*ball)}: right under any attack that changes {change_text(*ball)}"
        body.append((Cell(said), *(_cell(row[place], strong=True) for row in proven_rows)))
    notes = ("The brackets hold the 95 % interval: the range in which the true number probably lies.",)
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
