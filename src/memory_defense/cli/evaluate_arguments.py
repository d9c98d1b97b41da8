"""What ``memdef evaluate`` was asked for, and whether it makes sense; torch is imported only once it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from memory_defense.attacks.suites import ALIASES, SUITES, check_attacks
from memory_defense.cli.arguments import check_run_images, check_source, radius, radius_in
from memory_defense.cli.machine import Machine
from memory_defense.data.places import check_size
from memory_defense.files import check_tensor_file
from memory_defense.names import (
    FALSE_ALARMS,
    PLANNED,
    PLANNED_HARDENED,
    RECIPES,
    check_classifier,
    check_false_alarms,
    check_norm,
    nearest,
)
from memory_defense.run_directory import HARDENED, RunDirectory, is_exported

if TYPE_CHECKING:
    from memory_defense.evaluation.robustness import Conduct
    from memory_defense.recipes.recipe import EvaluationPlan


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

    def check(self, known: Sequence[str]) -> None:
        """Raise ValueError for an attack that is neither `known` nor a suite, or a bad radius."""
        for name in self._names():
            if name not in (*known, *SUITES, *ALIASES):
                raise nearest(name, [*known, *SUITES, *ALIASES], "attack or suite")
        for text in self.epsilons or ():
            radius(text)

    def _names(self) -> list[str]:
        return [] if self.attacks is None else [one.strip() for one in self.attacks.split(",")]

    def apply(self, plan: EvaluationPlan) -> EvaluationPlan:
        """Return the narrowed plan; raise ValueError for an attack that it does not have or a bad radius."""
        from memory_defense.threat import Linf

        known = [*plan.attacks, *plan.white_box, *plan.minimum_norm]
        self.check(known)
        chosen, suite = set(known), plan.suite
        if self.attacks is not None:
            names = self._names()
            chosen = set(names) & chosen
            suite = next((name for name in reversed(names) if name in (*SUITES, *ALIASES)), None)
        balls = tuple(Linf(radius(text)) for text in self.epsilons or ()) or plan.linf
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
        from memory_defense.evaluation.metrics import Submissions
        from memory_defense.evaluation.robustness import Conduct

        return Conduct(
            submissions=Submissions(count=self.submissions), micro_batch=self.batch, bfloat16=self.bfloat16
        )


def detection_rate(wanted: bool, false_alarms: float | None) -> float | None:
    """Return the rate of false alarms to evaluate the flag at, None where that is not `wanted`.

    Raises ValueError for a rate without --detection, or outside (0, 1).
    """
    if not wanted and false_alarms is not None:
        raise ValueError("--false-alarms: only together with --detection, whose threshold it decides")
    if false_alarms is not None:
        check_false_alarms(false_alarms)
    return (FALSE_ALARMS if false_alarms is None else false_alarms) if wanted else None


def is_own(target: str) -> bool:
    """Return whether this names a classifier of the user's own, or an exported one, rather than a run directory."""
    return (":" in target and not Path(target).exists()) or is_exported(Path(target))


def check_evaluate(
    target: str, selection: Selection, own: Own, manner: Manner, *, false_alarms: float | None = None
) -> None:
    """Raise ValueError for what cannot be evaluated: options that exclude each other, values that make no sense."""
    if is_own(target):
        _check_own(target, selection, own, manner, false_alarms)
    else:
        _check_run(target, selection, own, manner, false_alarms)


def _check_run(target: str, selection: Selection, own: Own, manner: Manner, false_alarms: float | None) -> None:
    if only := [option for option in own.given() if option != "--data"]:
        raise ValueError(f"{', '.join(only)}: only for package.module:build, but {target} is a run directory")
    if false_alarms is not None and selection.knowledge is not None:
        raise ValueError(
            "--knowledge: not together with --detection, which attacks end-to-end and by what fights the flag"
        )
    manifest = RunDirectory(Path(target)).read_finished()
    recipe = str(manifest["recipe"]).partition(" on ")[0]
    if HARDENED not in manifest and recipe not in RECIPES:
        raise nearest(recipe, RECIPES, "recipe")
    selection.check(PLANNED_HARDENED if HARDENED in manifest else PLANNED[recipe])
    check_run_images(manifest, own.data, manner.data_dir)


def _check_own(target: str, selection: Selection, own: Own, manner: Manner, false_alarms: float | None) -> None:
    if false_alarms is not None:
        raise ValueError("--detection: only for a run directory, whose held-out images the threshold comes from")
    if own.data is None:
        raise ValueError("which images? give --data: a folder, a file of arrays, fashion-mnist or cifar10")
    if selection.knowledge is not None:
        raise ValueError("--knowledge: only for a run directory; a classifier of your own is its own surrogate")
    if not selection.epsilons:
        raise ValueError("how far may an image be moved? give --epsilon, such as 8/255; it may be repeated")
    if not is_exported(Path(target)):
        check_classifier(target)
    elif own.weights is not None:
        raise ValueError(f"--weights: only for package.module:build; {target} brings its own")
    elif not Path(target).exists():
        raise ValueError(f"{target} does not exist; write it with 'memdef export RUN'")
    check_attacks(selection.attacks or "fast")
    norm = own.norm or "linf"
    check_norm(norm)
    for text in selection.epsilons:
        radius_in(text, norm)
    check_size(own.size)
    check_source(own.data, manner.data_dir)
    for path in (own.weights, own.start_from):
        if path is not None:
            check_tensor_file(path)
