"""The model as it is to be attacked: before its first question, and at whole grey levels, where that matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from memory_defense.attacks import attack
from memory_defense.attacks.suites import Suite, SuitePart, names_in
from memory_defense.checks import NoGradientError
from memory_defense.contracts import Classifier, Defense, Images, Labels, Progress
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.doubts import (
    LEARNED,
    LOOKED_AT,
    ROUNDED,
    TOLD,
    Doubts,
    after_clean,
    between_levels,
    first_gradient,
    learned,
    tells_labels_only,
)
from memory_defense.evaluation.elsewhere import watched_outside
from memory_defense.evaluation.grid import ON_GRID, OnGrid
from memory_defense.evaluation.robustness import Evaluation
from memory_defense.foreign import MemoryShortError, ModelError
from memory_defense.ranks import current
from memory_defense.wrappers.untouched import Forgetful, Untouched

LABELS_ALONE = "labels-alone"
"""Name of the short attack that is added where the answers look like labels."""

_QUERIES = 1500
_SUITES = frozenset({"fast", "brief"})


def with_labels_alone(suite: Suite, names: str, doubts: Doubts) -> Suite:
    """Return the suite with a short attack that sees labels alone, where the answers tell hardly more.

    Parameters
    ----------
    suite, names
        What was asked for; suites of ours are added to, others are what they are called.
    doubts
        What was found out about the model.
    """
    if not doubts.labels_only or not _SUITES & set(names_in(names)):
        return suite
    part = SuitePart(LABELS_ALONE, attack("hop-skip-jump", queries=_QUERIES), "outward")
    return lambda norm: (*suite(norm), part)


class AlsoOnGrid(Undefended):
    """A plain classifier that is attacked as it is, and through whole grey levels as well."""

    def surrogates(self) -> Mapping[str, Classifier]:
        """Return the network, and the network at whole levels."""
        return {**super().surrogates(), ON_GRID: OnGrid(self.network)}


def suspected(
    defense: Defense,
    untouched: Untouched,
    images: Images,
    labels: Labels,
    cases: Sequence[Case],
    *,
    seed: int,
    progress: Progress | None,
) -> tuple[Defense, Doubts]:
    """Return the defense as it is to be attacked, and what was found out about it by asking.

    Only a plain classifier is ever replaced: whoever publishes surrogates says how to attack the defense.

    Parameters
    ----------
    defense
        In its own precision, as it is called.
    untouched
        What it was before its first answer.
    images, labels
        (N, C, H, W) and (N,); the first are asked about.
    cases
        The first that follows a gradient is what is tried.
    seed
        Seed of the draws.
    progress
        Told what was found.
    """
    case = first_gradient(cases)
    some, truth = images[:LOOKED_AT], labels[:LOOKED_AT]
    kept, share, levels, bare, outside = 0, 0.0, None, False, list[str]()
    try:
        with watched_outside() as outside:
            kept = after_clean(defense, untouched, some, seed=seed)
        if kept and case is not None:
            share = learned(defense, untouched, some, truth, case, seed=seed)
        if share > LEARNED:
            defense = _forgetful(defense, untouched)
        bare = tells_labels_only(defense, some, seed=seed)
        if case is not None:
            levels = between_levels(defense, some, case, seed=seed)
    except (ModelError, MemoryShortError, NoGradientError, RuntimeError, ValueError, IndexError):
        pass  # what is wrong with a model is for the evaluation to say
    if levels is not None and levels > TOLD:
        defense = _also_on_grid(defense)
    doubts = Doubts(kept=kept, learned=share, levels=levels, labels_only=bare, outside=tuple(outside))
    _tell(doubts, progress)
    return defense, doubts


def doubted(
    defense: Defense, untouched: Untouched, evaluation: Evaluation, doubts: Doubts, *, seed: int
) -> tuple[Defense, Doubts]:
    """Return the defense as it should have been attacked, itself where it was, and what is known of it now.

    Parameters
    ----------
    defense, untouched, doubts
        As they were when the evaluation began.
    evaluation
        What it found.
    seed
        Seed of the draws.
    """
    case = first_gradient(evaluation.cases)
    changed = 0 if _is_forgetful(defense) else untouched.changed()
    (somewhere,) = current().total(changed)
    if somewhere and case is not None:
        try:
            share = learned(defense, untouched, evaluation.images, evaluation.labels, case, seed=seed)
        except (ModelError, MemoryShortError, NoGradientError, RuntimeError, ValueError):
            share = 0.0
        doubts = replace(doubts, kept=max(changed, doubts.kept or 0), learned=max(share, doubts.learned))
        (elsewhere,) = current().total(int(share > LEARNED))
        if elsewhere:
            defense = _forgetful(defense, untouched)
    rounded = sum(one.rounded for one in evaluation.state.cases) / len(evaluation.labels)
    if rounded > ROUNDED:
        defense = _also_on_grid(defense)
    return defense, replace(doubts, rounded=max(rounded, doubts.rounded))


def _forgetful(defense: Defense, untouched: Untouched) -> Defense:
    if not isinstance(defense, Undefended) or _is_forgetful(defense):
        return defense
    return type(defense)(Forgetful(defense.network, untouched))


def _also_on_grid(defense: Defense) -> Defense:
    if not isinstance(defense, Undefended) or isinstance(defense, AlsoOnGrid):
        return defense
    return AlsoOnGrid(defense.network)


def _is_forgetful(defense: Defense) -> bool:
    return isinstance(defense, Undefended) and isinstance(defense.network, Forgetful)


def _tell(doubts: Doubts, progress: Progress | None) -> None:
    if progress is None:
        return
    if doubts.learned > LEARNED:
        progress.note("the model learns from what it is asked; it is attacked as it was before its first answer")
    if doubts.levels is not None and doubts.levels > TOLD:
        progress.note("the model tells whole grey levels from others; it is attacked at whole levels as well")
