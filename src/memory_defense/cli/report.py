"""``memdef report``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memory_defense.names import PRINTED, REPORTS, check_name
from memory_defense.outputs import check_file, contents, replaced
from memory_defense.zoo import located

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memory_defense.evaluation.record import Record
    from memory_defense.reporting import Section

PAGES = (b'<meta name="generator" content="memory-defense">', b"Memory Defense: what survives")
"""What a page says at its start by which it is known; earlier versions have the title alone."""
_START = 1 << 12
TITLE = "Memory Defense: what survives"


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, zoo:NAME, or record files.")],
    out: Annotated[Path | None, typer.Option(help="The page to write; report.html if left out.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown instead.")] = False,
    format: Annotated[
        str,
        typer.Option(
            help="html, markdown or latex (booktabs); the last two print the tables. For one record also "
            "formats of other programs: model-card and eval-results (Hugging Face), cyclonedx (1.6, JSON), "
            "jsonl (a line for each image)."
        ),
    ] = "html",
    hub_dataset: Annotated[
        str | None, typer.Option(help="Dataset on the Hugging Face Hub, OWNER/NAME, for eval-results.")
    ] = None,
) -> None:
    """Show records as tables and as one HTML page that needs no network, or print one record for other programs."""
    check_name(format, (*REPORTS, *PRINTED), "format")
    if markdown and format not in ("html", "markdown"):
        raise ValueError(f"--markdown and --format {format}: give one of them")
    if hub_dataset is not None and format != "eval-results":
        raise ValueError("--hub-dataset: only with --format eval-results, which names a dataset")
    pages = format == "html" and not markdown
    if out is not None and not pages:
        raise ValueError(f"--out is for a page; leave it out, and send what is printed to {out} with > {out}")
    out = out or Path("report.html")
    sources = {str(path): read_record(path)[0] for path in runs}
    if pages:
        check_page(out, sources)

    if format in PRINTED:
        if len(runs) > 1:
            raise ValueError(f"--format {format} is of one record, and {len(runs)} are given; print each by itself")
        typer.echo(_printed(read_whole_record(runs[0]), format, hub_dataset), nl=False)
        return

    from memory_defense.cli.shared import print_tables
    from memory_defense.reporting import markdown as as_markdown
    from memory_defense.reporting import write_report
    from memory_defense.reporting.latex import latex

    sections, before = sections_of(runs), contents(out)
    if format == "latex":
        typer.echo(latex(sections), nl=False)
    elif markdown or format == "markdown":
        typer.echo(as_markdown(sections))
    else:
        write_report(out, sections, title=TITLE)
        print_tables(sections)
        if replaced(before, out):
            typer.echo(f"replaced: {out}, which was the page of something else")
        typer.echo(f"report: {out}")


def check_page(out: Path, sources: Mapping[str, Path]) -> None:
    """Raise ValueError unless a page can be written there, over an earlier page or over nothing."""
    check_file(out, example="report.html", inputs=sources)
    if out.is_file() and not any(mark in out.read_bytes()[:_START] for mark in PAGES):
        raise ValueError(
            f"{out} already exists and is not a report of this program; choose another name, or remove it"
        )


def read_record(path: Path) -> tuple[Path, Record]:
    """Return where the record of a run directory, or a record file, is, and the record.

    Raises
    ------
    ValueError
        If there is none, or the file is not a record.
    """
    from memory_defense.evaluation.record import Record

    path = located(path)
    place = path / "record.json" if path.is_dir() else path
    if path.is_dir() and not place.is_file():
        raise ValueError(f"{path} has no record.json; make one with: memdef evaluate {path}")
    return place, Record.read(place)


def read_whole_record(path: Path) -> Record:
    """Return the record of a run directory, or a record file, checked against the file of its images."""
    from memory_defense.evaluation.kept import read_whole

    return read_whole(read_record(path)[0])


def _printed(record: Record, format: str, hub_dataset: str | None) -> str:
    """Return one record as other programs read it."""
    if format == "jsonl":
        from memory_defense.evaluation.verdicts import lines_of

        return lines_of(record)
    if format == "cyclonedx":
        from memory_defense.reporting.cyclonedx import bill_of_materials

        return bill_of_materials(record)
    if format == "eval-results":
        from memory_defense.reporting.hub import eval_results

        return eval_results(record, hub_dataset)
    from memory_defense.reporting.card import record_card

    return record_card(record)


def sections_of(paths: Sequence[Path]) -> list[Section]:
    """Return the report's sections about run directories and record files, no two with the same title."""
    from memory_defense.evaluation.naming import names_of

    found = [section(path) for path in paths]
    titles = names_of([one.record for one in found], [one.record_path for one in found])
    return [replace(one, title=title) for one, title in zip(found, titles, strict=True)]


def section(path: Path, title: str | None = None) -> Section:
    """Return the report's section about a run directory or a record file; by default it has the record's name."""
    from memory_defense.evaluation.naming import name_of
    from memory_defense.reporting import Section
    from memory_defense.run_directory import RunDirectory

    path = located(path)
    place, record = read_record(path)[0], read_whole_record(path)
    gallery = RunDirectory(path).gallery if path.is_dir() else None
    return Section(
        title=title or name_of(record),
        record=record,
        gallery_path=gallery if gallery and gallery.is_file() else None,
        record_path=place,
    )
