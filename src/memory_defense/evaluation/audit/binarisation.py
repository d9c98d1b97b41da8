"""The binarisation test (Zimmermann et al. 2022): can the attack break a model that is known to break?

For each image x, random points x_i on the surface of its ball are drawn, and phi is what the defense computes: what
enters its last linear layer, or else its logits. The furthest point p in phi is planted as an adversarial example:

    w = phi(p) - phi(x),   s_i = <w, phi(x_i) - phi(x)>,   t = (max(0, max_{i != p} s_i) + |w|^2) / 2

The readout answers "adversarial" where <w, phi - phi(x)> > t. By Cauchy and Schwarz p lies beyond t and every other
point, as well as x, on this side: the model's robust accuracy is 0 by construction, and random points do not show
it. The attack starts at x. Where it finds nothing it is too weak for this defense, or led astray by its gradient.

An honest model may be so curved that the attack, begun at x, stops short. So where it misses some, it is begun
again at the random point that comes next to the planted one, in small balls at first; where that leaves a doubt,
further points are planted. A gradient that misleads does so from there too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from memory_defense.contracts import Ball, Classifier, Images, Logits, PerImage, Rows
from memory_defense.evaluation.attempt import with_room
from memory_defense.evaluation.audit.findings import Findings, gradient_free, line
from memory_defense.evaluation.audit.probes import surface_point
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.record import AuditLine
from memory_defense.evaluation.state import CaseState
from memory_defense.foreign import MemoryShortError
from memory_defense.noticed import least, noticing
from memory_defense.passes import granule, pass_limit
from memory_defense.randomness import ImageDraws, seeded
from memory_defense.threat import ball as ball_of
from memory_defense.wrappers import modules_of, rows_of

IMAGES = 32
"""Images that a readout is made for, in one round."""

_ROUNDS = 4
"""Rounds at most; another one is made while those before it leave a doubt."""

_DOUBT, _SURE = 0.05, 0.01
"""Chance of so few at the rate `_SUCCESS` below which it fails: after the last round, and after one before it."""

_SCALES = (0.25, 0.5, 1.0)
"""Radii of the balls around the other start, in radii of the ball, one after the other."""

POINTS = 64
"""Random points on the surface of each ball, the planted one among them."""

SMALL_SET = 2000
"""The most images of an evaluation for which the test is run unasked."""

BUDGET = 20.0
"""Seconds that the attacks may take, judged by what they took in the evaluation."""

_FEWEST = 8
_STILL = ", for which what the defense computes is the same all over the ball: no attack through it proves anything"
_SUCCESS = 0.95
_GAP = 1e-3
"""The planted point must lead the others by this share of its own score."""

_OUT_OF_REACH = -10.0
"""Logit of the classes beyond the two: losses that order several classes find enough of them, and none wins."""

Features = Callable[[Classifier, Images], Tensor]
"""A model, and images (B, C, H, W), to phi: what the readouts see (B, D)."""


@dataclass(frozen=True, eq=False)
class Readout:
    """A classifier for each row: class 0 near its clean image, class 1 beyond its threshold.

    Parameters
    ----------
    features
        phi.
    target
        The model that is tested, restricted to the same rows.
    centre, direction
        (B, D) phi(x) and w.
    threshold
        (B,) t, positive.
    classes
        Columns of the answer, at least 2.
    """

    features: Features
    target: Classifier
    centre: Tensor
    direction: Tensor
    threshold: PerImage
    classes: int

    def __call__(self, images: Images) -> Logits:
        """Return logits (B, K): 0, then the score, which is -1 at the clean image and 0 at the threshold."""
        offset = self.features(self.target, images) - self.centre
        score = (offset * self.direction).sum(1) / self.threshold - 1
        rest = score.new_full((len(images), self.classes - 2), _OUT_OF_REACH)
        return torch.cat([torch.zeros_like(score)[:, None], score[:, None], rest], 1)

    def rows(self, index: Rows) -> Readout:
        """Return the classifier for these rows."""
        parts = (self.centre[index], self.direction[index], self.threshold[index])
        return Readout(self.features, rows_of(self.target, index), *parts, self.classes)


@contextmanager
def features_of(model: Classifier, images: Images) -> Generator[Features]:
    """Yield the features: what enters the linear layer whose output the model returns, or else its logits."""
    entered: list[Tensor] = []
    seen: dict[nn.Module, tuple[object, object]] = {}
    linear = [one for one in modules_of(model) if isinstance(one, nn.Linear)]

    def look(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        if inputs:
            seen[module] = (inputs[0], output)

    handles = [one.register_forward_hook(look) for one in linear]
    try:
        with torch.no_grad():
            logits, most = _split(model, images)
            if most is not None:  # one pass of as many as fit, whose outputs lie side by side
                seen.clear()
                logits = _first(model, most)(images[:most])
    finally:
        for handle in handles:
            handle.remove()
    last = [one for one, (entry, out) in seen.items() if _ends_in(entry, out, logits)]

    def penultimate(target: Classifier, points: Images) -> Tensor:
        entered.clear()
        _, most = _split(target, points)
        if most is not None:
            rows = torch.arange(len(points), device=points.device)
            parts = [rows[start : start + most] for start in range(0, len(rows), most)]
            return torch.cat([penultimate(rows_of(target, part), points[part]) for part in parts])
        found = entered[-1][: len(points)]
        return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found

    def answers(target: Classifier, points: Images) -> Tensor:
        return target(points)

    if not last:
        yield answers
        return
    handle = last[0].register_forward_hook(lambda _module, inputs, _output: entered.append(inputs[0]))
    try:
        yield answers if _hidden(penultimate, model, images) else penultimate
    finally:
        handle.remove()


def _ends_in(entry: object, out: object, logits: Logits) -> bool:
    """Return whether a layer that was given features (B, F) returned these logits; some give and take anything."""
    if not (isinstance(entry, Tensor) and isinstance(out, Tensor)):
        return False
    try:
        return entry.dim() == 2 and torch.equal(out[: len(logits)], logits)
    except RuntimeError:  # inside `torch.vmap` a tensor is one no longer when the call is over
        return False


def _split(model: Classifier, images: Images) -> tuple[Logits, int | None]:
    """Return the logits, and how many images were in one of the passes if it took several; None if it took one."""
    with noticing() as heard:
        logits = model(images)
    most = least(heard.smallest, pass_limit())
    return logits, most if most is not None and most < len(images) else None


def _first(model: Classifier, count: int) -> Classifier:
    """Return the model for the first images."""
    return rows_of(model, torch.arange(count))


def _hidden(features: Features, model: Classifier, images: Images) -> bool:
    """Whether the answers have a gradient and these features none, as inside a reentrant checkpoint."""
    with torch.enable_grad(), seeded(0, "features"):
        leaf = images[: granule()].detach().clone().requires_grad_()
        few = _first(model, len(leaf))
        return not features(few, leaf).requires_grad and few(leaf).requires_grad


class Plant(NamedTuple):
    """What is planted."""

    readout: Readout
    """One for each image."""
    made: PerImage
    """(B,) bool: whether it could be made."""
    points: Images
    """The adversarial images."""
    next_best: Images
    """The random points that score highest beside them."""


@torch.no_grad()
def plant(
    target: Classifier, features: Features, clean: Images, ball: Ball, draws: ImageDraws, classes: int
) -> Plant:
    """Return a readout for each image, whether it could be made, the adversarial images, and the next best ones.

    It cannot be made where phi does not tell the furthest point from the second one, as where a defense gives the
    same answer all over the ball.
    """
    centre = features(target, clean)
    offsets = torch.stack(  # (P, B, D)
        [features(target, surface_point(ball, clean, draws.child(one))) - centre for one in range(POINTS)]
    )
    furthest: Rows = offsets.square().sum(2).argmax(0)  # (B,)
    each = torch.arange(len(clean), device=clean.device)
    direction = offsets[furthest, each]
    scores = (offsets * direction).sum(2)  # (P, B)
    own = scores[furthest, each]
    best, second = scores.scatter(0, furthest[None], -torch.inf).max(0)
    others = best.clamp(min=0)
    made = (own > 0) & (others < (1 - _GAP) * own)
    threshold = torch.where(made, (own + others) / 2, torch.ones_like(own))
    planted, next_best = torch.empty_like(clean), torch.empty_like(clean)
    for number in range(POINTS):  # drawn anew, as all points of large images would fill the memory
        for chosen, points in ((furthest, planted), (second, next_best)):
            rows = (chosen == number).nonzero().squeeze(1)
            if len(rows):
                points[rows] = surface_point(ball, clean[rows], draws.child(number).rows(rows))
    return Plant(Readout(features, target, centre, direction, threshold, classes), made, planted, next_best)


@dataclass(frozen=True, eq=False)
class PutBack:
    """A readout that is asked about points elsewhere: about what is nearest to them in the clean images' balls."""

    readout: Readout
    ball: Ball
    clean: Images

    def __call__(self, images: Images) -> Logits:
        """Return the readout's logits (B, K)."""
        return self.readout(self.ball.project(images, self.clean))

    def rows(self, index: Rows) -> PutBack:
        """Return the classifier for these rows."""
        return PutBack(self.readout.rows(index), self.ball, self.clean[index])


