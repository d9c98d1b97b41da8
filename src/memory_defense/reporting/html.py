"""One HTML page that needs nothing else: no font, no network; figures, images and the records are inside it.

Its one script copies tables and opens what a link points into; the page's policy names it by its hash, and
without it everything can still be read.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from memory_defense.evaluation.record import Accuracy, Record, WorstCase
from memory_defense.files import write_text
from memory_defense.reporting.failures import audit_sentence, failed_lines, failure
from memory_defense.reporting.figures import NARROW, WIDE, accuracy_figure
from memory_defense.reporting.gallery import ANY, Gallery
from memory_defense.reporting.latex import latex_table
from memory_defense.reporting.rows import (
    HeadlineRow,
    Section,
    answer_pieces,
    audit_lines,
    caution,
    curve_points,
    figure_norms,
    headline,
    paragraphs,
    protocol_text,
)
from memory_defense.reporting.sources import Sources, printed
from memory_defense.reporting.sources import anchor as entry_anchor
from memory_defense.reporting.summary import gaps, most_effective, why_not_run
from memory_defense.reporting.svg import as_file
from memory_defense.reporting.tables import headline_table, provenance_table, result_tables
from memory_defense.reporting.thumbnails import examples
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
    plain,
)
from memory_defense.reporting.words import words

View = dict[str, Any]
"""Values that a template reads, by name."""


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
        Path of the page; links to records are relative to it.
    sections
        The evaluated systems, in the order of reading.
    title
        The page's title.
    introduction
        What the headline means, below it; an empty line starts a new paragraph.
    gallery_limit
        Largest number of images shown of each gallery; the page says how many are left out.

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
        _view(place, section, row, path, gallery_limit)
        for place, (section, row) in enumerate(zip(sections, rows, strict=True), start=1)
    ]
    templates = environment()
    page = templates.get_template("report.html.j2")
    script = templates.get_template("report.js").render()
    knowledge = {result.knowledge for section in sections for result in section.record.attacks}
    stages = [stage for section in sections for cascade in section.record.cascades for stage in cascade.stages]
    knowledge |= {stage.knowledge for stage in stages}
    write_text(
        path,
        page.render(
            title=title,
            names=joined([plain(section.title) for section in sections]),
            words=words(sections),
            introduction=paragraphs(introduction),
            headline=headline_table(sections),
            views=views,
            script=Markup(script),
            script_hash=hash_of(script),
            knowledge=[entry for name, entry in (KNOWLEDGE | ADAPTIVE).items() if name in knowledge],
        ),
    )


def environment() -> Environment:
    """Return the templates of the pages, with what they need to draw tables."""
    templates = Environment(
        loader=PackageLoader("memory_defense.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["number"] = number
    templates.filters["symbol"] = SYMBOLS.__getitem__
    cast("dict[str, Any]", templates.globals)["anchor"] = entry_anchor
    templates.filters["latex"] = latex_table
    return templates


def hash_of(script: str) -> str:
    """Return what a content security policy calls this inline script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _view(place: int, section: Section, row: HeadlineRow, page: Path, limit: int) -> View:
    record, sources = section.record, Sources(section.record)
    anchor, record_anchor = f"system-{place}", f"record-{place}"
    audit = audit_lines(record)
    norms = figure_norms(record)
    counts = ((sum(line.verdict == verdict for line in audit), word) for verdict, word in _VERDICTS)
    return {
        "anchor": anchor,
        "record_anchor": record_anchor,
        "section": section,
        "answer": answer_pieces(section),
        "effective": most_effective(record),
        "audit_sentence": audit_sentence(record),
        "gaps": gaps(record),
        "caution": caution(record),
        "unknown": not record.certified and all(worst.measured is None for worst in record.worst_case),
        "bars": _bars(record, row, sources),
        "figures": [_figure(section, norm, f"{anchor}-{place}") for place, norm in enumerate(norms)],
        "gallery": None if section.gallery_path is None else _gallery(section.gallery_path, limit),
        "audit": [
            {
                "line": line,
                "source": sources.of(line, "value"),
                "said": failure(line) if line.verdict == "fail" else "",
                "why": why_not_run(record, line),
            }
            for line in audit
        ],
        "failed": [
            {"said": failure(line), "remedy": "" if line.remedy.startswith("the same:") else line.remedy}
            for line in failed_lines(record)
        ],
        "verdicts": ", ".join(f"{count} {word}" for count, word in counts if count),
        "tables": result_tables(record),
        "provenance": provenance_table(record),
        "record_link": "" if section.record_path is None else _relative(section.record_path, page.parent),
        "printed": printed(record, record_anchor),
    }


