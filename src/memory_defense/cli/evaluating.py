"""What ``memdef evaluate`` does: a run of ours by its recipe's plan, or anybody's classifier by a suite."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from memory_defense.cli.arguments import radius_in
from memory_defense.cli.evaluate_arguments import Manner, Own, Selection, is_own
from memory_defense.cli.machine import joined
from memory_defense.cli.progress import shown
from memory_defense.cli.shared import print_tables
from memory_defense.data.own import load_images
from memory_defense.data.spec import DATASETS
from memory_defense.evaluation.flag import keep_flag
from memory_defense.reporting import Section
from memory_defense.run_directory import RunDirectory, is_exported
from memory_defense.systems.load import load
from memory_defense.systems.own_model import build_user_model
from memory_defense.workflows.assess import add_detection, assess, calibrated
from memory_defense.workflows.evaluate import Settings, evaluate
from memory_defense.workflows.run_images import splits_of
from memory_defense.workflows.run_recipe import recipe_of


def run_evaluate(
    target: str,
    selection: Selection,
    own: Own,
    manner: Manner,
    out: Path | None,
    *,
    false_alarms: float | None = None,
) -> int | None:
    """Evaluate a run directory, an export, or ``package.module:build``; return an exit status if others did it.

    `evaluate_arguments.check_evaluate` has found nothing wrong with what was asked for.

    With a rate of `false_alarms` the run's flag is chosen anew, kept, and evaluated as well.
    """
    device = manner.machine.ready()
    status = manner.machine.launch(sys.argv[1:])
    if status is not None:
        return status
    with joined(device) as speaks:
        if is_own(target):
            _own(target, selection, own, manner, device, out or Path("record.json"), speaks=speaks)
        else:
            _run(Path(target), selection, manner, device, out, own.data, false_alarms=false_alarms, speaks=speaks)
    return None


def _run(
    path: Path,
    selection: Selection,
    manner: Manner,
    device: torch.device,
    out: Path | None,
    data: str | None,
    *,
    false_alarms: float | None,
    speaks: bool,
) -> None:
    run = RunDirectory(path)
    chosen = recipe_of(run)
    plan = selection.apply(chosen.evaluation)
    if selection.partial and out is None:
        out = path / "partial.json"
    defense = load(path).to(device)
    with shown(silent=not speaks) as progress:
        splits = splits_of(
            run,
            source=data,
            device=device,
            data_dir=manner.data_dir,
            offline=manner.offline,
            may_update=True,
            progress=progress,
        )
        flag = None if false_alarms is None else calibrated(defense, splits.held_out, false_alarms)
        record = assess(
            replace(chosen, evaluation=plan),
            run,
            defense,
            splits,
            seed=manner.seed,
            out=out,
            conduct=manner.conduct(),
            progress=progress,
        )
        if flag is not None and speaks:  # the attacks on the flag are not shared out
            keep_flag(run, flag)
            place = out or run.record
            record = add_detection(
                record, place, defense, splits, plan, flag, conduct=manner.conduct(), progress=progress
            )
    if speaks:
        print_tables([Section(chosen.summary, record)])
        Console().print(f"record: {out or run.record}", highlight=False)


def _own(
    target: str,
    selection: Selection,
    own: Own,
    manner: Manner,
    device: torch.device,
    out: Path,
    *,
    speaks: bool,
) -> None:
    attacks = selection.attacks or "fast"
    norm = own.norm or "linf"
    radii = [radius_in(text, norm) for text in selection.epsilons or ()]
    with shown(silent=not speaks) as progress:
        data = load_images(
            own.data or "",
            size=own.size,
            device=device,
            data_dir=manner.data_dir if own.data in DATASETS else None,
            offline=manner.offline,
            may_update=True,
            progress=progress,
        )
        model = (
            load(target)
            if is_exported(Path(target))
            else build_user_model(
                target, classes=len(data.classes), channels=data.channels, size=data.size, weights=own.weights
            )
        )
        subset = data.images.first(min(selection.images or len(data.images), len(data.images)))
        record = evaluate(
            model.to(device),
            subset.floats(),
            subset.labels,
            epsilon=radii,
            norm=norm,
            attacks=attacks,
            out=out,
            settings=Settings(
                seed=manner.seed,
                ids=subset.ids,
                start_from=own.start_from,
                defense=target,
                dataset=data.name,
                weights_sha256=_sha256(own.weights),
                conduct=manner.conduct(),
                progress=progress,
            ),
        )
    if speaks:
        print_tables([Section(target, record, record_path=out)])
        Console().print(f"record: {out}", highlight=False)


def _sha256(path: Path | None) -> str:
    return "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
