"""Multi-targeted PGD (Gowal et al. 2019, arXiv 1910.09338): one climb towards each of the likeliest classes.

    maximise   z_t(x) - z_y(x)   for one target t after the other

The gradient of a margin follows whichever class leads at the moment; aimed at one class, a climb keeps going
where that class is behind at first. The steps are `Pgd`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from memory_defense.attacks.ascent import ProjectedAscent, check_step_size, step_sizes
from memory_defense.attacks.calls import checked
from memory_defense.attacks.engine import StopsEarly, attacked, check_settings
from memory_defense.attacks.targets import lead_of, likeliest_others
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, Rows
from memory_defense.losses import AdversarialLoss, margin


@dataclass(frozen=True, kw_only=True)
class PgdTargeted(StopsEarly):
    """Multi-targeted PGD in the ball's own norm, one climb for each of the likeliest wrong classes.

    Each climb starts at a random point of the ball and works on what the earlier ones did not fool. `restarts` are
    rounds over all targets, each from other starts. An image that never fools the model is returned at its largest
    margin. The options are those of `memory_defense.attacks`.
    """

    steps: int = 40
    targets: int = 9
    step_size: float | None = None
    restarts: int = 1
    stop_when_fooled: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        counts = {"steps": self.steps, "targets": self.targets, "restarts": self.restarts}
        check_settings("margin", self.micro_batch, **counts)
        check_step_size(self.step_size)

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        with attacked(model, images, labels, self.micro_batch) as victim:
            if ball.epsilon == 0:
                return images.clamp(0, 1)
            sizes = step_sizes(self.step_size, ball.epsilon, self.steps)
            ascent = ProjectedAscent(victim, images, ball, score=margin, stop_when_fooled=self.stop_when_fooled)
            rows, logits = ascent.begin()
            ranked = likeliest_others(logits, labels, self.targets)
            for restart in range(self.restarts):
                for rank, goals in enumerate(ranked.unbind(1)):
                    start = ascent.random(draws.child("restart", restart, "target", rank))
                    rows = ascent.run(start, rows, sizes, _towards(goals))
            return ascent.best


def _towards(targets: Labels) -> Callable[[int, Rows], AdversarialLoss]:
    def loss_of(step: int, rows: Rows) -> AdversarialLoss:
        del step
        return lambda logits, labels: lead_of(logits, labels, targets[rows])

    return loss_of