_VERDICTS = (("fail", "failed"), ("pass", "passed"), ("not run", "not run"))


_TERMS = {
    "clean": "clean",
    "the paper's attack": "paper",
    "proven": "proven",
    "worst case": "worst-case",
    "right or flagged": "flagged",
}
"""What is said in the label of a bar, and the word that explains it (`words`)."""
_TERM = re.compile(f"({'|'.join(_TERMS)})")


def _linked(label: str) -> list[tuple[str, str]]:
    """Return a label in pieces, each with the word that explains it, or nothing."""
    return [(piece, _TERMS.get(piece, "")) for piece in _TERM.split(label) if piece]


def _bars(record: Record, row: HeadlineRow, sources: Sources) -> tuple[View, ...]:
    def bar(label: str, accuracy: Accuracy, kind: str, entry: WorstCase | None = None) -> View:
        low, high = accuracy.ci95
        return {
            "label": _linked(label),
            "value": percent(accuracy.accuracy),
            "source": sources.of(entry or accuracy, "accuracy"),
            "interval": interval(accuracy),
            "share": round(100 * accuracy.accuracy, 2),
            "low": round(100 * low, 2),
            "beyond": round(100 - 100 * high, 2),
            "kind": kind,
        }

    bars = [bar("clean", row.clean, "clean")]
    if row.paper is not None and row.paper.tried != 0:
        bars.append(bar(f"the paper's attack, {protocol_text(row.paper)}", row.paper, "paper"))
    for one in record.certified:
        if one.epsilon > 0:
            ball = ball_text(one.norm, one.epsilon)
            bars.append(bar(f"proven within {ball}", one, "worst"))
            if one.gate is not None:
                bars.append(bar(f"proven within {ball}, right or flagged", one.gate.right_or_flagged, "flagged"))
    for worst in row.worst:
        if worst is not None and (found := worst.measured) is not None:
            ball = ball_text(worst.norm, worst.epsilon)
            bars.append(bar(f"worst case, {ball}", found, "worst", worst))
            if worst.undetected is not None:
                bars.append(bar(f"worst case, {ball}, right or flagged", worst.undetected, "flagged"))
    return tuple(bars)


def _figure(section: Section, norm: str, prefix: str) -> View:
    record = section.record
    attacks = {attack_label(r) for line in curve_points(record, norm).values() for r in line}
    caption = (
        f"Accuracy under attack for each epsilon, the largest change of the image (0 is the clean image). Attack: "
        f"{joined(sorted(attacks))}. There is one line for each knowledge, the part of the system whose gradient "
        "the attack follows. The bold points are the worst case of all attacks. Bands are 95 % intervals."
        if attacks
        else "Share of the images that are proven to stay right for each epsilon, the largest change of the image "
        "(0 is the clean image), and, if a gate flags images, the share that is proven to be right or flagged. "
        "Bands are 95 % intervals."
    )
    wide, narrow = (
        Markup(accuracy_figure(record, norm, prefix=f"{prefix}{suffix}", layout=layout))
        for suffix, layout in (("w", WIDE), ("n", NARROW))
    )
    file = base64.b64encode(as_file(wide).encode()).decode()
    name = re.sub(r"[^a-z0-9]+", "-", f"{section.title} accuracy {norm}".lower()).strip("-")
    return {
        "title": f"Accuracy against epsilon, {norm_label(norm)}",
        "caption": caption,
        "wide": wide,
        "narrow": narrow,
        "knowledge": [
            (KNOWLEDGE | ADAPTIVE)[name] for name in curve_points(record, norm) if name in KNOWLEDGE | ADAPTIVE
        ],
        "file": f"data:image/svg+xml;base64,{file}",
        "file_name": f"{name}.svg",
    }


def _gallery(path: Path, limit: int) -> View:
    gallery = Gallery.read(path)
    shown = examples(gallery, limit)
    ball = ball_text(gallery.norm, gallery.epsilon)
    attack = f"Attack: {gallery.attack}, knowledge {knowledge_label(gallery.knowledge)}, {ball}."
    if gallery.knowledge == ANY:
        attack = f"All attacks were tried on each image, within {ball}. The first one that worked is shown."
    return {"attack": attack, "examples": shown, "left_out": len(gallery) - len(shown)}


def _relative(target: Path, start: Path) -> str:
    """Return a link to a file that holds when both move together; quoted, so it is never another scheme."""
    try:
        found = Path(os.path.relpath(target, start))
    except ValueError:  # another drive
        found = Path(target.name)
    return quote(found.as_posix(), safe="/.")
