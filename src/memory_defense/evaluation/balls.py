"""The balls of a record's entries, and which of its entries belong into tables."""

from __future__ import annotations

from typing import TypeAlias

from memory_defense.evaluation.record import AttackResult, CascadeRecord, CertifiedResult, Record, WorstCase

BallKey: TypeAlias = tuple[str, float]
"""A norm and a radius rounded so that equal radii written differently meet."""


def is_curve(result: AttackResult) -> bool:
    """Return whether this result is a point of the accuracy-against-epsilon figure."""
    return result.parameters.get("purpose") == "curve"


def ball_key(entry: AttackResult | WorstCase | CascadeRecord | CertifiedResult) -> BallKey:
    """Return the entry's norm and rounded radius."""
    return entry.norm, round(entry.epsilon, 7)


def table_attacks(record: Record) -> tuple[AttackResult, ...]:
    """Return the attacks that belong into tables."""
    return tuple(result for result in record.attacks if not is_curve(result))


def table_worst_cases(record: Record) -> tuple[WorstCase, ...]:
    """Return the worst cases that belong into tables: all but those of balls only the curve visits."""
    kept = {ball_key(result) for result in (*table_attacks(record), *record.cascades)}
    curve = {ball_key(result) for result in record.attacks} - kept
    return tuple(worst for worst in record.worst_case if ball_key(worst) not in curve)