def _suitable(findings: Findings) -> tuple[Ball | None, list[tuple[Case, CaseState]]]:
    """Return a ball and its gradient attacks on the exact model, in order: the ball with the most of them."""
    best: tuple[Ball | None, list[tuple[Case, CaseState]]] = (None, [])
    for ball in findings.balls:
        runs = [
            (case, one)
            for case, one in findings.tried
            if case.ball == ball and case.purpose != "curve" and case.knowledge == findings.exact
            if not gradient_free(case) and not findings.transfers(case)
        ]
        if ball.epsilon > 0 and len(runs) > len(best[1]):
            best = (ball, runs)
    return best


def _affordable(runs: list[tuple[Case, CaseState]], images: int) -> list[Case]:
    """Return the cases that together stay in the budget, if they take here what they took in the evaluation."""
    spent, cases = 0.0, list[Case]()
    for case, one in runs:
        spent += one.seconds / int(one.done.sum()) * images
        if spent <= BUDGET:
            cases.append(case)
    return cases


def binarisation(findings: Findings) -> AuditLine:
    """Run the evaluation's gradient attacks, in their order, against planted adversarial examples."""
    right = findings.evaluation.correct.nonzero().squeeze(1)
    ball, runs = _suitable(findings)
    cases = _affordable(runs, min(IMAGES, len(right)))
    share, used, said, chance, reason = None, 0, "", 1.0, _obstacle(findings, runs, cases, right)
    if not reason and ball is not None:
        count = _counted(findings, ball, cases, right)
        used, chance = count.usable, at_most(count.found, count.usable)
        if used >= _FEWEST:
            share, said = count.found / used, f", {count.again} of them on a second try" if count.again else ""
        elif 2 * count.still > count.shown:  # nothing can be planted, and nothing that an attack follows can change
            share, used, said, chance = 0.0, count.still, _STILL, 0.0
        else:
            reason = "what the defense computes tells no single point of the ball from the others"
    return line(
        "the attack breaks a model that is known to break",
        None if share is None else chance < _DOUBT,
        share,
        "share of images on which the evaluation's gradient attacks find an adversarial example of a readout of "
        f"the defense's own features that has one in the ball by construction; fails where chance explains so few "
        f"at a rate of {_SUCCESS:g} less than {_DOUBT:g} of the time"
        + (f"; not run: {reason}" if reason else f" ({used} images{said})")
        + _left_out(runs, cases),
        "raise steps and restarts, use another loss, or differentiate a stand-in (wrappers.Bpda): until the attack "
        "passes, what it leaves standing proves nothing",
    )


