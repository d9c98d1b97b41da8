"""One HTML page that needs nothing else: no script, no font, no network; figures and images lie inside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from memory_defense.evaluation.record import Accuracy, AuditLine
from memory_defense.files import write_text
from memory_defense.reporting.cascades import cascade_tables
from memory_defense.reporting.figures import NARROW, WIDE, accuracy_figure
from memory_defense.reporting.gallery import Gallery
from memory_defense.reporting.rows import (
    HeadlineRow,
    answer,
    audit_lines,
    caution,
    curve_norms,
    curve_points,
    headline,
    protocol_text,
)
from memory_defense.reporting.section import Section, paragraphs
from memory_defense.reporting.tables import (
    Table,
    curve_table,
    headline_table,
    matrix_table,
    results_table,
)
from memory_defense.reporting.thumbnails import ExampleView, examples
from memory_defense.reporting.wording import (
    ADAPTIVE,
    KNOWLEDGE,
    SYMBOLS,
    attack_label,
    ball_text,
    interval,
    joined,
    knowledge_label,
    norm_label,
    number,
    percent,
)


@dataclass(frozen=True)
class _Bar:
    label: str
    value: str
    interval: str
    share: float
    low: float
    beyond: float
    kind: str


@dataclass(frozen=True)
class _FigureView:
    title: str
    caption: str
    wide: Markup
    narrow: Markup


@dataclass(frozen=True)
class _GalleryView:
    attack: str
    examples: tuple[ExampleView, ...]
    left_out: int


@dataclass(frozen=True)
class _SectionView:
    anchor: str
    section: Section
    answer: str
    caution: str
    bars: tuple[_Bar, ...]
    figures: tuple[_FigureView, ...]
    gallery: _GalleryView | None
    audit: tuple[AuditLine, ...]
    verdicts: str
    tables: tuple[Table, ...]
    record_link: str


def write_report(
    path: Path,
    sections: Sequence[Section],
    *,
    title: str,
    introduction: str = "",
    gallery_limit: int = 12,
) -> None:
    """Write the report as one file, atomically; the same input gives the same bytes.

    Parameters
    ----------
    path
        Where the page goes; links to records are relative to it.
    sections
        The evaluated systems, in the order of reading.
    title
        The page's title.
    introduction
        What the headline means, below it; an empty line starts a new paragraph.
    gallery_limit
        How many images of each gallery are shown; the page says how many are left out.

    Raises
    ------
    ValueError
        Without sections, for a negative limit, or for a file that is not a gallery.
    """
    if not sections:
        raise ValueError("there are no sections; a report needs at least one evaluated system")
    if gallery_limit < 0:
        raise ValueError(f"gallery_limit is {gallery_limit}, expected at least 0")
    _, rows = headline(sections)
    views = [
        _view(f"system-{place}", section, row, path, gallery_limit)
        for place, (section, row) in enumerate(zip(sections, rows, strict=True), start=1)
    ]
    page = _environment().get_template("report.html.j2")
    knowledge = {result.knowledge for section in sections for result in section.record.attacks}
    stages = [stage for section in sections for cascade in section.record.cascades for stage in cascade.stages]
    knowledge |= {stage.knowledge for stage in stages}
    write_text(
        path,
        page.render(
            title=title,
            introduction=paragraphs(introduction),
            headline=headline_table(sections),
            views=views,
            knowledge=[entry for name, entry in (KNOWLEDGE | ADAPTIVE).items() if name in knowledge],
        ),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("memory_defense.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["symbol"] = SYMBOLS.__getitem__
    return environment


def _view(anchor: str, section: Section, row: HeadlineRow, page: Path, limit: int) -> _SectionView:
    record = section.record
    audit = audit_lines(record)
    norms = curve_norms(record)
    counts = ((sum(line.verdict == verdict for line in audit), word) for verdict, word in _VERDICTS)
    return _SectionView(
        anchor=anchor,
        section=section,
        answer=answer(section),
        caution=caution(record),
        bars=_bars(row),
        figures=tuple(_figure(section, norm, f"{anchor}-{place}") for place, norm in enumerate(norms)),
        gallery=None if section.gallery_path is None else _gallery(section.gallery_path, limit),
        audit=audit,
        verdicts=", ".join(f"{count} {word}" for count, word in counts if count),
        tables=(
            matrix_table(record),
            *cascade_tables(record),
            results_table(record),
            *(curve_table(record, norm) for norm in norms),
        ),
        record_link="" if section.record_path is None else _relative(section.record_path, page.parent),
    )


_VERDICTS = (("fail", "failed"), ("pass", "passed"), ("not run", "not run"))


def _bars(row: HeadlineRow) -> tuple[_Bar, ...]:
    def bar(label: str, accuracy: Accuracy, kind: str) -> _Bar:
        low, high = accuracy.ci95
        return _Bar(
            label=label,
            value=percent(accuracy.accuracy),
            interval=interval(accuracy),
            share=round(100 * accuracy.accuracy, 2),
            low=round(100 * low, 2),
            beyond=round(100 - 100 * high, 2),
            kind=kind,
        )

    bars = [bar("clean", row.clean, "clean")]
    if row.paper is not None:
        bars.append(bar(f"paper's protocol: fixed slots ({protocol_text(row.paper)})", row.paper, "paper"))
    for worst in row.worst:
        if worst is not None:
            bars.append(bar(f"worst case, {ball_text(worst.norm, worst.epsilon)}", worst, "worst"))
    return tuple(bars)


def _figure(section: Section, norm: str, prefix: str) -> _FigureView:
    record = section.record
    attacks = {attack_label(r) for line in curve_points(record, norm).values() for r in line}
    caption = (
        f"{joined(sorted(attacks))} at every epsilon, one line for each adversary; epsilon 0 is clean "
        "accuracy. Bands are 95 % intervals. In bold, the worst case over all attacks of the record, image by "
        "image."
    )
    drawn = (
        Markup(accuracy_figure(record, norm, prefix=f"{prefix}{suffix}", layout=layout))
        for suffix, layout in (("w", WIDE), ("n", NARROW))
    )
    return _FigureView(f"Accuracy against epsilon, {norm_label(norm)}", caption, *drawn)


def _gallery(path: Path, limit: int) -> _GalleryView:
    gallery = Gallery.read(path)
    shown = examples(gallery, limit)
    attack = (
        f"Attack {gallery.attack}, knowledge {knowledge_label(gallery.knowledge)}, "
        f"{ball_text(gallery.norm, gallery.epsilon)}."
    )
    return _GalleryView(attack, shown, len(gallery) - len(shown))


def _relative(target: Path, start: Path) -> str:
    """Return a link to a file that holds when both move together; quoted, so it is never another scheme."""
    try:
        found = Path(os.path.relpath(target, start))
    except ValueError:  # another drive
        found = Path(target.name)
    return quote(found.as_posix(), safe="/.")
