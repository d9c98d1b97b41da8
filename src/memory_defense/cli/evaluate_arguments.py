"""The arguments of ``memdef evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memory_defense.cli.arguments import (
    Device,
    Name,
    OwnArguments,
    RandomWeights,
    Seed,
    Sharing,
    Target,
    Threads,
)

if TYPE_CHECKING:
    from memory_defense.contracts import Progress
    from memory_defense.evaluation.options import Options


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments(OwnArguments):
    """Every argument and option, as typed by the user; `evaluate_checks` says which go together."""

    target: Target
    seed: Seed = 0
    device: Device = "cpu"
    threads: Threads = None
    processes: Sharing = 1
    images: Annotated[
        int | None, typer.Option(min=1, help="Number of test images; all, or the recipe's number, if left out.")
    ] = None
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            help="Suites (fast, standard or autoattack, rand, brief, glimpse) and attacks, joined by commas or "
            "repeated, see 'memdef attacks'; for a run also the names of its plan. If left out: fast, or the plan."
        ),
    ] = None
    knowledge: Annotated[
        list[str] | None, typer.Option(help="Use only these surrogates (what the attacker knows); may be repeated.")
    ] = None
    epsilon: Annotated[
        list[str] | None,
        typer.Option(
            help="Largest change that an attack may make, such as 8/255 or 0.1; may be repeated. L-inf for a run."
        ),
    ] = None
    norm: Annotated[
        str | None,
        typer.Option(help="linf or l2: how the change is measured; for your own classifier or an export."),
    ] = None
    name: Name = None
    random_weights: RandomWeights = False
    start_from: Annotated[
        Path | None,
        typer.Option(
            help="Attacked images of an earlier record (.images.safetensors), of this model or another one, to "
            "try first."
        ),
    ] = None
    submissions: Annotated[
        int, typer.Option(min=1, help="How often each image is classified; one wrong answer breaks it.")
    ] = 1
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images in one pass; the fastest number is found if left out.")
    ] = None
    bfloat16: Annotated[
        bool,
        typer.Option(
            "--bfloat16",
            help="Compute gradients in bfloat16: faster on chips that support it, but attacks may break fewer "
            "images.",
        ),
    ] = False
    detection: Annotated[
        bool,
        typer.Option(
            "--detection",
            help="Also evaluate a run's flag, under attacks that ignore it and attacks that avoid it.",
        ),
    ] = False
    false_alarms: Annotated[
        float | None,
        typer.Option(
            help="With --detection: share of clean images that the flag may call suspicious; 0.05 if left out."
        ),
    ] = None
    gate: Annotated[
        str | None,
        typer.Option(
            help="For a run that proves its answers: flag images that are not certified within half of this "
            "radius, and let attacks avoid this flag."
        ),
    ] = None
    rejection_cost: Annotated[
        list[float] | None,
        typer.Option(
            help="For a run: attack answer and flag together, and state the total loss if a flag costs this "
            "much, such as 0.1, and a wrong and accepted answer costs 1; may be repeated."
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            help="File of the record. If left out: record.json in the run (partial.json if only a part of its "
            "plan was evaluated, gated.json with --gate), or record.json in the current directory."
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
