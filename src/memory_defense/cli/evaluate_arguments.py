"""The arguments of ``memdef evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memory_defense.cli.arguments import (
    Argument,
    ClassesOption,
    DataDir,
    Device,
    GeometryOption,
    Name,
    Offline,
    OwnImages,
    OwnWeights,
    Preprocess,
    RandomWeights,
    Seed,
    Sharing,
    Size,
    Target,
    Threads,
)

if TYPE_CHECKING:
    from memory_defense.contracts import Progress
    from memory_defense.evaluation.options import Options


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Every argument and option, as typed by the user; `evaluate_checks` says which go together."""

    target: Target
    data_dir: DataDir = None
    offline: Offline = False
    seed: Seed = 0
    device: Device = "cpu"
    threads: Threads = None
    processes: Sharing = 1
    images: Annotated[int | None, typer.Option(min=1, help="Test images; all, or the recipe's number.")] = None
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            help="Suites (fast, standard or autoattack, rand, brief, glimpse) and attacks, joined by commas or "
            "repeated, see 'memdef attacks'; of a run also those of its plan. fast, or the plan, if left out."
        ),
    ] = None
    knowledge: Annotated[list[str] | None, typer.Option(help="Only these surrogates; may be repeated.")] = None
    epsilon: Annotated[
        list[str] | None,
        typer.Option(help="Radii, such as 8/255 or 0.1; may be repeated. For a run, L-inf."),
    ] = None
    norm: Annotated[str | None, typer.Option(help="linf or l2, for your own classifier or an export.")] = None
    data: OwnImages = None
    size: Size = None
    geometry: GeometryOption = None
    classes: ClassesOption = None
    weights: OwnWeights = None
    name: Name = None
    argument: Argument = None
    preprocess: Preprocess = None
    random_weights: RandomWeights = False
    start_from: Annotated[
        Path | None, typer.Option(help="Images beside an earlier record, tried first: yours, or another model's.")
    ] = None
    submissions: Annotated[
        int, typer.Option(min=1, help="Repetitions: times each image is classified; one wrong answer breaks it.")
    ] = 1
    batch: Annotated[int | None, typer.Option(min=1, help="Images in one pass; else the fastest is found.")] = None
    bfloat16: Annotated[
        bool,
        typer.Option(
            "--bfloat16", help="Compute gradients in bfloat16: faster where the chip has it, may find less."
        ),
    ] = False
    detection: Annotated[
        bool,
        typer.Option(
            "--detection",
            help="Also measure a run's flag, against attacks that ignore it and attacks that evade it.",
        ),
    ] = False
    false_alarms: Annotated[
        float | None,
        typer.Option(
            help="Share of clean images the flag may call suspicious, 0.05 if left out; with --detection."
        ),
    ] = None
    gate: Annotated[
        str | None,
        typer.Option(
            help="Of a run that proves its answers: flag what is not certified within half of this radius, and let "
            "attacks fight that flag."
        ),
    ] = None
    rejection_cost: Annotated[
        list[float] | None,
        typer.Option(
            help="Of a run: attack answer and flag together, and state the total loss where a flag costs this "
            "much, such as 0.1, and a wrong and accepted answer 1; may be repeated."
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the record; else the run's record.json (partial.json when something is left out, "
            "gated.json with --gate), or record.json here."
        ),
    ] = None

    def assumed(self) -> list[str]:
        """Return what was left out and decides on the numbers of a classifier, with the values that are taken."""
        found = [] if self.norm is not None else ["norm linf"]
        return found if self.attacks is not None else [*found, "attacks fast"]

    def options(self, progress: Progress | None) -> Options:
        """Return what the evaluator needs of them."""
        from memory_defense.evaluation.options import Options

        return Options(
            defense=Options.defense if self.name is None else self.name,
            seed=self.seed,
            submissions=self.submissions,
            batch_size=self.batch,
            bfloat16=self.bfloat16,
            progress=progress,
        )
