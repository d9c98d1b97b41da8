"""``memdef compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memory_defense.cli.report import check_page, read_record, read_whole_record
from memory_defense.names import COMPARISONS, check_name
from memory_defense.outputs import contents, replaced


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories, zoo:NAME, or record files; the others are compared with the first."),
    ],
    published: Annotated[
        bool,
        typer.Option("--published", help="Also show published numbers for the same dataset, norm and radius."),
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="Names of the systems, in order, one --name for each; if left out, the names in the records."
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="terminal, markdown (printed) or html.")] = "terminal",
    out: Annotated[Path | None, typer.Option(help="The page to write; compare.html if left out.")] = None,
) -> None:
    """Compare the records of several systems: clean accuracy, worst cases, and differences with intervals.

    If two records are about the same images, and their .images.safetensors files are there, differences are paired.
    """
    check_name(format, COMPARISONS, "format")
    if out is not None and format != "html":
        raise ValueError(
            f"--out is for a page; give --format html with it, or send what is printed to {out} with > {out}"
        )
    sources = {str(path): read_record(path)[0] for path in runs}
    page = out or Path("compare.html")
    if format == "html":
        check_page(page, sources)

    from memory_defense.cli.shared import wide_console
    from memory_defense.evaluation.comparison import compare as compared
    from memory_defense.evaluation.published import published_for
    from memory_defense.reporting.comparison import comparison_markdown, comparison_terminal, write_comparison

    records = [read_whole_record(path) for path in runs]
    found = compared(*records, names=name)
    others = published_for(records) if published else ()
    if format == "markdown":
        typer.echo(comparison_markdown(found, others), nl=False)
        return
    console = wide_console()
    for table in comparison_terminal(found, others):
        console.print(table)
    for line in found.differing:
        typer.echo(line)
    if published and not others:
        typer.echo("nothing is known here to have been published for these datasets, norms and radii")
    if format == "html":
        before = contents(page)
        write_comparison(page, found, others, title=f"Side by side: {', '.join(found.names)}")
        if replaced(before, page):
            typer.echo(f"replaced: {page}, which was the page of something else")
        typer.echo(f"page: {page}")
