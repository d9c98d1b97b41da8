"""What the flag is worth, as tables: how well scores separate, and what rejecting suspicious images leaves."""

from __future__ import annotations

from memory_defense.evaluation.record import Accuracy, DetectionResult, Record, Separation
from memory_defense.reporting.sources import Sources
from memory_defense.reporting.tables import Cell, Column, Table
from memory_defense.reporting.wording import MISSING, ball_text, interval, knowledge_label, percent, plain

_NAMES = (
    Column("attack", numeric=False),
    Column("ball", numeric=False),
    Column("the flag is", numeric=False),
    Column("score", numeric=False),
)


def detection_tables(record: Record) -> tuple[Table, ...]:
    """Return two tables, one of scores and one of the flag; none where detection was not evaluated."""
    if not record.detection:
        return ()
    sources = Sources(record)
    return _separation_table(record, sources), _flag_table(record, sources)


def _separation_table(record: Record, sources: Sources) -> Table:
    kinds = ("all attacked", "fooled")
    titles = {"auroc": "AUROC", "tpr_at_1": "TPR at 1 %", "tpr_at_5": "TPR at 5 %"}
    columns = (*_NAMES, *(Column(title, kind) for title in titles.values() for kind in kinds))
    rows = tuple(
        (*_named(one), *(_measure(part, name, sources) for name in titles for part in (one.attacked, one.fooled)))
        for one in record.detection
    )
    notes = (
        f"Attacked against {record.images:,} clean test images. AUROC: ties count half, 0.5 tells nothing.",
        "TPR: share of attacked images, in %, above the threshold that 1 % or 5 % of these clean images exceed.",
        f"{MISSING}: not all attacked images were kept, or none fools the defense.",
    )
    return Table("Detection: how well the scores separate", columns, rows, notes)


def _flag_table(record: Record, sources: Sources) -> Table:
    columns = (
        *_NAMES,
        Column("false alarms"),
        Column("fooled images flagged"),
        Column("clean", "right and accepted"),
        Column("attacked", "right or rejected"),
    )
    rows = tuple(
        (
            *_named(one),
            _accuracy(one.clean_flagged, sources),
            Cell(MISSING) if one.fooled is None else _accuracy(one.fooled.flagged, sources),
            _accuracy(one.clean_right, sources),
            _accuracy(one.attacked_right, sources, strong=one.fights_flag),
        )
        for one in record.detection
    )
    first = record.detection[0]
    notes = (
        f"In %, with its 95 % interval. Thresholds for {percent(first.false_alarms)} % false alarms come from "
        f"{first.calibration_images:,} held-out clean images, never from test images.",
        "Attacked: images that are right when clean, and right or rejected under this attack; an image that is "
        "wrong when clean counts as wrong. An attack that fights the flag fights the score of its row.",
    )
    return Table("Detection: the flag at its threshold", columns, rows, notes)


def _named(one: DetectionResult) -> tuple[Cell, ...]:
    known = "" if one.knowledge == "any" else f", {knowledge_label(one.knowledge)}"
    return (
        Cell(f"{plain(one.attack)}{known}"),
        Cell(ball_text(one.norm, one.epsilon)),
        Cell("fought" if one.fights_flag else "ignored"),
        Cell(plain(one.score)),
    )


def _measure(part: Separation | None, name: str, sources: Sources) -> Cell:
    if part is None:
        return Cell(MISSING)
    value = float(getattr(part, name))
    return Cell(f"{value:.3f}" if name == "auroc" else percent(value), source=sources.of(part, name))


def _accuracy(entry: Accuracy, sources: Sources, *, strong: bool = False) -> Cell:
    return Cell(percent(entry.accuracy), interval(entry), strong, sources.of(entry, "accuracy"))
