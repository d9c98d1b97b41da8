"""Records to rows of plain data: which results a table shows, and in which order. No number is made here.

Curve points (attacks whose parameters say ``purpose: curve``) are no rows of the tables; `figures` draws them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from memory_defense.evaluation.balls import BallKey, ball_key, is_curve, table_attacks, table_worst_cases
from memory_defense.evaluation.record import (
    Accuracy,
    AttackResult,
    AuditLine,
    CertifiedResult,
    Record,
    WorstCase,
)
from memory_defense.reporting.failures import verdict
from memory_defense.reporting.sources import Piece, Sources
from memory_defense.reporting.wording import (
    PAPER_EPSILON,
    PAPER_PROTOCOL,
    PAPER_STEPS,
    attack_label,
    ball_text,
    knowledge_order,
    norm_order,
    percent,
)


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
        Path of the record, for a link; None leaves the link out.
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


@dataclass(frozen=True)
class HeadlineRow:
    """One system: clean accuracy, the paper's protocol, and the worst case in each ball of the table."""

    title: str
    clean: Accuracy
    paper: AttackResult | None
    worst: tuple[WorstCase | None, ...]


def is_point(result: AttackResult) -> bool:
    """Return whether this result can be drawn: not that of an attack that could not run, unless none was right."""
    return is_curve(result) and result.epsilon > 0 and not (result.tried == 0 and result.accuracy > 0)


def paper_result(record: Record) -> AttackResult | None:
    """Return the result nearest to the paper's protocol (PGD-40 in the L-inf ball of 25/255, fixed slots)."""

    def strangeness(result: AttackResult) -> tuple[bool, bool, float, bool, float]:
        return (
            result.attack != "pgd",
            result.norm != "linf",
            round(abs(result.epsilon - PAPER_EPSILON), 7),
            result.parameters.get("steps") != PAPER_STEPS,
            result.accuracy,
        )

    return min(
        (result for result in table_attacks(record) if result.knowledge == PAPER_PROTOCOL),
        key=strangeness,
        default=None,
    )


def sorted_balls(entries: Iterable[AttackResult | WorstCase | CertifiedResult]) -> list[BallKey]:
    """Return the distinct balls: L-inf before L2, small before large."""
    return sorted({ball_key(entry) for entry in entries}, key=lambda ball: (norm_order(ball[0]), ball[1]))


def headline(sections: Sequence[Section]) -> tuple[tuple[BallKey, ...], tuple[HeadlineRow, ...]]:
    """Return the balls of the headline's worst cases and one row for each system."""
    balls = sorted_balls(worst for section in sections for worst in table_worst_cases(section.record))
    rows: list[HeadlineRow] = []
    for section in sections:
        worst = {ball_key(entry): entry for entry in table_worst_cases(section.record)}
        rows.append(
            HeadlineRow(
                section.title,
                section.record.clean,
                paper_result(section.record),
                tuple(worst.get(ball) for ball in balls),
            )
        )
    return tuple(balls), tuple(rows)


def proven(
    sections: Sequence[Section],
) -> tuple[tuple[BallKey, ...], tuple[tuple[CertifiedResult | None, ...], ...]]:
    """Return the balls in which something is proven, and for each system the best proof in each of them."""
    balls = sorted_balls(one for section in sections for one in section.record.certified if one.epsilon > 0)
    rows: list[tuple[CertifiedResult | None, ...]] = []
    for section in sections:
        best: dict[BallKey, CertifiedResult] = {}
        for one in sorted(section.record.certified, key=lambda one: one.accuracy):
            best[ball_key(one)] = one
        rows.append(tuple(best.get(ball) for ball in balls))
    return tuple(balls), tuple(rows)


def protocol_text(result: AttackResult) -> str:
    """Return the attack and ball of a result, such as ``PGD-40, L-inf 25/255``."""
    return f"{attack_label(result)}, {ball_text(result.norm, result.epsilon)}"


def answer(section: Section) -> str:
    """Return the one-sentence answer: how often the system is right, clean and in the worst case."""
    return "".join(piece.text for piece in answer_pieces(section))


