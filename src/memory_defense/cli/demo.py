"""``memdef demo``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from memory_defense.cli.arguments import DataDir, Offline, Seed, check_data_dir
from memory_defense.cli.report import TITLE, section
from memory_defense.names import DEMO_SCALES, check_name
from memory_defense.outputs import check_file
from memory_defense.run_directory import RunDirectory


def demo(
    out: Annotated[Path, typer.Option(help="Run directory to create.")] = Path("runs/demo"),
    data_dir: DataDir = None,
    offline: Offline = False,
    seed: Seed = 0,
    scale: Annotated[
        str, typer.Option(help="cpu, or tiny for a test run in under a minute, whose numbers mean nothing.")
    ] = "cpu",
) -> None:
    """Train three systems on Fashion-MNIST, attack or certify them, and write a report.

    The systems are the paper's, a more robust one, and one that proves its answers. This takes about a quarter of
    an hour on two cores. After a stop, the same command continues.
    """
    check_name(scale, DEMO_SCALES, "scale")
    check_data_dir(data_dir)
    for run in (RunDirectory(out), RunDirectory(out / "paper"), RunDirectory(out / "proven")):
        run.check_new(resume=True)
    check_file(out / "report.html")

    from memory_defense.cli.progress import shown
    from memory_defense.cli.shared import print_tables, wide_console
    from memory_defense.data.images import load_dataset
    from memory_defense.reporting import why_protocols_differ, write_report
    from memory_defense.workflows.demo import TITLES
    from memory_defense.workflows.demo import demo as make_demo

    with shown() as progress:
        splits = load_dataset(
            "fashion-mnist", data_dir=data_dir, offline=offline, may_update=True, progress=progress
        )
        if scale == "tiny":
            splits = replace(splits, train=splits.train.first(200), held_out=splits.held_out.first(50))
        made = make_demo(out, splits, scale=scale, seed=seed, progress=progress)
    sections = [
        section(made.paper.path, TITLES["paper"]),
        section(made.sound.path, TITLES["sound"]),
        section(made.certificates, TITLES["proven"]),
    ]
    page, why = out / "report.html", why_protocols_differ(sections[0].record)
    write_report(page, sections, title=TITLE, introduction=why)
    print_tables(sections)
    wide_console().print(why, highlight=False)
    typer.echo(f"report: {page}\nrecords: {made.paper.record}, {made.sound.record}, {made.certificates}")
