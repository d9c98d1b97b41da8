"""The model as it is to be attacked: before its first question, and at whole grey levels, where that matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from memory_defense.attacks import attack
from memory_defense.attacks.suites import Suite, SuitePart, names_in
from memory_defense.checks import NoGradientError
from memory_defense.contracts import Classifier, Defense, Images, Labels, Logits, Progress, needs_gradient
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.attempt import on_grid
from memory_defense.evaluation.audit.attacks import black_box_stronger
from memory_defense.evaluation.audit.findings import LEARNED, ROUNDED, TOLD, Doubts, Findings
from memory_defense.evaluation.audit.probes import ABRUPT, FOLLOWED, MISLED, abrupt, misled
from memory_defense.evaluation.cases import Case, Later
from memory_defense.evaluation.invariance import undisturbed
from memory_defense.evaluation.pixels import Pictures
from memory_defense.evaluation.robustness import Evaluation
from memory_defense.foreign import MemoryShortError, ModelError, watched_outside
from memory_defense.passes import granules_of, regular
from memory_defense.progress import stage
from memory_defense.randomness import ImageDraws, seeded
from memory_defense.ranks import current
from memory_defense.wrappers import frozen, restored
from memory_defense.wrappers.untouched import Forgetful, Untouched

LOOKED_AT = 64
"""The most images that are asked about."""

_SAME = 1e-3
_EQUAL = 0.02
"""Spread of the clean images' leads, as a share of their mean, below which the answers are labels in disguise."""

_SATURATED = 1e-6
_STILL = 1e-6

LOOKING = "looking at what the answers depend on"
"""Stage before the attacks, on a display."""

LABELS_ALONE = "labels-alone"
"""Name of the short attack that is added where the answers look like labels."""

_CLEARLY = 0.02
"""Share of the images that gradients missed above which scores alone are tried: long searches find a few on
networks that mask nothing."""
_QUERIES = 1500

SCORES_ALONE = "nes"
"""Name of the attack in reserve, for defenses whose answers tell more than their gradients."""

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


def in_reserve(names: str) -> Suite:
    """Return what waits until gradients are found to be masked: an attack that makes its own from scores.

    Parameters
    ----------
    names
        What was asked for; suites of ours have such a reserve, unless it was asked for anyway.
    """
    known = set(names_in(names))
    if not _SUITES & known or SCORES_ALONE in known:
        return lambda _: ()
    return lambda _: (SuitePart(SCORES_ALONE, Later(SCORES_ALONE, partial(attack, "nes")), "outward"),)


def masked(evaluation: Evaluation, *, defense: Defense, doubts: Doubts, classes: int, seed: int) -> str:
    """Return why gradients are known to be masked, in words for a record; empty where they are not.

    Parameters
    ----------
    evaluation
        What the attacks found; it keeps the line of the audit's check, so that nothing is asked twice.
    defense
        What was attacked.
    doubts
        What was found out before.
    classes, seed
        As the audit has them.
    """
    if (doubts.misled or 0.0) > MISLED:
        return "added, as the gradient is not that of the answers"
    findings = Findings(defense, evaluation, classes, seed, doubts=doubts)
    try:
        with frozen(defense), restored(defense), seeded(seed, "audit"), granules_of(evaluation.granule):
            found = evaluation.asked["black-box"] = black_box_stronger(findings)
    except (ModelError, MemoryShortError, RuntimeError, ValueError):
        return ""  # the audit says so
    stronger = found.verdict == "fail" and (found.value or 0.0) > _CLEARLY
    return "added, as an attack without gradients broke what gradients had missed" if stronger else ""


class AlsoOnGrid(Undefended):
    """A plain classifier that is attacked as it is, and through whole grey levels as well."""

    def surrogates(self) -> Mapping[str, Classifier]:
        """Return the network, and the network at whole levels."""
        from memory_defense.evaluation.grid import ON_GRID, OnGrid  # few models need it

        return {**super().surrogates(), ON_GRID: OnGrid(self.network)}


