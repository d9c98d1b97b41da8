"""Probes of the attacked model: is there a gradient, is it that of the answers, and does noise find more?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from memory_defense.contracts import (
    Ball,
    Classifier,
    Images,
    Labels,
    Logits,
    PerImage,
    Restarting,
    Rows,
    Stepping,
    needs_gradient,
    works_in,
)
from memory_defense.evaluation.audit.findings import Check, Findings, above, line
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.metrics import judged
from memory_defense.evaluation.odd import NAMED
from memory_defense.evaluation.record import AuditLine
from memory_defense.evaluation.state import CaseState
from memory_defense.foreign import MemoryShortError, ModelError, out_of_memory
from memory_defense.losses import AdversarialLoss, cross_entropy, margin
from memory_defense.noticed import finite_rows
from memory_defense.randomness import ImageDraws
from memory_defense.wrappers import gradient_at, rows_of

NOISE_DRAWS = 50
"""Random points of each image's ball that are judged."""

_NOISED = 64
"""Number of images that noise is tried on."""

_TOLERATED = 0.01
"""Share of images without a gradient above which an attack is not to be believed."""


def surface_point(ball: Ball, clean: Images, draws: ImageDraws) -> Images:
    """Return a random point of each ball's surface, inside [0, 1]: a corner of the cube, or a random direction."""
    step = ball.ascent(draws.normal(*clean.shape[1:]).to(clean))
    return ball.project(clean + ball.epsilon * step, clean)


def without_gradient(model: Classifier, images: Images, labels: Labels, loss: AdversarialLoss) -> PerImage:
    """Return (B,) bool: the gradient of the loss with respect to the image is exactly 0, NaN, or does not exist."""
    try:
        return _without_gradient(model, images, labels, loss)
    except Exception as error:  # asked anew below, where nothing holds on to what filled the memory
        if not out_of_memory(error) or len(images) == 1:
            raise
    halves = torch.arange(len(images), device=images.device).tensor_split(2)
    parts = [without_gradient(rows_of(model, half), images[half], labels[half], loss) for half in halves]
    return torch.cat(parts)


def _without_gradient(model: Classifier, images: Images, labels: Labels, loss: AdversarialLoss) -> PerImage:
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        try:
            gradient = gradient_at(leaf, lambda: loss(model(leaf), labels).sum())
        except ModelError:  # it answers, but not where a gradient is asked for
            gradient = None
    if gradient is None:
        return torch.ones_like(labels, dtype=torch.bool)
    return (gradient == 0).flatten(1).all(1) | ~finite_rows(gradient)


def _gradient_exists(name: str, loss: AdversarialLoss, remedy: str) -> Check:
    """Return AutoAttack's third flag, for one loss."""

    def run(findings: Findings) -> AuditLine:
        images, labels = findings.probe
        model = findings.surrogate(findings.exact, images)
        points = [images]
        points += [
            ball.random_point(images, findings.draws(f"gradient {ball.norm}", len(images)))
            for ball in findings.balls
            if ball.epsilon > 0
        ]
        missing = torch.stack([without_gradient(model, one, labels, loss) for one in points])  # (points, B)
        return above(
            f"the {name} has a gradient",
            float(missing.float().mean(1).max()),
            _TOLERATED,
            f"largest share of images where the gradient of the {name} is exactly 0, NaN or infinite, at the clean "
            "image or at a random point of the ball; a gradient attack cannot move such an image"
            + _few(findings.probe_ids[missing.any(0)]),
            remedy,
        )

    return run


def _few(ids: Rows) -> str:
    """Return the ids (M,) for the end of a sentence, where they are so few that somebody may look at each."""
    if not 0 < len(ids) <= NAMED:
        return ""
    return f" (id {', '.join(str(int(one)) for one in ids)})"


FOLLOWED = 32
"""The most images of which it is asked whether the answers change as their gradient says, and gradually."""

_SHARES = (1 / 64, 1 / 16, 1 / 4, 1)
"""Steps along the gradient, in radii of the ball."""

_AS_TOLD = (1 / 3, 3.0)
"""What really changes over what the gradient says, within which the two agree."""

MISLED, ABRUPT = 0.25, 0.5
"""Share of images above which the gradient is another's, which is right by chance at every other one; and of ways
above which the answers switch abruptly."""

_HALVED, _NEAR = 14, 1 / 16
"""Halvings that find where the answer changes, and how near to it one looks, in radii of the ball."""


def misled(model: Classifier, images: Images, ball: Ball) -> float | None:
    """Return the share of images (B, C, H, W) at which the margin does not change as its gradient says.

    Steps of several lengths are taken along the gradient; two at which a third to three times as much changes as
    the gradient says will do. A model that rounds, or computes in half precision, agrees over long steps, and a
    curved one over short ones. None where fewer than half of the images have a gradient.
    """
    agree = _agreeing(model, images, ball)
    live = agree >= 0
    if 2 * int(live.sum()) < len(images):
        return None
    return float((agree[live] < 2).float().mean())


