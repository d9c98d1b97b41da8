"""What the commands do, once their arguments are read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from memory_defense.cli.arguments import record_of
from memory_defense.cli.machine import Machine, joined
from memory_defense.cli.progress import shown
from memory_defense.cli.shared import find_data, print_tables, wide_console
from memory_defense.data.own import load_splits
from memory_defense.data.spec import DATASETS, dataset_spec
from memory_defense.evaluation.record import Record
from memory_defense.recipes.adapt import adapt
from memory_defense.recipes.registry import RECIPES, recipe
from memory_defense.reporting import Section, why_protocols_differ, write_report
from memory_defense.reporting import markdown as markdown_tables
from memory_defense.run_directory import RunDirectory
from memory_defense.workflows.demo import demo
from memory_defense.workflows.run_images import images_from, keep_images_from
from memory_defense.workflows.train import train

TITLE = "Memory Defense: what survives"


def run_demo(out: Path, data_dir: Path | None, *, offline: bool, seed: int, scale: str) -> None:
    """Train, attack and report both faces; print the table."""
    with shown() as progress:
        splits = find_data(
            "fashion-mnist", data_dir, offline=offline, device=torch.device("cpu"), progress=progress
        )
        if scale == "tiny":
            splits = replace(splits, train=splits.train.first(200), held_out=splits.held_out.first(50))
        paper, sound = demo(out, splits, scale=scale, seed=seed, progress=progress)
    sections = [
        _section(paper, out, "Paper's system, benign selector"),
        _section(sound, out, "Sound Memory Defense, adversarially trained selector"),
    ]
    page = out / "report.html"
    why = why_protocols_differ(sections[0].record)
    write_report(page, sections, title=TITLE, introduction=why)
    print_tables(sections)
    wide_console().print(why, highlight=False)
    Console().print(f"report: {page}\nrecords: {paper.record}, {sound.record}", highlight=False)


def run_train(
    name: str,
    out: Path,
    data_dir: Path | None,
    machine: Machine,
    *,
    offline: bool,
    seed: int,
    resume: bool,
    limit: int | None,
    data: str | None = None,
    size: int | None = None,
) -> int | None:
    """Train a recipe, on its own images or on others; return an exit status if other processes did it."""
    chosen = recipe(name)
    device = machine.ready()
    status = machine.launch(sys.argv[1:])
    if status is not None:
        return status
    with joined(device) as speaks, shown(silent=not speaks) as progress:
        if data is None:
            splits = find_data(chosen.model.dataset, data_dir, offline=offline, device=device, progress=progress)
        else:
            where = data_dir if data in DATASETS else None
            splits = load_splits(
                data,
                size=size,
                device=device,
                data_dir=where,
                offline=offline,
                may_update=True,
                progress=progress,
            )
        if limit is not None:
            splits = replace(splits, train=splits.train.first(limit))
        if data is not None:
            chosen = adapt(chosen, splits.spec, train_images=len(splits.train))
        run = train(chosen, out, splits, seed=seed, resume=resume, progress=progress)
        if data is not None and speaks:
            keep_images_from(run, images_from(data, size, splits.spec))
    if speaks:
        Console().print(f"trained: {run.weights}\nnext: memdef evaluate {out}", highlight=False)
    return None


def run_report(paths: Sequence[Path], out: Path, *, markdown: bool) -> None:
    """Render records."""
    sections = [_section_of(path, out.parent) for path in paths]
    if markdown:
        Console(soft_wrap=True).print(markdown_tables(sections), highlight=False, markup=False)
        return
    write_report(out, sections, title=TITLE)
    print_tables(sections)
    Console().print(f"report: {out}", highlight=False)


def run_data(name: str, data_dir: Path | None, *, offline: bool) -> None:
    """Show what a dataset holds."""
    with shown() as progress:
        splits = find_data(name, data_dir, offline=offline, device=torch.device("cpu"), progress=progress)
    spec = dataset_spec(name)
    said = {
        "dataset": name,
        "image": f"{spec.channels} x {spec.size} x {spec.size}",
        "classes": ", ".join(spec.classes),
        "training images": len(splits.train),
        "held-out images": len(splits.held_out),
        "test images": len(splits.test),
        "sha256": spec.sha256,
    }
    for key, value in said.items():
        Console().print(f"{key:>16}  {value}", highlight=False, soft_wrap=True)


def list_recipes() -> None:
    """Print every recipe with its summary."""
    width = max(map(len, RECIPES)) + 2
    for one in RECIPES.values():
        Console().print(f"{one.name:<{width}}{one.summary}", highlight=False, soft_wrap=True)


def _section(run: RunDirectory, base: Path, title: str) -> Section:
    return Section(
        title=title,
        record=Record.read(run.record),
        gallery_path=run.gallery if run.gallery.is_file() else None,
        record_path=run.record.relative_to(base) if run.record.is_relative_to(base) else run.record,
    )


def _section_of(path: Path, base: Path) -> Section:
    place = record_of(path)
    record = Record.read(place)
    if path.is_dir():
        return _section(RunDirectory(path), base, record.recipe)
    return Section(title=record.recipe, record=record, record_path=path)
