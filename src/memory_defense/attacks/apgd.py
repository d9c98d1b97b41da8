"""Auto-PGD (Croce & Hein 2020, arXiv 2003.01690): a PGD that chooses its step sizes, one for each image.

Their Algorithm 1, from a start x_0 on the surface of the ball, with eta = 2 epsilon and alpha = 0.75:

    z       = P(x_k + eta ascent(grad f(x_k)))
    x_{k+1} = P(x_k + alpha (z - x_k) + (1 - alpha) (x_k - x_{k-1}))

At checkpoint w_j an image halves eta and goes back to its iterate of highest f if f rose in no more than the share
rho of the steps since w_{j-1} (condition 1), or if neither eta nor the highest f changed since then (condition 2).

These decisions compare values of the loss, so it is taken at its word from `losses.LOSSES`, saturation included;
`Pgd` follows the cross-entropy through the log-odds instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from memory_defense.attacks.calls import checked
from memory_defense.attacks.engine import (
    Averaged,
    StopsEarly,
    Victim,
    attacked,
    check_settings,
    column,
    put,
    reached,
)
from memory_defense.attacks.targets import (
    Siblings,
    lead_of,
    likeliest_others,
    nearest_if_linear,
    targeted_difference_of_logits_ratio,
    together,
)
from memory_defense.checks import nearest
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, Logits, PerImage, Rows
from memory_defense.losses import LOSSES, AdversarialLoss

_MOMENTUM = 0.75
"""alpha."""

_TARGETED_LOSSES = {"dlr": targeted_difference_of_logits_ratio, "margin": lead_of}


@dataclass(frozen=True, kw_only=True)
class Apgd(StopsEarly):
    """Auto-PGD in the ball's own norm, which must be bounded.

    Parameters
    ----------
    loss
        Taken at its word: the cross-entropy gives no direction if it is 0 in float32, which ``dlr`` avoids.
    rho
        An image halves its step when its loss rose in no more than this share of the steps since the last
        checkpoint, in [0, 1].
    samples
        Passes that one gradient averages, at least 1; more than 1 is for models that draw at every call. The answer
        of an iterate's last pass is then believed (`engine.Averaged`).
    steps, restarts, stop_when_fooled, micro_batch
        See `memory_defense.attacks`; starts are on the surface of the ball.
    """

    steps: int = 100
    restarts: int = 1
    loss: str = "cross-entropy"
    rho: float = 0.75
    samples: int = 1
    stop_when_fooled: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        counts = {"steps": self.steps, "restarts": self.restarts, "samples": self.samples}
        check_settings(self.loss, self.micro_batch, **counts)
        _check_rho(self.rho)

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        with attacked(model, images, labels, self.micro_batch) as victim:
            averaged = Averaged(victim, self.samples) if self.samples > 1 else victim
            ascent = _AutoAscent(self, averaged, images, ball)
            ascent.judge_clean()
            for restart in range(self.restarts if ball.epsilon > 0 else 0):
                ascent.run(lambda _: LOSSES[self.loss], draws.child("restart", restart))
            return ascent.best


@dataclass(frozen=True, kw_only=True)
class ApgdTargeted(StopsEarly):
    """Auto-PGD towards each of the likeliest wrong classes, one run for each; by default AutoAttack's APGD-T.

    A target is where the loss leads, not what counts: an image is done once the model errs in any way. Each run
    works on what the earlier ones did not fool, from one start.

    Parameters
    ----------
    loss
        ``dlr``: the targeted DLR loss, which needs 4 classes. ``margin``: ``z_t - z_y``, from 2 classes on.
    among
        Aim at those `targets` of so many highest classes, at least `targets`, that a linear model would reach with
        the least change, nearest first (`targets.nearest_if_linear`); costs a pass for each. None aims at the
        highest ones, as the authors do.
    steps, targets, rho, stop_when_fooled, micro_batch
        See `memory_defense.attacks` and `Apgd`.
    """

    steps: int = 100
    targets: int = 9
    among: int | None = None
    loss: Literal["dlr", "margin"] = "dlr"
    rho: float = 0.75
    stop_when_fooled: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        check_settings("margin", self.micro_batch, steps=self.steps, targets=self.targets)
        if self.among is not None and not self.among >= self.targets:
            raise ValueError(
                f"among is {self.among}, but {self.targets} targets are chosen from so many; give at least as "
                "many, or None"
            )
        if self.loss not in _TARGETED_LOSSES:
            raise nearest(self.loss, _TARGETED_LOSSES, "targeted loss")
        _check_rho(self.rho)

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        with attacked(model, images, labels, self.micro_batch) as victim:
            ascent = _AutoAscent(self, victim, images, ball)
            logits = ascent.judge_clean()
            classes = logits.shape[1]
            if self.loss == "dlr" and classes < 4:
                raise ValueError(
                    f"the targeted DLR loss needs at least 4 classes, the model has {classes}; use loss='margin'"
                )
            ranked = self._ranked(victim, ascent, logits)
            rank = 0
            while ball.epsilon > 0 and len(ascent.rows) and rank < ranked.shape[1]:
                ranks = together(victim, len(ascent.rows), rank, ranked.shape[1])
                self._run(victim, ascent, ranks, ranked, draws)
                rank = ranks.stop
            return ascent.best

    def _ranked(self, victim: Victim, ascent: _AutoAscent, logits: Logits) -> Labels:
        """Return (N, T) the targets of every image, in the order in which they are aimed at."""
        likely = likeliest_others(logits, victim.labels, self.among or self.targets)
        if self.among is not None and ascent.ball.epsilon > 0:
            likely = nearest_if_linear(victim, ascent.images, ascent.rows, likely, ascent.ball.norm)
        return likely[:, : self.targets]

    def _run(self, victim: Victim, ascent: _AutoAscent, ranks: range, ranked: Labels, draws: Draws) -> None:
        """Ascend towards the targets of these ranks with the images not yet fooled, all in the same passes."""
        group = Siblings(victim, ascent.rows, ranks)
        copies = _AutoAscent(self, group.victim, ascent.images[group.index], ascent.ball, group)
        targets, loss = ranked[group.index, group.rank], _TARGETED_LOSSES[self.loss]

        def towards(rows: Rows) -> AdversarialLoss:
            return lambda logits, labels: loss(logits, labels, targets[rows])

        copies.run(towards, *(draws.child("target", rank).rows(group.rows) for rank in ranks))
        for at, rows in group.by_rank():
            ascent.merge(copies, rows, at)
        group.discount()


def _check_rho(rho: float) -> None:
    if not 0 <= rho <= 1:
        raise ValueError(f"rho is {rho}, expected a share of steps in [0, 1]")


def checkpoints(steps: int) -> list[int]:
    """Return the iterates w_1, w_2, ... below `steps` at which step sizes are reconsidered.

    The first comes after 22 % of the steps; each gap is 3 % shorter than the last, but never below 6 %. Every
    share is rounded down to whole steps, at least 1.
    """
    gap, shrink, least = (max(share * steps // 100, 1) for share in (22, 3, 6))
    marks = [gap]
    while marks[-1] < steps:
        gap = max(gap - shrink, least)
        marks.append(marks[-1] + gap)
    return marks[:-1]


@dataclass
class _Run:
    """One run from one start, packed: the first axis of every field is the images that are still attacked."""

    rows: Rows
    clean: Images
    point: Images
    """x_k."""
    previous: Images
    """x_{k-1}."""
    top: Images
    """The iterate of highest loss; its gradient and its loss follow."""
    top_gradient: Tensor
    top_loss: PerImage
    loss: PerImage
    """f(x_{k-1})."""
    size: PerImage
    """eta."""
    rises: PerImage
    """Number of steps since the last checkpoint in which the loss rose."""
    checked: PerImage
    """`top_loss` at the last checkpoint."""
    halved: PerImage
    """Whether the step was halved there; true before the first, as in the authors' code."""

    def take(self, index: Rows | slice) -> _Run:
        """Return these images: as views for a slice, to be changed in place, else as copies."""
        return _Run(*(getattr(self, part.name)[index] for part in fields(self)))


