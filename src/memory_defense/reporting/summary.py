"""The first page: what was evaluated, how often it is right, what the audit says, and what was not run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory_defense.evaluation.record import AttackResult, AuditLine, CascadeStage, Record
from memory_defense.reporting.rows import (
    BallKey,
    ball_key,
    curve_norms,
    paper_result,
    protocol_text,
    sorted_balls,
    table_attacks,
    table_worst_cases,
)
from memory_defense.reporting.sources import Piece, Sources
from memory_defense.reporting.wording import (
    PAPER_PROTOCOL,
    attack_label,
    ball_text,
    joined,
    knowledge_label,
    percent,
    plain,
)

NEED_TABLE = frozenset(
    {
        "iterative at least as strong as single-step",
        "attack stronger than random noise",
        "every knowledge finds more than the weakest attack does",
    }
)
"""Checks that compare attacks which all saw every image."""

NEED_CURVE = frozenset(
    {
        "accuracy falls with epsilon",
        "accuracy reaches chance at a large epsilon",
        "the curve against epsilon reaches 0 %",
    }
)
"""Checks that need one attack at several radii."""

NEED_TRANSFER = frozenset({"no transferred image finds what white-box attacks miss"})
"""Checks that need images made for another model."""


@dataclass(frozen=True)
class Effective:
    """The most effective attack in one ball."""

    ball: str
    name: str
    pieces: tuple[Piece, ...]
    """Its effect in words, numbers with their places in the record."""


def most_effective(record: Record) -> tuple[Effective, ...]:
    """Return, for each ball of the worst cases, the attack that leaves least or (in a cascade) broke most.

    Attacks of a table saw every image, so they are compared by what they leave; they count first. A cascade's
    attacks saw survivors only, so they are compared by the images that they broke before any other.
    """
    sources = Sources(record)
    found: list[Effective] = []
    for ball in sorted_balls(table_worst_cases(record)):
        one = _of_table(record, ball, sources) or _of_cascade(record, ball, sources)
        if one is not None:
            found.append(one)
    return tuple(found)


def _named(result: AttackResult | CascadeStage) -> str:
    return f"{attack_label(result)}, knowledge {knowledge_label(result.knowledge)}"


def _of_table(record: Record, ball: BallKey, sources: Sources) -> Effective | None:
    inside = [one for one in table_attacks(record) if ball_key(one) == ball and one.tried != 0]
    if not inside:
        return None
    best = min(inside, key=lambda one: one.accuracy)
    left = Piece(percent(best.accuracy), sources.of(best, "accuracy"))
    return Effective(ball_text(*ball), _named(best), (Piece("leaves "), left, Piece(" % right")))


def _of_cascade(record: Record, ball: BallKey, sources: Sources) -> Effective | None:
    stages = [stage for cascade in record.cascades if ball_key(cascade) == ball for stage in cascade.stages]
    if not stages:
        return None
    best = max(stages, key=lambda one: one.first)
    if not any(one.tried for one in stages):
        return Effective(ball_text(*ball), "none", (Piece("no attack of the cascade ran on any image"),))
    if best.first == 0:
        return Effective(ball_text(*ball), "none", (Piece("no attack of the cascade broke an image"),))
    pieces = (
        Piece("broke "),
        Piece(f"{best.first:,}", sources.of(best, "first")),
        Piece(" images before any other attack, of "),
        Piece(f"{best.tried:,}", sources.of(best, "tried")),
        Piece(" that it tried"),
    )
    return Effective(ball_text(*ball), _named(best), pieces)


def best_attack(record: Record) -> str:
    """Return the most effective attack of each ball in one line."""
    found = most_effective(record)
    if not found:
        return "none was run."
    said = (f"{one.ball}: {one.name}, {''.join(piece.text for piece in one.pieces)}" for one in found)
    return "; ".join(said) + "."


def gaps(record: Record) -> tuple[str, ...]:
    """Return what was not run, each as one sentence; what a reader might otherwise take for granted."""
    said: list[str] = []
    attacks, known = table_attacks(record), {one.knowledge for one in record.attacks}
    if not record.cascades and not attacks:
        said.append("Attacks: none was run.")
    elif not record.cascades:
        said.append("The images that survived these attacks were not attacked further (no cascade was run).")
    elif not attacks:
        said.append(
            "Each attack was tried only on images that the attacks before it had not broken, so the attacks cannot "
            "be compared with each other (no table was run)."
        )
    if attacks and known == {PAPER_PROTOCOL} and not record.cascades:
        said.append("The selector was never attacked.")
    if not curve_norms(record):
        said.append(
            "Accuracy was not measured against the size of the change (no curve of accuracy against epsilon)."
        )
    if stopped := _could_not_run(record):
        said.append(f"Could not run: {joined(stopped)}.")
    skipped = [f"“{plain(line.check)}”" for line in record.audit if line.verdict == "not run"]
    if skipped:
        said.append(f"Checks not run: {', '.join(skipped)}.")
    return tuple(said)


def _could_not_run(record: Record) -> list[str]:
    """Return the attacks that met no gradient, which break nothing and prove nothing."""
    stages: Sequence[AttackResult | CascadeStage] = (
        *record.attacks,
        *(stage for cascade in record.cascades for stage in cascade.stages),
    )
    return sorted({f"{attack_label(one)} (no gradient)" for one in stages if "no gradient to follow" in one.note})


def why_not_run(record: Record, line: AuditLine) -> str:
    """Return why a check was not run, where the record's own make-up is the reason; else nothing."""
    if line.verdict != "not run":
        return ""
    if line.check in NEED_CURVE and not curve_norms(record):
        return "This check needs one attack at several radii; the record holds no such curve."
    if line.check in NEED_TRANSFER:
        return "No image made for another model, or found by an earlier evaluation, was tried."
    if line.check in NEED_TABLE and record.cascades and not table_attacks(record):
        return (
            "This check compares attacks that were all tried on every image. Here each attack was tried only on "
            "images that the attacks before it had not broken (a cascade)."
        )
    return ""


def why_protocols_differ(record: Record) -> str:
    """Return the explanation; empty where there is nothing to explain.

    Parameters
    ----------
    record
        Evaluation of a system that answers through a memory slot. Without the paper's protocol, an attack on the
        selector and answers that follow the slot, there is nothing to explain.
    """
    paper = paper_result(record)
    if paper is None:
        return ""
    same_ball = [
        result.accuracy
        for result in table_attacks(record)
        if result.knowledge == "selector" and (result.norm, result.epsilon) == (paper.norm, paper.epsilon)
    ]
    following = [line.value for line in record.audit if line.check == "slot-following" and line.value is not None]
    if not same_ball or not following or following[0] < 0.5:
        return ""
    return (
        f"Why these numbers differ so much: the selector chooses one slot of the memory, the items of one class. "
        f"The paper's own attack ({protocol_text(paper)}) never attacks the selector, and leaves "
        f"{percent(paper.accuracy)} % right. But the slot decides the answer: with a slot drawn at random, the "
        f"answer is the class of that slot for {percent(following[0])} % of the images. An attack of the same "
        f"size on the selector alone leaves {percent(min(same_ball))} % right."
    )
