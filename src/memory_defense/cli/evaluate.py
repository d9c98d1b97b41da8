"""``memdef evaluate``: a run directory by its recipe's plan, or any classifier by a suite of attacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from memory_defense.attacks.suites import FAST
from memory_defense.cli.arguments import radius, with_options
from memory_defense.cli.evaluate_arguments import EvaluateArguments
from memory_defense.cli.machine import Machine, joined
from memory_defense.zoo import is_entry, located

if TYPE_CHECKING:
    import torch


@with_options(EvaluateArguments)
def evaluate(options: EvaluateArguments) -> None:
    """Attack a defense or any other classifier with all attacks of a suite, and write the record.

    After a stop, the same command continues.
    """
    from memory_defense.cli.evaluate_checks import check_evaluate, is_classifier

    if is_entry(options.target):  # its record is another's: this one goes elsewhere
        target = located(options.target)
        options = replace(options, target=str(target), out=options.out or Path("record.json"))
    machine = Machine(device=options.device, threads=options.threads, processes=options.processes)
    check_evaluate(options)
    device = machine.ready()
    machine.launch()
    with joined(device) as speaks:
        if is_classifier(options.target):
            _evaluate_classifier(options, device, speaks=speaks)
        else:
            _evaluate_run(options, device, speaks=speaks)


def _evaluate_run(options: EvaluateArguments, device: torch.device, *, speaks: bool) -> None:
    from memory_defense.cli.evaluate_checks import narrowed, place_of
    from memory_defense.cli.progress import shown
    from memory_defense.cli.run_splits import run_splits
    from memory_defense.cli.shared import print_tables
    from memory_defense.defenses.gated import Gated
    from memory_defense.defenses.interval_proof import proving
    from memory_defense.evaluation.flag import DEFAULT_FALSE_ALARMS, keep_flag
    from memory_defense.progress import stage
    from memory_defense.reporting import Section
    from memory_defense.run_directory import RunDirectory
    from memory_defense.systems.load import load_defense
    from memory_defense.workflows.assess import add_detection, assess, calibrated
    from memory_defense.workflows.run_recipe import recipe_of

    run = RunDirectory(Path(options.target))
    recipe = recipe_of(run)
    recipe = replace(recipe, evaluation=narrowed(recipe.evaluation, options))
    place = place_of(options)
    out = None if options.out is None and place == run.record else place
    rate = DEFAULT_FALSE_ALARMS if options.false_alarms is None else options.false_alarms
    defense, gated = load_defense(run.path).to(device), ()
    if options.gate is not None:
        epsilon = radius(options.gate, "l2")
        attacked = [ball.epsilon for ball in recipe.evaluation.linf]
        defense = Gated(proving(defense, radii=[epsilon, *attacked]), epsilon).to(device)
        gated = (f"an image is accepted only if it is certified within {epsilon / 2:.4g}, half of {options.gate}",)
    with shown(silent=not speaks) as progress:
        splits = run_splits(
            run,
            source=options.data,
            device=device,
            data_dir=options.data_dir,
            offline=options.offline,
            progress=progress,
        )
        with stage(progress, "choosing the flag's threshold"):
            flag = calibrated(defense, splits.held_out, rate) if options.detection else None
        chosen = replace(options.options(progress), notes=(*splits.notes, *gated))
        record = assess(recipe, run, defense, splits, out=out, options=chosen)
        if flag is not None and speaks:  # the attacks on the flag are not shared out
            if keep_flag(run, flag):
                progress.note(f"the flag's threshold is kept in {run.manifest_path}")
            record = add_detection(record, place, defense, splits, recipe.evaluation, flag, chosen)
        if options.rejection_cost and speaks:  # nor those on answer and flag together
            from memory_defense.workflows.selecting import add_selection

            costs = options.rejection_cost
            record = add_selection(record, place, defense, splits, recipe.evaluation, costs, chosen)
    if speaks:
        print_tables([Section(options.name or recipe.summary, record)])
        typer.echo(f"record: {place}")


def _evaluate_classifier(options: EvaluateArguments, device: torch.device, *, speaks: bool) -> None:
    from memory_defense.cli.own_options import OwnOptions
    from memory_defense.cli.progress import shown
    from memory_defense.cli.shared import print_tables
    from memory_defense.evaluation.pixels import Pixels
    from memory_defense.reporting import Section
    from memory_defense.workflows.evaluate import evaluate as evaluate_model

    target, out, norm = options.target, options.out or Path("record.json"), options.norm or "linf"
    with shown(silent=not speaks) as progress:
        if assumed := options.assumed():
            progress.note(f"not given, so assumed: {', '.join(assumed)}")
        own = OwnOptions.of(options).load(device, progress, images=options.images)
        record = evaluate_model(
            own.model,
            Pixels.of(own.images).to(device),
            own.images.labels,
            epsilon=[radius(text, norm) for text in options.epsilon or ()],
            norm=norm,
            attacks=FAST if options.attacks is None else ",".join(options.attacks),
            out=out,
            options=replace(own.named(options.options(progress)), start_from=options.start_from),
        )
    if speaks:
        print_tables([Section(options.name or target, record, record_path=out)])
        typer.echo(f"record: {out}")