class _AutoAscent:
    """One call of the attack: the images that are still attacked, and the best known for every row.

    If the images are copies that follow several targets, their `siblings` are given: the copies are not judged as
    they are, and one is left alone once a sibling with an earlier target fools the model.
    """

    def __init__(
        self,
        attack: Apgd | ApgdTargeted,
        victim: Victim,
        images: Images,
        ball: Ball,
        siblings: Siblings | None = None,
    ) -> None:
        if math.isinf(ball.epsilon):
            raise ValueError("the first step is 2 epsilon long, so the ball must be bounded; give a finite epsilon")
        self.attack, self.victim, self.images, self.ball = attack, victim, images, ball
        self.best = images.clamp(0, 1)
        self.best_loss = images.new_full((len(images),), -math.inf)
        marks = checkpoints(attack.steps)
        self.gaps = {mark: mark - before for before, mark in zip([0, *marks], marks, strict=False)}
        self.rows, self.siblings = victim.all_rows(), siblings

    def judge_clean(self) -> Logits:
        """Let go of the images that fool the model as they are, if any are let go; return all logits (N, K)."""
        seen = [self.victim.answers(self.images[part], part) for part in self.victim.parts(self.rows)]
        logits = torch.cat(seen)
        if self.attack.stop_when_fooled:
            self.rows = self.rows[~reached(logits, self.victim.labels)]
        return logits

    def run(self, loss_of: Callable[[Rows], AdversarialLoss], *draws: Draws) -> None:
        """Ascend once with the images not yet fooled.

        Parameters
        ----------
        loss_of
            From the rows of a micro-batch to its loss.
        draws
            Draws of the starts: for all images, or for one equal part of them after the other.
        """
        run, steps, size = self._begin(draws), self.attack.steps, self.victim.micro_batch
        for k in range(steps + 1):
            parts = [run.take(slice(at, at + size)) for at in range(0, len(run.rows), size)]
            if not parts:
                break
            keep = torch.cat([self._visit(part, k, loss_of(part.rows)) for part in parts])
            if self.siblings:
                self.siblings.seen(run.rows, forward=1, backward=int(k < steps))
            going = keep.nonzero().squeeze(1)
            if len(going) < len(keep):
                if self.siblings:
                    self.siblings.settle(run.rows[~keep])
                    going = (keep & self.siblings.needed(run.rows)).nonzero().squeeze(1)
                run = run.take(going)
        self.rows = run.rows
        higher = run.top_loss > self.best_loss[run.rows]
        self.best[run.rows[higher]] = run.top[higher]
        self.best_loss[run.rows[higher]] = run.top_loss[higher]

    def _begin(self, draws: Sequence[Draws]) -> _Run:
        """Return a run that starts on the surface of the ball, clamped to [0, 1]."""
        rows, clean, epsilon = self.rows, self.images[self.rows], self.ball.epsilon
        part = len(self.images) // len(draws)
        owners = zip(draws, rows.chunk(len(draws)), strict=True)
        noise = torch.cat([self._noise(one.rows(own % part)) for one, own in owners]).to(clean)
        length = self.ball.distance(noise, torch.zeros_like(noise))
        start = (clean + noise * column(epsilon / length.clamp(min=1e-12))).clamp_(0, 1)
        low, zero = clean.new_full((len(rows),), -math.inf), clean.new_zeros(len(rows))
        return _Run(
            rows=rows,
            clean=clean,
            point=start,
            previous=start.clone(),
            top=start.clone(),
            top_gradient=torch.zeros_like(start),
            top_loss=low,
            loss=low.clone(),
            size=zero + 2 * epsilon,
            rises=zero,
            checked=low.clone(),
            halved=zero == 0,
        )

    def _noise(self, draws: Draws) -> Tensor:
        shape = self.images.shape[1:]
        return draws.normal(*shape) if self.ball.norm == "l2" else 2 * draws.uniform(*shape) - 1

    def _visit(self, run: _Run, k: int, loss: AdversarialLoss) -> PerImage:
        """Judge iterate k of one micro-batch and step on, in place; return (B,) which images go on."""
        labels = self.victim.labels[run.rows]
        gradient = None
        if k < self.attack.steps:
            gradient, losses, logits = self.victim.gradient(run.point, run.rows, loss)
            if self.attack.stop_when_fooled:
                logits = self.victim.confirmed(logits, run.point, run.rows)
        else:
            logits = self.victim.answers(run.point, run.rows)
            losses = loss(logits, labels).to(run.loss)
        better = losses > run.top_loss
        if self.victim.on_cpu:
            better = better.nonzero().squeeze(1)
        _copy(run.top, better, run.point)
        _copy(run.top_loss, better, losses)
        if k > 0:
            run.rises.add_(losses > run.loss)
        run.loss.copy_(losses)
        keep = torch.ones_like(losses, dtype=torch.bool)
        if self.attack.stop_when_fooled:
            keep = ~reached(logits, labels)
            put(self.best, run.rows, ~keep, run.point)
        if gradient is not None:
            _copy(run.top_gradient, better, gradient)
            self._advance(run, k, gradient)
        return keep

    def _advance(self, run: _Run, k: int, gradient: Tensor) -> None:
        """Take the step from x_k, after halving it and going back to the top if a checkpoint says so."""
        here = run.point
        if k in self.gaps:
            stalled = run.rises <= self.attack.rho * self.gaps[k]  # condition 1
            stalled |= ~run.halved & (run.top_loss == run.checked)  # condition 2
            run.size.mul_(torch.where(stalled, 0.5, 1.0))
            # The top's gradient is at hand, so an image that goes back steps from there in this very pass.
            here = torch.where(column(stalled), run.top, here)
            gradient = torch.where(column(stalled), run.top_gradient, gradient)
            run.rises.zero_()
            run.checked.copy_(run.top_loss)
            run.halved.copy_(stalled)
        ahead = self.ball.project(torch.addcmul(here, self.ball.ascent(gradient), column(run.size)), run.clean)
        if k > 0:
            ahead = torch.lerp(here, ahead, _MOMENTUM).add_(here - run.previous, alpha=1 - _MOMENTUM)
            ahead = self.ball.project(ahead, run.clean)
        run.previous.copy_(here)
        run.point.copy_(ahead)

    def merge(self, copies: _AutoAscent, rows: Rows, images: Rows) -> None:
        """Take over what the copies found in these rows of their set, which are these images of this one.

        The images that they fooled go on no more; of the others the iterate of the higher loss is kept.
        """
        left = torch.zeros_like(copies.best_loss, dtype=torch.bool)
        left[copies.rows] = True
        higher = ~left[rows] | (copies.best_loss[rows] > self.best_loss[images])
        taken, at = rows[higher], images[higher]
        self.best[at], self.best_loss[at] = copies.best[taken], copies.best_loss[taken]
        done = torch.zeros_like(self.best_loss, dtype=torch.bool)
        done[images[~left[rows]]] = True
        self.rows = self.rows[~done[self.rows]]


def _copy(into: Tensor, rows: Tensor, source: Tensor) -> None:
    """Copy these rows, a few of many, in place; where there is a truth value for each, those that are true."""
    if rows.dtype == torch.bool:
        into.copy_(torch.where(rows.view(-1, *(1 for _ in source.shape[1:])), source, into))
    elif len(rows):
        into.index_copy_(0, rows, source.index_select(0, rows))