def _agreeing(model: Classifier, images: Images, ball: Ball) -> Tensor:
    """Return (B,) int64: steps at which the margin changes as its gradient says; -1 where there is no gradient."""
    try:
        return _steps_that_agree(model, images, ball)
    except Exception as error:  # asked anew below, where nothing holds on to what filled the memory
        if not out_of_memory(error) or len(images) == 1:
            raise
    halves = torch.arange(len(images), device=images.device).tensor_split(2)
    return torch.cat([_agreeing(rows_of(model, half), images[half], ball) for half in halves])


def _steps_that_agree(model: Classifier, images: Images, ball: Ball) -> Tensor:
    with torch.no_grad():
        before = model(images)
    labels, leaf = before.argmax(1), images.detach().clone().requires_grad_()
    with torch.enable_grad():
        gradient = gradient_at(leaf, lambda: margin(model(leaf), labels).sum())
    if gradient is None:
        return torch.full_like(labels, -1)
    agree, direction = torch.zeros_like(labels), ball.ascent(gradient)
    for share in _SHARES:
        moved = (images + share * ball.epsilon * direction).clamp(0, 1)
        said = (gradient * (moved - images)).flatten(1).double().sum(1)
        with torch.no_grad():
            change = (margin(model(moved), labels) - margin(before, labels)).double()
        ratio = change / said.clamp_min(1e-300)
        agree += (said <= 0) | ((ratio > _AS_TOLD[0]) & (ratio < _AS_TOLD[1]))
    return torch.where((gradient != 0).flatten(1).any(1) & finite_rows(gradient), agree, -1)


@torch.no_grad()
def abrupt(model: Classifier, images: Images, ball: Ball, draws: ImageDraws) -> float | None:
    """Return the share of ways between images (B, C, H, W) on which the answer switches abruptly.

    Close to where the answer becomes another, the best class leads the second by little, unless it is a label that
    is answered. Abrupt is a lead, on both sides of that place together, above half of what it is at both images.
    Every pixel of a way sets out at its own time. None for fewer than `USABLE` ways.
    """
    logits = model(images)
    answers = logits.argmax(1)
    others = answers[:, None] != answers
    later = torch.arange(len(images), device=images.device)
    order = (later[None] - later[:, None]) % len(images)
    partner = torch.where(others, order, len(images)).argmin(1)
    rows = others.any(1).nonzero().squeeze(1)
    if len(rows) < USABLE:
        return None
    column = (-1, *([1] * (images.dim() - 1)))
    begun = draws.rows(rows).uniform(*images.shape[1:]).to(images)
    start, goal = images[rows], images[partner[rows]]

    def at(share: PerImage) -> Logits:
        return model(start + (goal - start) * (2 * share.clamp(0, 1).view(column) - begun).clamp(0, 1))

    low, high = torch.zeros(len(rows)).to(images), torch.ones(len(rows)).to(images)
    for _ in range(_HALVED):
        middle = (low + high) / 2
        same = at(middle).argmax(1) == answers[rows]
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    width = _NEAR * ball.epsilon / ball.distance(goal, start).clamp_min(1e-12) / 2
    lead = _lead(at(low - width)) + _lead(at(high + width))
    usual = _lead(logits)
    return float((lead > 0.5 * (usual[rows] + usual[partner[rows]])).float().mean())


def _lead(logits: Logits) -> PerImage:
    best = logits.float().topk(2).values
    return best[:, 0] - best[:, 1]


def abrupt_answers(findings: Findings) -> tuple[bool, float]:
    """Return whether the answer switches abruptly on too many ways between images, and the share; 0 of none."""
    share = findings.doubts.abrupt
    ball = next((one for one in findings.balls if one.epsilon > 0), None)
    images = findings.probe[0][:FOLLOWED]
    if share is None and ball is not None:
        share = abrupt(findings.logits, images, ball, findings.draws("abrupt", len(images)))
    return (share or 0.0) > ABRUPT, share or 0.0


def gradient_is_of_the_answers(findings: Findings) -> AuditLine:
    """A gradient that is somewhere else's leads every attack that follows it astray, however live it is."""
    check = "the gradient is that of the answers"
    meaning = (
        f"share of up to {FOLLOWED} images at which fewer than two of four steps along the gradient of the margin, "
        "from a 64th of the radius up to all of it, lead to a third to three times the change that the gradient "
        f"says; above {MISLED} it is the gradient of something else, and what follows it proves nothing"
    )
    remedy = "attack the part that answers; believe attacks without gradients, and give them more queries"
    ball = next((one for one in findings.balls if one.epsilon > 0), None)
    if findings.randomised:
        return line(check, None, None, meaning, remedy, "the answers change from call to call anyway")
    if ball is None:
        return line(check, None, None, meaning, remedy, "no bounded ball that is no point")
    images = findings.probe[0][:FOLLOWED]
    share = findings.doubts.misled
    if share is None:
        share = misled(findings.surrogate(findings.exact, images), images, ball)
    return above(check, share, MISLED, meaning, remedy, "fewer than half of the images have a gradient")


