"""What is proven, as tables: one for each way to certify, a row for each radius."""

from __future__ import annotations

from collections.abc import Sequence

from memory_defense.evaluation.record import Accuracy, CertifiedResult, Record
from memory_defense.reporting.cells import Cell, Column, Table
from memory_defense.reporting.sources import Sources
from memory_defense.reporting.wording import MISSING, ball_text, interval, percent, plain


def certified_tables(record: Record) -> tuple[Table, ...]:
    """Return one table for each way to certify; none where nothing was certified."""
    ways = dict.fromkeys((one.method, one.norm, one.sigma, one.n, one.alpha) for one in record.certified)
    sources = Sources(record)
    return tuple(
        _table(
            [one for one in record.certified if (one.method, one.norm, one.sigma, one.n, one.alpha) == way], sources
        )
        for way in ways
    )


def _table(results: Sequence[CertifiedResult], sources: Sources) -> Table:
    columns = (
        Column("radius", numeric=False),
        Column("certified", "right, and proven to stay so"),
        Column("right or flagged", "proven, with the gate"),
        Column("accepted", "clean images"),
        Column("wrong and accepted", "clean images"),
        Column("proofs broken", "by attacks"),
    )
    first = results[0]
    rows = tuple(_row(one, sources) for one in results)
    notes = [
        f"{_how(first)}, {first.images:,} images, {first.seconds / first.images:.3g} s an image. In %, with its "
        "95 % interval.",
        "Certified: the answer is right, and it is proven that no image within the radius gets another answer. The "
        "gate flags every image that is not certified within half of the radius. Therefore, if an image is right "
        "and accepted, no image within the radius is wrong and accepted.",
    ]
    if first.alpha is not None:
        notes.append(f"The certificate of an image is wrong with probability {first.alpha:g} at most.")
    if any(one.broken is None for one in results):
        notes.append(f"{MISSING}: not attacked, or the clean answer alone.")
    return Table(f"Proven, {plain(first.method)}", columns, rows, tuple(notes))


def _row(one: CertifiedResult, sources: Sources) -> tuple[Cell, ...]:
    gate = one.gate
    parts = (gate.right_or_flagged, gate.clean_accepted, gate.clean_wrong_accepted) if gate else (None, None, None)
    where = ball_text(one.norm, one.epsilon) if one.epsilon else "0"
    broken = Cell(MISSING)
    if one.broken is not None:
        broken = Cell(str(one.broken), strong=one.broken > 0, source=sources.of(one, "broken"))
    return (Cell(where), _share(one, sources, strong=True), *(_share(part, sources) for part in parts), broken)


def _share(share: Accuracy | None, sources: Sources, *, strong: bool = False) -> Cell:
    if share is None:
        return Cell(MISSING)
    return Cell(percent(share.accuracy), interval(share), strong, sources.of(share, "accuracy"))


def _how(one: CertifiedResult) -> str:
    if one.sigma is None or one.n is None:
        return f"By {plain(one.method)}, in one pass"
    answered = " answered in bfloat16" if one.bfloat16 else ""
    counted = f", counted {one.looks} times on the way" if one.looks > 1 else ""
    most = "at most " if one.looks > 1 else ""
    mean = "" if one.mean_copies is None else f", {one.mean_copies:,.0f} an image on average"
    return f"By randomized smoothing, sigma {one.sigma:g}, {most}{one.n:,} noisy copies{answered}{counted}{mean}"