def answer_pieces(section: Section) -> tuple[Piece, ...]:
    """Return `answer` in pieces, each number with its place in the record."""
    record, sources = section.record, Sources(section.record)
    pieces = [
        Piece("Right on "),
        Piece(percent(record.clean.accuracy), sources.of(record.clean, "accuracy")),
        Piece("\N{NO-BREAK SPACE}% of "),
        Piece(f"{record.images:,}", "/images"),
        Piece(" clean images"),
    ]
    proven = [one for one in record.certified if one.epsilon > 0]
    for place, one in enumerate(proven):
        pieces.append(
            Piece((" and " if place == len(proven) - 1 else ", ") if place else "; proven to stay right, ")
        )
        pieces.append(Piece(percent(one.accuracy), sources.of(one, "accuracy")))
        pieces.append(Piece(f"\N{NO-BREAK SPACE}% within {ball_text(one.norm, one.epsilon)}"))
    every = ordered_worst_cases(record)
    worst = [(entry, found) for entry in every if (found := entry.measured) is not None]
    if not worst and proven and not every:
        return (*pieces, Piece(", whatever the attack."))
    if not worst:
        what = "no attack could run on any of them" if every else "it was not attacked"
        return (*pieces, Piece(f"; {what}, so nothing is known about the worst case."))
    pieces.append(Piece("; in the worst case over every attack and adversary, "))
    for place, (entry, found) in enumerate(worst):
        if place:
            pieces.append(Piece(" and " if place == len(worst) - 1 else ", "))
        pieces.append(Piece(percent(found.accuracy), sources.of(entry, "accuracy")))
        pieces.append(Piece(f"\N{NO-BREAK SPACE}% at {ball_text(entry.norm, entry.epsilon)}"))
    return (*pieces, Piece("."))


def ordered_worst_cases(record: Record) -> tuple[WorstCase, ...]:
    """Return the worst cases that belong into tables, L-inf before L2, small balls before large."""
    return tuple(sorted(table_worst_cases(record), key=lambda entry: (norm_order(entry.norm), ball_key(entry)[1])))


def caution(record: Record) -> str:
    """Return what the worst case does not cover, or nothing: a failed check, a selector that was never attacked."""
    if said := verdict(record):
        return said
    known = {result.knowledge for result in table_attacks(record)}
    if known != {PAPER_PROTOCOL} or record.cascades:
        return ""
    return "Only the paper's own attack was run: the selector was never attacked, so this is not a worst case."


def curve_points(record: Record, norm: str) -> dict[str, list[AttackResult]]:
    """Return the curve's results in one norm by knowledge, weakest ball first, one for each radius."""
    lines: dict[str, dict[BallKey, AttackResult]] = {}
    for result in record.attacks:
        if is_point(result) and result.norm == norm:
            line = lines.setdefault(result.knowledge, {})
            known = line.setdefault(ball_key(result), result)
            if result.accuracy < known.accuracy:
                line[ball_key(result)] = result
    return {
        name: sorted(lines[name].values(), key=lambda result: result.epsilon)
        for name in sorted(lines, key=knowledge_order)
    }


def curve_norms(record: Record) -> tuple[str, ...]:
    """Return the norms that a figure of accuracy against epsilon can be drawn in."""
    return tuple(sorted({one.norm for one in record.attacks if is_point(one)}, key=norm_order))


def figure_norms(record: Record) -> tuple[str, ...]:
    """Return the norms that a figure can be drawn in: attacks at several radii, or certificates at several."""
    radii = {(one.norm, one.epsilon) for one in record.certified if one.epsilon > 0}
    proven = {norm for norm, _ in radii if sum(norm == other for other, _ in radii) > 1}
    return tuple(sorted({*curve_norms(record), *proven}, key=norm_order))


def audit_lines(record: Record) -> tuple[AuditLine, ...]:
    """Return the audit's lines: failed checks first, then passed ones, then those not run."""
    return tuple(sorted(record.audit, key=lambda line: ("fail", "pass", "not run").index(line.verdict)))