def stronger_than_many_draws(findings: Findings) -> AuditLine:
    """Carlini et al. 2019, section 5.1: random noise with many draws, image by image, must find nothing new."""
    evaluation = findings.evaluation
    rows = evaluation.correct.nonzero().squeeze(1)[:_NOISED]
    check = f"attacks find all that {NOISE_DRAWS} draws of noise do"
    meaning = (
        f"largest share of {len(rows)} images that one of {NOISE_DRAWS} random points on the surface of the ball "
        "breaks and no attack did"
    )
    remedy = "give the attacks more steps, restarts or queries; for a randomised defense raise submissions"
    balls = [ball for ball in findings.balls if ball.epsilon > 0]
    if len(rows) == 0 or not balls:
        return line(check, None, None, meaning, remedy)
    clean, labels = evaluation.images[rows], evaluation.labels[rows]
    worst = 0.0
    for ball in balls:
        draws = findings.draws(f"many draws {ball.norm}", len(evaluation.images)).rows(rows)
        standing = evaluation.state.inside(ball).robust[rows].nonzero().squeeze(1)
        missed = 0
        for number in range(NOISE_DRAWS):
            if len(standing) == 0:
                break
            noisy = surface_point(ball, clean[standing], draws.rows(standing).child(number))
            wrong, _ = judged(findings.defense, noisy, labels[standing], evaluation.submissions)
            missed += int(wrong.sum())
            standing = standing[~wrong]
        worst = max(worst, missed / len(rows))
    return above(check, worst, 0, meaning, remedy)


_FEWEST, _MOST, _SHARE = 16, 48, 12
"""Images that are attacked: one in `_SHARE` of the evaluation's, within these limits."""

_STEPS = 5
"""Steps below which an attack does not reach far into a large ball."""

USABLE = 8
"""Images below which nothing is said."""


def few_correct(findings: Findings) -> Rows:
    """Return the rows of a few images that are right when clean."""
    evaluation = findings.evaluation
    many = min(_MOST, max(_FEWEST, len(evaluation.labels) // _SHARE))
    return evaluation.correct.nonzero().squeeze(1)[:many]


def first_attack(findings: Findings) -> tuple[Case, CaseState] | None:
    """Return the first gradient attack on the exact model in the largest ball, which saw most images."""
    wanted = findings.balls
    runs = [
        (case, one)
        for case, one in findings.tried
        if case.ball in wanted and case.ball.epsilon > 0 and case.purpose != "curve"
        if case.knowledge == findings.exact and needs_gradient(case.attack) and not findings.transfers(case)
    ]
    return max(runs, key=lambda run: int(run[1].done.sum()), default=None)


def withstand(findings: Findings, case: Case, images: Images, labels: Labels, draws: ImageDraws) -> PerImage:
    """Return (B,) bool: the case's attack on these images finds nothing."""
    try:
        found = case.attack(findings.surrogate(case.knowledge, images), images, labels, case.ball, draws)
    except MemoryShortError:
        raise
    except ValueError:  # no gradient, so that nothing is found
        return torch.ones_like(labels, dtype=torch.bool)
    wrong, _ = judged(findings.defense, found, labels, findings.evaluation.submissions)
    return ~wrong


def within(findings: Findings, ball: Ball) -> float | None:
    """Return the accuracy of a few right images under the first gradient attack in this ball; None for too few."""
    run, rows = first_attack(findings), few_correct(findings)
    if run is None or len(rows) < USABLE or not works_in(run[0].attack, ball.norm):
        return None
    if not isinstance(run[0].attack, Stepping) or run[0].attack.steps < _STEPS:
        return None
    case = replace(run[0], ball=ball)
    clean, labels = findings.evaluation.images[rows], findings.evaluation.labels[rows]
    return float(withstand(findings, case, clean, labels, findings.draws("large", len(rows))).float().mean())


def gain_of_one_step(findings: Findings) -> float | None:
    """Return how many more of a few images the first gradient attack leaves than a single step of it does.

    None where it has no steps, or saw too few of them.
    """
    run = first_attack(findings)
    if run is None or not isinstance(run[0].attack, Stepping) or run[0].attack.steps < 2:
        return None
    case, one = run
    rows = few_correct(findings)
    rows = rows[one.done[rows]]
    if len(rows) < USABLE:
        return None
    attack = cast("Any", case.attack)
    fewer = {"restarts": 1} if isinstance(case.attack, Restarting) else {}
    attack = replace(attack, steps=1, **fewer)
    single = replace(case, attack=attack)
    clean, labels = findings.evaluation.images[rows], findings.evaluation.labels[rows]
    left = withstand(findings, single, clean, labels, findings.draws("one step", len(rows))).float().mean()
    return float((~one.fooled[rows]).float().mean()) - float(left)


PROBES: dict[str, Check] = {
    "zero-cross-entropy": _gradient_exists(
        "cross-entropy", cross_entropy, "attack with the margin or the DLR loss, which do not saturate"
    ),
    "zero-margin": _gradient_exists(
        "margin loss",
        margin,
        "differentiate a stand-in (wrappers.Bpda, StraightThrough), and attack without gradients",
    ),
    "followed": gradient_is_of_the_answers,
    "many-draws": stronger_than_many_draws,
}
"""Probes, in the order of the report."""
