"""``memdef evaluate``: a run directory by its recipe's plan, or any classifier by a suite of attacks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memory_defense.cli.arguments import DataDir, Device, Offline, Seed, Size, Threads, radius, with_options
from memory_defense.cli.machine import Machine, joined

if TYPE_CHECKING:
    import torch

    from memory_defense.contracts import Progress
    from memory_defense.evaluation.options import Options


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The arguments of ``memdef evaluate``."""

    target: Annotated[
        str,
        typer.Argument(
            help="Run directory of a trained defense, its export, or package.module:build for your classifier."
        ),
    ]
    data_dir: DataDir = None
    offline: Offline = False
    seed: Seed = 0
    device: Device = "cpu"
    threads: Threads = None
    processes: Annotated[
        int,
        typer.Option(min=1, help="Processes that share the images; for several machines use torchrun."),
    ] = 1
    images: Annotated[int | None, typer.Option(min=1, help="Test images; all, or the recipe's number.")] = None
    attacks: Annotated[
        str | None,
        typer.Option(
            help="fast, standard (autoattack), rand, or attacks joined by commas; of a run also those of its plan."
        ),
    ] = None
    knowledge: Annotated[list[str] | None, typer.Option(help="Only these surrogates; may be repeated.")] = None
    epsilon: Annotated[
        list[str] | None,
        typer.Option(help="Radii, such as 8/255 or 0.1; may be repeated. For a run, L-inf."),
    ] = None
    norm: Annotated[str | None, typer.Option(help="linf or l2, for your own classifier or an export.")] = None
    data: Annotated[
        str | None,
        typer.Option(
            help="Images for your own classifier: a folder test/CLASS/FILE, .npz, .safetensors or a name."
        ),
    ] = None
    size: Size = None
    weights: Annotated[Path | None, typer.Option(help="Your classifier's .safetensors file.")] = None
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
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the record; else the run's record.json (partial.json when something is left out), "
            "or record.json here."
        ),
    ] = None

    def options(self, progress: Progress | None) -> Options:
        """Return what the evaluator needs of them."""
        from memory_defense.evaluation.options import Options

        return Options(
            seed=self.seed,
            submissions=self.submissions,
            batch_size=self.batch,
            bfloat16=self.bfloat16,
            progress=progress,
        )


@with_options(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> None:
    """Attack a defense, or any classifier, until nothing is left to try, and write the record.

    A stopped evaluation continues where it was when the same command is given again.
    """
    from memory_defense.cli.evaluate_checks import check_evaluate, is_classifier

    machine = Machine(device=options.device, threads=options.threads, processes=options.processes)
    check_evaluate(options)
    device = machine.ready()
    machine.launch()
    with joined(device) as speaks:
        if is_classifier(options.target):
            _evaluate_classifier(options, device, speaks=speaks)
        else:
            _evaluate_run(options, device, speaks=speaks)


def _evaluate_run(options: EvaluateOptions, device: torch.device, *, speaks: bool) -> None:
    from memory_defense.cli.evaluate_checks import narrowed
    from memory_defense.cli.progress import shown
    from memory_defense.cli.shared import print_tables
    from memory_defense.evaluation.flag import DEFAULT_FALSE_ALARMS, keep_flag
    from memory_defense.reporting import Section
    from memory_defense.run_directory import RunDirectory
    from memory_defense.systems.load import load
    from memory_defense.workflows.assess import add_detection, assess, calibrated
    from memory_defense.workflows.run_images import splits_of
    from memory_defense.workflows.run_recipe import recipe_of

    run = RunDirectory(Path(options.target))
    recipe = recipe_of(run)
    recipe = replace(recipe, evaluation=narrowed(recipe.evaluation, options))
    partial = options.attacks is not None or options.knowledge is not None
    out = options.out or (run.path / "partial.json" if partial else None)
    rate = DEFAULT_FALSE_ALARMS if options.false_alarms is None else options.false_alarms
    defense = load(run.path).to(device)
    with shown(silent=not speaks) as progress:
        splits = splits_of(
            run,
            source=options.data,
            device=device,
            data_dir=options.data_dir,
            offline=options.offline,
            may_update=True,
            progress=progress,
        )
        flag = calibrated(defense, splits.held_out, rate) if options.detection else None
        chosen = options.options(progress)
        record = assess(recipe, run, defense, splits, out=out, options=chosen)
        place = out or run.record
        if flag is not None and speaks:  # the attacks on the flag are not shared out
            keep_flag(run, flag)
            record = add_detection(record, place, defense, splits, recipe.evaluation, flag, chosen)
    if speaks:
        print_tables([Section(recipe.summary, record)])
        typer.echo(f"record: {place}")


def _evaluate_classifier(options: EvaluateOptions, device: torch.device, *, speaks: bool) -> None:
    from memory_defense.cli.progress import shown
    from memory_defense.cli.shared import print_tables
    from memory_defense.data.own import load_images
    from memory_defense.data.spec import DATASETS
    from memory_defense.reporting import Section
    from memory_defense.run_directory import is_exported
    from memory_defense.systems.load import load
    from memory_defense.systems.own_model import build_user_model
    from memory_defense.workflows.evaluate import evaluate as evaluate_model

    target, weights, out = options.target, options.weights, options.out or Path("record.json")
    norm = options.norm or "linf"
    with shown(silent=not speaks) as progress:
        data = load_images(
            options.data or "",
            size=options.size,
            device=device,
            data_dir=options.data_dir if options.data in DATASETS else None,
            offline=options.offline,
            may_update=True,
            progress=progress,
        )
        model = (
            load(target)
            if is_exported(Path(target))
            else build_user_model(
                target, classes=len(data.classes), channels=data.channels, size=data.size, weights=weights
            )
        )
        subset = data.images.first(min(options.images or len(data.images), len(data.images)))
        record = evaluate_model(
            model.to(device),
            subset.floats(),
            subset.labels,
            epsilon=[radius(text, norm) for text in options.epsilon or ()],
            norm=norm,
            attacks=options.attacks or "fast",
            out=out,
            options=replace(
                options.options(progress),
                ids=subset.ids,
                start_from=options.start_from,
                defense=target,
                dataset=data.name,
                weights_sha256="" if weights is None else hashlib.sha256(weights.read_bytes()).hexdigest(),
            ),
        )
    if speaks:
        print_tables([Section(target, record, record_path=out)])
        typer.echo(f"record: {out}")
