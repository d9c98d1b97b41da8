"""Checks of the options of ``memdef evaluate``, without torch, and the part of a recipe's plan that they select."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from memory_defense.attacks.suites import FAST, check_attacks, names_in
from memory_defense.cli.arguments import check_run_images, radius
from memory_defense.cli.evaluate_arguments import EvaluateArguments
from memory_defense.cli.own_options import OwnOptions
from memory_defense.evaluation.place import GALLERY, check_place
from memory_defense.files import check_tensor_file
from memory_defense.names import (
    PLANNED,
    PLANNED_HARDENED,
    RECIPES,
    check_false_alarms,
    check_name,
    check_norm,
    check_rejection_cost,
)
from memory_defense.outputs import beside, check_file
from memory_defense.run_directory import HARDENED, HARDENED_CERTIFIED, RunDirectory
from memory_defense.systems.doors import check_no_pickle, door_of, path_of
from memory_defense.zoo import is_entry

if TYPE_CHECKING:
    from memory_defense.recipes.recipe import EvaluationPlan


def is_classifier(target: str) -> bool:
    """Return whether this names a classifier by one of its doors, or an export, rather than a run directory."""
    if is_entry(target):
        return False
    check_no_pickle(target)
    return door_of(target) != "run"


def check_evaluate(options: EvaluateArguments) -> None:
    """Raise ValueError for options that exclude each other, and for values out of range."""
    if options.false_alarms is not None:
        if not options.detection:
            raise ValueError("--false-alarms: only together with --detection, whose threshold it decides")
        check_false_alarms(options.false_alarms)
    for cost in options.rejection_cost or ():
        check_rejection_cost(cost)
    if is_classifier(options.target):
        _check_classifier(options)
        sources = {
            "--weights": options.weights,
            "--start-from": options.start_from,
            "--data": Path(options.data or ""),
        }
        check_place(place_of(options), {"the classifier": path_of(options.target), **sources})
    else:
        _check_run(options)
        run = RunDirectory(Path(options.target))
        check_place(place_of(options))
        check_file(run.gallery if place_of(options) == run.record else beside(place_of(options), GALLERY))
        if options.detection:
            check_file(run.manifest_path)


def place_of(options: EvaluateArguments) -> Path:
    """Return where the record goes: where `--out` says, else beside the run, or here for a classifier."""
    if options.out is not None:
        return options.out
    if is_classifier(options.target):
        return Path("record.json")
    run, partial = RunDirectory(Path(options.target)), options.attacks is not None or options.knowledge is not None
    if options.gate is not None:
        return run.path / "gated.json"
    return run.path / "partial.json" if partial else run.record


def narrowed(plan: EvaluationPlan, options: EvaluateArguments) -> EvaluationPlan:
    """Return the part of a recipe's plan that the options select.

    Raises
    ------
    ValueError
        For an unknown attack, one that works in none of the plan's norms, or a radius outside [0, 1].
    """
    from memory_defense.threat import Linf

    known = [*plan.attacks, *plan.white_box, *plan.minimum_norm, *plan.unbounded]
    _check_selection(options, known, [ball.norm for ball in (*plan.linf, *plan.l2)])
    chosen, suite = set(known), plan.suite
    if options.attacks is not None:
        names = names_in(options.attacks)
        chosen = set(names) & chosen
        suite = ",".join(name for name in names if name not in chosen) or None
    return replace(
        plan,
        images=options.images or plan.images,
        linf=tuple(Linf(radius(text)) for text in options.epsilon or ()) or plan.linf,
        attacks={name: attack for name, attack in plan.attacks.items() if name in chosen},
        white_box={name: attack for name, attack in plan.white_box.items() if name in chosen},
        minimum_norm={name: attack for name, attack in plan.minimum_norm.items() if name in chosen},
        unbounded={name: attack for name, attack in plan.unbounded.items() if name in chosen},
        suite=suite,
        knowledge=None if options.knowledge is None else tuple(options.knowledge),
        curve=plan.curve if options.attacks is None else None,
    )


def _check_selection(options: EvaluateArguments, planned: Sequence[str], norms: Sequence[str] = ()) -> None:
    if options.attacks is not None:
        check_attacks(options.attacks, planned, norms)
    for text in options.epsilon or ():
        radius(text)


def _check_run(options: EvaluateArguments) -> None:
    OwnOptions.of(options).refuse({"--norm": options.norm, "--start-from": options.start_from})
    if options.gate is not None:
        radius(options.gate, "l2")
        if options.detection:
            raise ValueError("--gate: not together with --detection; a gate is a flag that needs no threshold")
    if options.detection and options.knowledge is not None:
        raise ValueError(
            "--knowledge: not together with --detection, which attacks end-to-end and by what evades the flag"
        )
    manifest = RunDirectory(Path(options.target)).read_finished()
    recipe = str(manifest["recipe"]).partition(" on ")[0]
    hardened = HARDENED in manifest or HARDENED_CERTIFIED in manifest
    if not hardened:
        check_name(recipe, RECIPES, "recipe")
    norms = ("linf",) if hardened else ()  # those of a recipe's plan are checked with it
    _check_selection(options, PLANNED_HARDENED if hardened else PLANNED[recipe], norms)
    check_run_images(manifest, options.data, options.data_dir)


def _check_classifier(options: EvaluateArguments) -> None:
    if options.gate is not None:
        raise ValueError(
            "--gate: only for a run directory whose defense proves its answers; leave it out, and smooth your own "
            "classifier with 'memdef certify'"
        )
    if options.rejection_cost:
        raise ValueError(
            "--rejection-cost: only for a run directory; call evaluation.selection.select for your own"
        )
    if options.detection:
        raise ValueError("--detection: only for a run directory, whose held-out images the threshold comes from")
    if options.knowledge is not None:
        raise ValueError("--knowledge: only for a run directory; your own classifier is its own surrogate")
    if not options.epsilon:
        raise ValueError(
            "the largest change that an attack may make is missing; give --epsilon, such as 8/255; it may be "
            "repeated"
        )
    OwnOptions.of(options).check()
    norm = options.norm or "linf"
    check_norm(norm)
    check_attacks(FAST if options.attacks is None else options.attacks, norms=(norm,))
    for text in options.epsilon:
        radius(text, norm)
    if options.start_from is not None:
        check_tensor_file(options.start_from)
