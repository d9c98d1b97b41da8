"""Auto-PGD (Croce & Hein 2020, arXiv 2003.01690): a PGD that chooses its step sizes, one for each image.

Its decisions compare values of the loss, so the loss is taken at its word from `losses.LOSSES`, saturation
included; `Pgd` follows the cross-entropy through the log-odds instead. The algorithm is in `apgd_climb`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch

from memory_defense.attacks.apgd_climb import Climb
from memory_defense.attacks.engine import Victim, attacked, check_settings
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, Logits, PerImage, Rows
from memory_defense.losses import LOSSES, AdversarialLoss


def targeted_difference_of_logits_ratio(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Return (B,) the targeted DLR loss, ``(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2)`` (Croce & Hein, Eq. 7).

    z_(i) is the i-th largest logit. It grows as the target class t, (B,) like the labels, overtakes the label y.

    Raises
    ------
    ValueError
        For fewer than 4 classes.
    """
    if logits.shape[1] < 4:
        raise ValueError(f"the targeted DLR loss needs at least 4 classes, the model has {logits.shape[1]}")
    ordered = logits.topk(4, dim=1).values
    ahead = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])  # (B, 1)
    return ahead.squeeze(1) / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12)


@dataclass(frozen=True, kw_only=True)
class Apgd:
    """Auto-PGD (Croce & Hein 2020) in the ball's own norm; the first step is ``2 * epsilon`` long.

    Parameters
    ----------
    steps
        Gradient steps of one restart, at least 1.
    restarts
        Independent starts on the surface of the ball, at least 1; each works on what the earlier did not fool.
    loss
        A name of `losses.LOSSES`, taken at its word: the cross-entropy gives no direction where it is 0 in
        float32, which ``dlr`` avoids.
    rho
        An image halves its step when its loss rose in no more than this share of the steps since the last
        checkpoint, in [0, 1].
    stop_when_fooled
        Leave an image alone from the first iterate that fools the model, the clean one included. Otherwise
        every image takes every step. What was never left alone is returned at its highest loss.
    micro_batch
        Images in one pass; None is 64 on a CPU and 512 elsewhere.

    Raises
    ------
    ValueError
        For a value outside these ranges; when called, for an unbounded ball.
    """

    steps: int = 100
    restarts: int = 1
    loss: str = "cross-entropy"
    rho: float = 0.75
    stop_when_fooled: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        check_settings(self.loss, self.micro_batch, steps=self.steps, restarts=self.restarts)
        _check_rho(self.rho)

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        with attacked(model, images, labels, self.micro_batch) as victim:
            climb = _climb(self, victim, images, ball)
            for restart in range(self.restarts if ball.epsilon > 0 else 0):
                climb.run(lambda _: LOSSES[self.loss], draws.child("restart", restart))
            return climb.best

    def for_transfer(self) -> Self:
        """Return the same attack without early stops: highest loss instead of first success."""
        return replace(self, stop_when_fooled=False)


@dataclass(frozen=True, kw_only=True)
class ApgdTargeted:
    """Auto-PGD with the targeted DLR loss, one run for each of the likeliest wrong classes (AutoAttack's APGD-T).

    A target is where the loss leads, not what counts: an image is done once the model errs in any way. Each
    run works on what the earlier ones did not fool. Other parameters and errors are `Apgd`'s; there is one
    start for each target.

    Parameters
    ----------
    targets
        How many of the highest classes other than the label, by the logits of the clean image; at least 1,
        and all of them where the model has fewer.

    Raises
    ------
    ValueError
        When called, for a model with fewer than 4 classes.
    """

    steps: int = 100
    targets: int = 9
    rho: float = 0.75
    stop_when_fooled: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        check_settings("dlr", self.micro_batch, steps=self.steps, targets=self.targets)
        _check_rho(self.rho)

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        with attacked(model, images, labels, self.micro_batch) as victim:
            climb = _climb(self, victim, images, ball)
            classes = climb.clean_logits.shape[1]
            if classes < 4:
                raise ValueError(
                    f"the targeted DLR loss needs at least 4 classes, the model has {classes}; use Apgd"
                )
            others = climb.clean_logits.scatter(1, labels[:, None], -torch.inf)
            ranked = others.topk(min(self.targets, classes - 1), dim=1).indices  # (B, T)
            for rank, goals in enumerate(ranked.unbind(1) if ball.epsilon > 0 else ()):
                climb.run(_towards(goals), draws.child("target", rank))
            return climb.best

    def for_transfer(self) -> Self:
        """Return the same attack without early stops: the highest loss over all targets."""
        return replace(self, stop_when_fooled=False)


def _climb(settings: Apgd | ApgdTargeted, victim: Victim, images: Images, ball: Ball) -> Climb:
    return Climb(
        victim,
        images,
        ball,
        steps=settings.steps,
        rho=settings.rho,
        stop_when_fooled=settings.stop_when_fooled,
    )


def _check_rho(rho: float) -> None:
    if not 0 <= rho <= 1:
        raise ValueError(f"rho is {rho}, expected a share of steps in [0, 1]")


def _towards(targets: Labels) -> Callable[[Rows], AdversarialLoss]:
    def loss_of(rows: Rows) -> AdversarialLoss:
        return lambda logits, labels: targeted_difference_of_logits_ratio(logits, labels, targets[rows])

    return loss_of
