"""Multi-targeted PGD (Gowal et al. 2019, arXiv 1910.09338): one climb towards each of the likeliest classes.

    maximise   z_t(x) - z_y(x)   for one target t after the other

The gradient of a margin follows whichever class leads at the moment; aimed at one class, a climb keeps going
where that class is behind at first. The steps are `Pgd`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from memory_defense.attacks.climb import Climb, check_step_size, step_sizes
from memory_defense.attacks.engine import attacked, check_settings
from memory_defense.attacks.targets import lead_of, likeliest_others
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, Rows
from memory_defense.losses import AdversarialLoss, margin


@dataclass(frozen=True, kw_only=True)
class PgdTargeted:
    """Multi-targeted PGD in the ball's own norm, one climb for each of the likeliest wrong classes.

    A target is where the loss leads, not what counts: an image is done once the model errs in any way. Each
    climb starts at a random point of the ball and works on what the earlier ones did not fool.

    Parameters
    ----------
    steps
        Gradient steps of one climb, at least 1.
    targets
        How many of the highest classes other than the label, by the logits of the clean image; at least 1,
        and all of them where the model has fewer.
    step_size
        Length of every step in pixel units. None starts at the ball's diameter and shrinks to nothing along a
        cosine (`climb.cosine_steps`).
    restarts
        Rounds over all targets, at least 1, each from other starts.
    stop_when_fooled
        Leave an image alone from the first iterate that fools the model, the clean one included. Otherwise
        every image takes every step. What was never left alone is returned at its largest margin.
    micro_batch
        Images in one pass; None is 256 on a CPU and 512 elsewhere.

    Raises
    ------
    ValueError
        For a count below 1 or a step size that is not positive; when called, for an unbounded ball without a
        step size.
    """

    steps: int = 40
    targets: int = 9
    step_size: float | None = None
    restarts: int = 1
    stop_when_fooled: bool = True
    micro_batch: int | None = None
    each_once: ClassVar[bool] = True

    def __post_init__(self) -> None:
        counts = {"steps": self.steps, "targets": self.targets, "restarts": self.restarts}
        check_settings("margin", self.micro_batch, **counts)
        check_step_size(self.step_size)

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        with attacked(model, images, labels, self.micro_batch) as victim:
            if ball.epsilon == 0:
                return images.clamp(0, 1)
            sizes = step_sizes(self.step_size, ball.epsilon, self.steps)
            climb = Climb(victim, images, ball, score=margin, stop_when_fooled=self.stop_when_fooled)
            rows, logits = climb.begin()
            ranked = likeliest_others(logits, labels, self.targets)
            for restart in range(self.restarts):
                for rank, goals in enumerate(ranked.unbind(1)):
                    start = climb.random(draws.child("restart", restart, "target", rank))
                    rows = climb.run(start, rows, sizes, _towards(goals))
            return climb.best

    def for_transfer(self) -> Self:
        """Return the same attack without early stops: the largest margin over all targets."""
        return replace(self, stop_when_fooled=False)


def _towards(targets: Labels) -> Callable[[int, Rows], AdversarialLoss]:
    def loss_of(step: int, rows: Rows) -> AdversarialLoss:
        del step
        return lambda logits, labels: lead_of(logits, labels, targets[rows])

    return loss_of