def suspected(
    defense: Defense,
    untouched: Untouched,
    images: Pictures,
    labels: Labels,
    cases: Sequence[Case],
    *,
    seed: int,
    progress: Progress | None,
    outside: Sequence[str] = (),
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
    outside
        Files, connections and programs of the model's first answers.
    """
    case = first_gradient(cases)
    some, truth = images[:LOOKED_AT], labels[:LOOKED_AT]
    kept, share, levels, bare, first, heard = 0, 0.0, None, False, None, list[str]()
    astray, hard = None, None
    try:
        with stage(progress, LOOKING):
            with watched_outside() as heard:
                first = first_answers(defense, some, case, seed=seed)
                kept = after_clean(defense, untouched, some, seed=seed)
            if kept and case is not None:
                share = learned(defense, untouched, some, truth, case, seed=seed)
            if share > LEARNED:
                defense = _forgetful(defense, untouched)
            bare = tells_labels_only(defense, some, first, seed=seed)
            if case is not None:
                levels = between_levels(defense, some, case, seed=seed)
                astray, hard = followed(defense, some, case, seed=seed)
    except (ModelError, MemoryShortError, NoGradientError, RuntimeError, ValueError, IndexError):
        pass  # what is wrong with a model is for the evaluation to say
    if levels is not None and levels > TOLD:
        defense = _also_on_grid(defense)
    doubts = Doubts(
        kept=kept,
        learned=share,
        levels=levels,
        labels_only=bare or (astray or 0.0) > MISLED or (hard or 0.0) > ABRUPT,
        misled=astray,
        abrupt=hard,
        outside=(*outside, *heard),
        first=first,
    )
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


def first_gradient(cases: Sequence[Case]) -> Case | None:
    """Return the first case that follows a gradient in a ball that is not a point; None without any."""
    return next((one for one in cases if needs_gradient(one.attack) and one.ball.epsilon > 0), None)


def learned(
    model: Classifier, untouched: Untouched, images: Pictures, labels: Labels, case: Case, *, seed: int
) -> float:
    """Return the share of moved images that the model, as it is now, answers otherwise than untouched.

    They are what a short attack finds against the untouched model, and random points of the ball. The model is
    as it was afterwards.

    Parameters
    ----------
    model
        In eval mode.
    untouched
        What it was before its first answer.
    images, labels
        (N, C, H, W) and (N,); the first `LOOKED_AT` are asked about.
    case
        Its attack and its ball.
    seed
        Seed of the draws.
    """
    now, clean, labels = Untouched(model), images[:LOOKED_AT], labels[:LOOKED_AT]
    draws = ImageDraws.of(seed, "learned", len(clean), clean.device)
    fresh = regular(Forgetful(model, untouched))
    try:
        with frozen(model), undisturbed(seed):
            found = case.attack(fresh, clean, labels, case.ball, draws)
            points = torch.cat([found, case.ball.random_point(clean, draws.child("noise"))])
            before, again = _asked(fresh, points, seed), _asked(fresh, points, seed)
            now.put_back()
            after = _asked(regular(model), points, seed)
    finally:
        now.put_back()
    differ, by_chance = _differ(before, after), _differ(before, again)
    return max(0.0, float(differ.float().mean()) - float(by_chance.float().mean()))


def first_answers(model: Classifier, images: Images, case: Case | None, *, seed: int) -> tuple[Images, Logits]:
    """Return a few images, half of them moved to a random point of the ball, and what the model answers now."""
    some = images[: LOOKED_AT // 2]
    draws = ImageDraws.of(seed, "first", len(some), some.device)
    moved = some if case is None else torch.cat([some, case.ball.random_point(some, draws)])
    with frozen(model), undisturbed(seed):
        return moved, _asked(regular(model), moved, seed)


@torch.no_grad()
def after_clean(model: Classifier, untouched: Untouched, images: Images, *, seed: int) -> int:
    """Ask the model about the clean images, the untouched one if it keeps anything; return how much changed."""
    with frozen(model), undisturbed(seed):
        _asked(regular(model), images, seed)
        if untouched.changed():
            untouched.put_back()
            _asked(regular(model), images, seed)
        return untouched.changed()


def between_levels(model: Classifier, images: Images, case: Case, *, seed: int) -> float | None:
    """Return the share of images that the model tells apart by half a level; None where images are so.

    Where it seems to, other points are asked about: a model that rounds is now and then moved by chance.
    """
    images = images[:LOOKED_AT]
    if not on_grid(images):
        return None
    from memory_defense.evaluation.grid import tells_levels  # images of files only

    draws = ImageDraws.of(seed, "levels", len(images), images.device)
    with frozen(model), undisturbed(seed):
        told = tells_levels(model, images, case.ball, draws)
        if float(told.float().mean()) > TOLD:
            told &= tells_levels(model, images, case.ball, draws.child("again"))
    return float(told.float().mean())


def tells_labels_only(model: Classifier, images: Images, first: tuple[Images, Logits], *, seed: int) -> bool:
    """Whether the clean images' logits look one-hot, or so far apart that their softmax is, or stay as they are.

    Parameters
    ----------
    model, images
        The first images are asked about.
    first
        From `first_answers`; labels in disguise do not change where the image does.
    seed
        Seed of the draws.
    """
    points, answers = first
    half = len(points) // 2
    if half and bool((points[:half] != points[half:]).any()):
        apart = (answers[:half] - answers[half:]).abs().amax(1) > _STILL * answers[:half].abs().amax(1)
        if float(apart.float().mean()) < 0.5:
            return True
    with frozen(model), undisturbed(seed):
        logits = _asked(regular(model), images[:LOOKED_AT], seed).float()
    if logits.dim() != 2 or logits.shape[1] < 2 or len(logits) < 2 or not bool(logits.isfinite().all()):
        return False
    best = logits.topk(2).values
    lead = best[:, 0] - best[:, 1]
    others = 1 - logits.softmax(1).amax(1)
    equal = bool(lead.std() < _EQUAL * lead.mean().abs())
    return equal or bool((others < _SATURATED).float().mean() > 0.5)


def followed(model: Defense, images: Images, case: Case, *, seed: int) -> tuple[float | None, float | None]:
    """Return at which share of images a plain classifier's gradient misleads, and where its answers are abrupt.

    None for either where it cannot be told, and for a defense that says itself how it is to be attacked.
    """
    if not isinstance(model, Undefended):
        return None, None
    images = images[:FOLLOWED]
    draws = ImageDraws.of(seed, "followed", len(images), images.device)
    with frozen(model), undisturbed(seed):
        plain = _Seeded(regular(model), seed)
        return misled(plain, images, case.ball), abrupt(plain, images, case.ball, draws)


@dataclass(frozen=True)
class _Seeded:
    """A model that draws the same at every call."""

    model: Classifier
    seed: int

    def __call__(self, images: Images) -> Logits:
        with seeded(self.seed, "doubts"):
            return self.model(images)


@torch.no_grad()
def _asked(model: Classifier, points: Images, seed: int) -> Logits:
    with seeded(seed, "doubts"):
        return torch.cat([model(part) for part in torch.split(points, LOOKED_AT)])


def _differ(one: Logits, other: Logits) -> Tensor:
    """Return (B,) bool: another answer, or logits that differ by more than rounding."""
    apart = (one - other).square().sum(1).sqrt() > _SAME * one.square().sum(1).sqrt()
    return apart | (one.argmax(1) != other.argmax(1)) | ~other.isfinite().all(1)
