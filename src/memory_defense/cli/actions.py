"""What the commands do, once their arguments are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch
from rich.console import Console

from memory_defense.checks import nearest
from memory_defense.cli.progress import Shown, shown
from memory_defense.contracts import Ball
from memory_defense.data.images import Splits, load_dataset
from memory_defense.data.spec import DATASETS
from memory_defense.evaluation.record import Record
from memory_defense.recipes import RECIPES, recipe
from memory_defense.recipes.assess import assess
from memory_defense.recipes.build import dataset_spec
from memory_defense.recipes.demo import SCALES, demo
from memory_defense.recipes.load import load
from memory_defense.recipes.pipeline import train
from memory_defense.recipes.recipe import EvaluationPlan
from memory_defense.recipes.run_directory import RunDirectory
from memory_defense.reporting import Section, terminal_tables, why_protocols_differ, write_report
from memory_defense.reporting import markdown as markdown_tables
from memory_defense.threat import Linf

TITLE = "Memory Defense: what survives"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where to compute."""

    device: str = "cpu"
    threads: int | None = None

    def ready(self) -> torch.device:
        """Return the device; raise ValueError when it is not there."""
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(f"unknown device {self.device!r}; use cpu, cuda or cuda:N") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError("there is no CUDA device here (or torch has no CUDA); use --device cpu")
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return device


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which part of a recipe's evaluation to run; None leaves the recipe's."""

    images: int | None = None
    attacks: Sequence[str] | None = None
    knowledge: Sequence[str] | None = None
    epsilons: Sequence[str] | None = None

    @property
    def partial(self) -> bool:
        """Whether attacks or knowledge are left out, so that the worst case is not the run's."""
        return self.attacks is not None or self.knowledge is not None

    def apply(self, plan: EvaluationPlan) -> EvaluationPlan:
        """Return the narrowed plan; raise ValueError for an attack that it does not have or a bad radius."""
        known = [*plan.attacks, *plan.white_box, *plan.minimum_norm]
        for name in self.attacks or ():
            if name not in known:
                raise nearest(name, known, "attack")
        chosen = set(self.attacks or known)
        balls: tuple[Ball, ...] = tuple(Linf(radius(text)) for text in self.epsilons or ()) or plan.linf
        return replace(
            plan,
            images=self.images or plan.images,
            linf=balls,
            attacks={name: attack for name, attack in plan.attacks.items() if name in chosen},
            white_box={name: attack for name, attack in plan.white_box.items() if name in chosen},
            minimum_norm={name: attack for name, attack in plan.minimum_norm.items() if name in chosen},
            curve=plan.curve if self.attacks is None else None,
        )


def radius(text: str) -> float:
    """Return a radius written as 8/255 or 0.03; raise ValueError for anything else or above 1."""
    try:
        value = float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"epsilon {text!r} is not a number; write it as 8/255 or 0.03") from error
    if not 0 <= value <= 1:
        raise ValueError(f"epsilon is {text}, but pixels live in [0, 1]; for grey levels write {text}/255")
    return value


def find_data(name: str, data_dir: Path | None, *, offline: bool, device: torch.device, progress: Shown) -> Splits:
    """Return a dataset on a device."""
    return load_dataset(name, data_dir=data_dir, offline=offline, device=device, progress=progress)


def run_demo(out: Path, data_dir: Path | None, *, offline: bool, seed: int, scale: str) -> None:
    """Train, attack and report both faces; print the table."""
    if scale not in SCALES:
        raise nearest(scale, SCALES, "scale")
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
    _print_tables(sections)
    _console().print(why, highlight=False)
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
) -> None:
    """Train a recipe."""
    chosen = recipe(name)
    device = machine.ready()
    with shown() as progress:
        splits = find_data(chosen.model.dataset, data_dir, offline=offline, device=device, progress=progress)
        if limit is not None:
            splits = replace(splits, train=splits.train.first(limit))
        run = train(chosen, out, splits, seed=seed, resume=resume, progress=progress)
    Console().print(f"trained: {run.weights}\nnext: memdef evaluate {out}", highlight=False)


def run_evaluate(
    path: Path,
    data_dir: Path | None,
    machine: Machine,
    selection: Selection,
    *,
    offline: bool,
    seed: int,
    out: Path | None,
) -> None:
    """Evaluate a trained run by its recipe's plan, or a part of it."""
    device = machine.ready()
    run = RunDirectory(path)
    chosen = recipe(str(run.read()["recipe"]))
    plan = selection.apply(chosen.evaluation)
    if selection.partial and out is None:
        out = path / "partial.json"
    defense = load(path).to(device)
    with shown() as progress:
        splits = find_data(chosen.model.dataset, data_dir, offline=offline, device=device, progress=progress)
        record = assess(
            replace(chosen, evaluation=plan),
            run,
            defense,
            splits,
            seed=seed,
            knowledge=selection.knowledge,
            out=out,
            progress=progress,
        )
    _print_tables([Section(chosen.summary, record)])
    Console().print(f"record: {out or run.record}", highlight=False)


def run_report(paths: Sequence[Path], out: Path, *, markdown: bool) -> None:
    """Render records."""
    sections = [_section_of(path, out.parent) for path in paths]
    if markdown:
        Console(soft_wrap=True).print(markdown_tables(sections), highlight=False, markup=False)
        return
    write_report(out, sections, title=TITLE)
    _print_tables(sections)
    Console().print(f"report: {out}", highlight=False)


def run_data(name: str, data_dir: Path | None, *, offline: bool) -> None:
    """Show what a dataset holds."""
    if name not in DATASETS:
        raise nearest(name, DATASETS, "dataset")
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
    for one in RECIPES.values():
        Console().print(f"{one.name:<34}{one.summary}", highlight=False, soft_wrap=True)


def _console() -> Console:
    """Return a console that does not squeeze tables into 80 columns where nobody is looking."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 116))


def _section(run: RunDirectory, base: Path, title: str) -> Section:
    return Section(
        title=title,
        record=Record.read(run.record),
        gallery_path=run.gallery if run.gallery.is_file() else None,
        record_path=run.record.relative_to(base) if run.record.is_relative_to(base) else run.record,
    )


def _section_of(path: Path, base: Path) -> Section:
    if path.is_dir():
        run = RunDirectory(path)
        if not run.record.is_file():
            raise ValueError(f"{path} has no record.json; make one with: memdef evaluate {path}")
        name = json.loads(run.record.read_text(encoding="utf-8")).get("recipe", path.name)
        return _section(run, base, str(name))
    record = Record.read(path)
    return Section(title=record.recipe, record=record, record_path=path)


def _print_tables(sections: Sequence[Section]) -> None:
    console = _console()
    for table in terminal_tables(sections):
        console.print(table)
