"""Auto-PGD (Croce & Hein 2020, arXiv 2003.01690): a PGD that chooses its step sizes, one for each image.

Its decisions compare values of the loss, so the loss is taken at its word from `losses.LOSSES`, saturation
included; `Pgd` follows the cross-entropy through the log-odds instead. The algorithm is in `apgd_climb`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from memory_defense.attacks.apgd_climb import Climb
from memory_defense.attacks.averaged import Averaged
from memory_defense.attacks.engine import Victim, attacked, check_settings
from memory_defense.attacks.siblings import Siblings, together
from memory_defense.attacks.targets import lead_of, likeliest_others, targeted_difference_of_logits_ratio
from memory_defense.checks import nearest
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, Rows
from memory_defense.losses import LOSSES, AdversarialLoss

_TARGETED_LOSSES = {"dlr": targeted_difference_of_logits_ratio, "margin": lead_of}


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
    samples
        Passes that one gradient averages, at least 1; more than 1 is for models that draw at every call, and
        what one iterate's last pass answers is then believed (`averaged.Averaged`).
    stop_when_fooled
        Leave an image alone from the first iterate that fools the model, the clean one included. Otherwise
        every image takes every step. What was never left alone is returned at its highest loss.
    micro_batch
        Images in one pass; None is 256 on a CPU and 512 elsewhere.

    Raises
    ------
    ValueError
        For a value outside these ranges; when called, for an unbounded ball.
    """

    steps: int = 100
    restarts: int = 1
    loss: str = "cross-entropy"
    rho: float = 0.75
    samples: int = 1
    stop_when_fooled: bool = True
    micro_batch: int | None = None
    each_once: ClassVar[bool] = True

    def __post_init__(self) -> None:
        counts = {"steps": self.steps, "restarts": self.restarts, "samples": self.samples}
        check_settings(self.loss, self.micro_batch, **counts)
        _check_rho(self.rho)

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        with attacked(model, images, labels, self.micro_batch) as victim:
            averaged = Averaged(victim, self.samples) if self.samples > 1 else victim
            climb = _climb(self, averaged, images, ball)
            climb.judge_clean()
            for restart in range(self.restarts if ball.epsilon > 0 else 0):
                climb.run(lambda _: LOSSES[self.loss], draws.child("restart", restart))
            return climb.best

    def for_transfer(self) -> Self:
        """Return the same attack without early stops: highest loss instead of first success."""
        return replace(self, stop_when_fooled=False)


@dataclass(frozen=True, kw_only=True)
class ApgdTargeted:
    """Auto-PGD towards each of the likeliest wrong classes, one run for each; by default AutoAttack's APGD-T.

    A target is where the loss leads, not what counts: an image is done once the model errs in any way. Each
    run works on what the earlier ones did not fool. Other parameters and errors are `Apgd`'s; there is one
    start for each target.

    Parameters
    ----------
    targets
        How many of the highest classes other than the label, by the logits of the clean image; at least 1,
        and all of them where the model has fewer.
    loss
        ``dlr``: the targeted DLR loss, which needs 4 classes. ``margin``: ``z_t - z_y``, from 2 classes on.

    Raises
    ------
    ValueError
        When called, for the DLR loss and a model with fewer than 4 classes.
    """

    steps: int = 100
    targets: int = 9
    loss: Literal["dlr", "margin"] = "dlr"
    rho: float = 0.75
    stop_when_fooled: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        check_settings("margin", self.micro_batch, steps=self.steps, targets=self.targets)
        if self.loss not in _TARGETED_LOSSES:
            raise nearest(self.loss, _TARGETED_LOSSES, "targeted loss")
        _check_rho(self.rho)

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        with attacked(model, images, labels, self.micro_batch) as victim:
            climb = _climb(self, victim, images, ball)
            logits = climb.judge_clean()
            classes = logits.shape[1]
            if self.loss == "dlr" and classes < 4:
                raise ValueError(
                    f"the targeted DLR loss needs at least 4 classes, the model has {classes}; use loss='margin'"
                )
            ranked = likeliest_others(logits, labels, self.targets)
            rank = 0
            while ball.epsilon > 0 and len(climb.rows) and rank < ranked.shape[1]:
                ranks = together(victim, len(climb.rows), rank, ranked.shape[1])
                self._run(victim, climb, ranks, ranked, draws)
                rank = ranks.stop
            return climb.best

    def _run(self, victim: Victim, climb: Climb, ranks: range, ranked: Labels, draws: Draws) -> None:
        """Climb towards the targets of these ranks with the images not yet fooled, all in the same passes."""
        group = Siblings(victim, climb.rows, ranks)
        copies = _climb(self, group.victim, climb.images[group.index], climb.ball, group)
        targets, loss = ranked[group.index, group.rank], _TARGETED_LOSSES[self.loss]

        def towards(rows: Rows) -> AdversarialLoss:
            return lambda logits, labels: loss(logits, labels, targets[rows])

        own = group.rows.cpu()
        copies.run(towards, *(draws.child("target", rank).rows(own) for rank in ranks))
        for at, rows in group.by_rank():
            climb.merge(copies, rows, at)
        group.discount()

    def for_transfer(self) -> Self:
        """Return the same attack without early stops: the highest loss over all targets."""
        return replace(self, stop_when_fooled=False)


def _climb(
    settings: Apgd | ApgdTargeted, victim: Victim, images: Images, ball: Ball, siblings: Siblings | None = None
) -> Climb:
    return Climb(
        victim,
        images,
        ball,
        steps=settings.steps,
        rho=settings.rho,
        stop_when_fooled=settings.stop_when_fooled,
        siblings=siblings,
    )


def _check_rho(rho: float) -> None:
    if not 0 <= rho <= 1:
        raise ValueError(f"rho is {rho}, expected a share of steps in [0, 1]")