def at_most(found: int, count: int) -> float:
    """Return the chance that at most `found` of `count` succeed where each does so with the chance `_SUCCESS`."""
    return sum(math.comb(count, one) * _SUCCESS**one * (1 - _SUCCESS) ** (count - one) for one in range(found + 1))


def _left_out(runs: Sequence[object], cases: Sequence[object]) -> str:
    """Return which attacks the time was too short for, or nothing."""
    missing = len(runs) - len(cases)
    return (
        f"; {missing} of {len(runs)} attacks left out, which would take more than {BUDGET:g} s" if missing else ""
    )


def _obstacle(findings: Findings, runs: Sequence[object], cases: Sequence[Case], rows: Rows) -> str:
    """Return why the test cannot run, or nothing."""
    reasons = {
        f"more than {SMALL_SET} images; ask for it": findings.binarisation is None
        and len(findings.evaluation.images) > SMALL_SET,
        "not asked for": findings.binarisation is False,
        "no gradient attack on the exact model in a bounded ball": not runs,
        f"the attacks would take more than {BUDGET:g} s": not cases,
        f"fewer than {_FEWEST} images are classified correctly": len(rows) < _FEWEST,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


class _Count(NamedTuple):
    """Readouts: shown, could be made, broken, of these on a second try only; the same all over the ball."""

    shown: int = 0
    usable: int = 0
    found: int = 0
    again: int = 0
    still: int = 0

    def and_more(self, other: _Count) -> _Count:
        return _Count(*(one + more for one, more in zip(self, other, strict=True)))


def _counted(findings: Findings, ball: Ball, cases: Sequence[Case], right: Rows) -> _Count:
    """Return the count of the first round, and of those after it that it takes to be sure."""
    total, size = _Count(), min(IMAGES, len(right))
    steps = max(getattr(case.attack, "steps", 1) for case in cases)
    for number in range(_ROUNDS):
        if number and findings.too_long(size * (POINTS + 2 * steps), 2 * size * steps):
            break
        total = total.and_more(_round(findings, ball, cases, right.roll(-number * size)[:size], number))
        few = total.usable < _FEWEST or total.found >= _SUCCESS * total.usable
        if few or at_most(total.found, total.usable) < _SURE:
            break
    return total


def _round(findings: Findings, ball: Ball, cases: Sequence[Case], rows: Rows, number: int) -> _Count:
    """Plant once for each of these images; run the cases, one after the other, and the best of them once more."""
    clean = findings.evaluation.images[rows]
    target = findings.surrogate(findings.exact, clean)
    draws = findings.draws("binarisation", len(findings.evaluation.images)).rows(rows)
    draws = draws.child("round", number) if number else draws
    with features_of(target, clean) as features:
        made = plant(target, features, clean, ball, draws.child("points"), max(4, findings.classes))
        usable = made.made.nonzero().squeeze(1)
        standing, broke = usable, [0] * len(cases)
        for at, case in enumerate(cases):
            if len(standing):
                own = draws.child(case.name).rows(standing)
                fooled = _fooled(case, made.readout.rows(standing), clean[standing], own)
                standing, broke[at] = standing[~fooled], int(fooled.sum())
        first = len(usable) - len(standing)
        if 0 < first < _SUCCESS * len(usable):
            best = cases[broke.index(max(broke))]
            standing = _begun_elsewhere(best, made, clean, standing, draws.child("again"))
        still = (made.readout.direction == 0).all(1) & (made.points != clean).flatten(1).any(1)
    found = len(usable) - len(standing)
    return _Count(len(rows), len(usable), found, found - first, int(still.sum()))


def _begun_elsewhere(case: Case, made: Plant, clean: Images, standing: Rows, draws: ImageDraws) -> Rows:
    """Return what still stands once the attack began at the next best points, and went on where it stopped."""
    here = made.next_best
    for number, scale in enumerate(_SCALES):
        if len(standing) == 0:
            break
        around = PutBack(made.readout.rows(standing), case.ball, clean[standing])
        near = replace(case, ball=ball_of(case.ball.norm, scale * case.ball.epsilon))
        tried = _tried(near, around, here[standing], draws.child(number).rows(standing))
        here = here.index_copy(0, standing, case.ball.project(tried, clean[standing]))
        with torch.no_grad():
            won = around(here[standing]).argmax(1) == 1
        standing = standing[~won]
    return standing


def _fooled(case: Case, readout: Readout, clean: Images, draws: ImageDraws) -> PerImage:
    """Return (B,) bool: the attack found class 1 inside the ball."""
    tried = _tried(case, readout, clean, draws)
    with torch.no_grad():
        return case.ball.contains(tried, clean) & (readout(tried).argmax(1) == 1)


def _tried(case: Case, model: Classifier, images: Images, draws: ImageDraws) -> Images:
    """Return what the attack makes of the images of class 0; the images where it has no gradient to follow."""
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    try:
        return with_room(partial(case.attack, model, images, labels, case.ball, draws), case.name, images.device)
    except MemoryShortError:
        raise
    except ValueError:  # no gradient, or one that is not finite: nothing was found
        return images
