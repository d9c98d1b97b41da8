"""What ``memdef evaluate`` does: a run of ours by its recipe's plan, or anybody's classifier by a suite."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch
from rich.console import Console

from memory_defense.attacks.suites import ALIASES, SUITES, parts_of
from memory_defense.checks import nearest
from memory_defense.cli.machine import Machine, joined
from memory_defense.cli.progress import shown
from memory_defense.cli.shared import print_tables
from memory_defense.contracts import Ball
from memory_defense.data.own import load_images
from memory_defense.data.spec import DATASETS
from memory_defense.evaluation.metrics import Submissions
from memory_defense.evaluation.robustness import Conduct
from memory_defense.recipes.adapt import recipe_of
from memory_defense.recipes.any_model import Settings, evaluate
from memory_defense.recipes.assess import assess
from memory_defense.recipes.detect import FALSE_ALARMS, add_detection, calibrated
from memory_defense.recipes.flag import keep_flag
from memory_defense.recipes.images_from import splits_of
from memory_defense.recipes.load import load
from memory_defense.recipes.own_model import build_user_model
from memory_defense.recipes.recipe import EvaluationPlan
from memory_defense.recipes.run_directory import RunDirectory
from memory_defense.reporting import Section
from memory_defense.threat import Linf


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which part of a recipe's evaluation to run; None leaves the recipe's."""

    images: int | None = None
    attacks: str | None = None
    knowledge: Sequence[str] | None = None
    epsilons: Sequence[str] | None = None

    @property
    def partial(self) -> bool:
        """Whether attacks or knowledge are left out, so that the worst case is not the run's."""
        return self.attacks is not None or self.knowledge is not None

    def apply(self, plan: EvaluationPlan) -> EvaluationPlan:
        """Return the narrowed plan; raise ValueError for an attack that it does not have or a bad radius."""
        known = [*plan.attacks, *plan.white_box, *plan.minimum_norm]
        chosen, suite = set(known), plan.suite
        if self.attacks is not None:
            chosen, suite = set[str](), None
            for name in (one.strip() for one in self.attacks.split(",")):
                if name in SUITES or name in ALIASES:
                    suite = name
                elif name in known:
                    chosen.add(name)
                else:
                    raise nearest(name, [*known, *SUITES, *ALIASES], "attack or suite")
        balls: tuple[Ball, ...] = tuple(Linf(radius(text)) for text in self.epsilons or ()) or plan.linf
        return replace(
            plan,
            images=self.images or plan.images,
            linf=balls,
            attacks={name: attack for name, attack in plan.attacks.items() if name in chosen},
            white_box={name: attack for name, attack in plan.white_box.items() if name in chosen},
            minimum_norm={name: attack for name, attack in plan.minimum_norm.items() if name in chosen},
            suite=suite,
            knowledge=None if self.knowledge is None else tuple(self.knowledge),
            curve=plan.curve if self.attacks is None else None,
        )


@dataclass(frozen=True, kw_only=True)
class Own:
    """What is needed beside the selection for a classifier of the user's own."""

    data: str | None = None
    weights: Path | None = None
    size: int | None = None
    norm: str | None = None
    start_from: Path | None = None

    def given(self) -> list[str]:
        """Return the options that were set."""
        return [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value is not None]


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How it is carried out."""

    machine: Machine
    seed: int = 0
    submissions: int = 1
    batch: int | None = None
    bfloat16: bool = False
    data_dir: Path | None = None
    offline: bool = False

    def conduct(self) -> Conduct:
        """Return it for the evaluator."""
        return Conduct(
            submissions=Submissions(count=self.submissions), micro_batch=self.batch, bfloat16=self.bfloat16
        )


def detection_rate(wanted: bool, false_alarms: float | None) -> float | None:
    """Return the rate of false alarms to evaluate the flag at, None where that is not `wanted`.

    Raises ValueError for a rate without --detection.
    """
    if not wanted and false_alarms is not None:
        raise ValueError("--false-alarms: only together with --detection, whose threshold it decides")
    return (FALSE_ALARMS if false_alarms is None else false_alarms) if wanted else None


def radius(text: str) -> float:
    """Return a radius written as 8/255 or 0.03; raise ValueError for anything else or a negative one."""
    try:
        value = float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"epsilon {text!r} is not a number; write it as 8/255 or 0.03") from error
    if not 0 <= value <= 1:
        raise ValueError(f"epsilon is {text}, but pixels live in [0, 1]; for grey levels write {text}/255")
    return value


def run_evaluate(
    target: str,
    selection: Selection,
    own: Own,
    manner: Manner,
    out: Path | None,
    *,
    false_alarms: float | None = None,
) -> int | None:
    """Evaluate a run directory, or ``package.module:build``; return an exit status if other processes did it.

    With a rate of `false_alarms` the run's flag is chosen anew, kept, and evaluated as well.
    """
    is_own = ":" in target and not Path(target).exists()
    if not is_own:
        if only := [option for option in own.given() if option != "--data"]:
            raise ValueError(f"{', '.join(only)}: only for package.module:build, but {target} is a run directory")
        if false_alarms is not None and selection.knowledge is not None:
            raise ValueError(
                "--knowledge: not together with --detection, which attacks end-to-end and by what fights the flag"
            )
        RunDirectory(Path(target)).read()
    elif false_alarms is not None:
        raise ValueError("--detection: only for a run directory, whose held-out images the threshold comes from")
    elif own.data is None:
        raise ValueError("which images? give --data: a folder, a file of arrays, fashion-mnist or cifar10")
    elif selection.knowledge is not None:
        raise ValueError("--knowledge: only for a run directory; a classifier of your own is its own surrogate")
    elif not selection.epsilons:
        raise ValueError("how far may an image be moved? give --epsilon, such as 8/255; it may be repeated")
    device = manner.machine.ready()
    status = manner.machine.launch(sys.argv[1:])
    if status is not None:
        return status
    with joined(device) as speaks:
        if is_own:
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
            run, source=data, device=device, data_dir=manner.data_dir, offline=manner.offline, progress=progress
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
    parts_of(attacks)
    norm = own.norm or "linf"
    radii = [_any_radius(text, norm) for text in selection.epsilons or ()]
    with shown(silent=not speaks) as progress:
        data = load_images(
            own.data or "",
            size=own.size,
            device=device,
            data_dir=manner.data_dir if own.data in DATASETS else None,
            offline=manner.offline,
            progress=progress,
        )
        model = build_user_model(
            target, classes=len(data.classes), channels=data.channels, size=data.size, weights=own.weights
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


def _any_radius(text: str, norm: str) -> float:
    if norm == "linf":
        return radius(text)
    try:
        return float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"epsilon {text!r} is not a number; write it as 0.5 or 128/255") from error


def _sha256(path: Path | None) -> str:
    return "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
