"""Gradient steps inside a ball: FGSM, RAND+FGSM, BIM and PGD are settings of one loop, which is in `ascent`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from memory_defense.attacks.ascent import ProjectedAscent, check_step_size, step_sizes
from memory_defense.attacks.calls import checked
from memory_defense.attacks.engine import StopsEarly, ascent_loss, attacked, check_settings
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels

OWN_MOMENTUM = 0.5
"""`Pgd.momentum` along our own step sizes."""


@dataclass(frozen=True, kw_only=True)
class Pgd(StopsEarly):
    """Projected gradient descent (Madry et al. 2018, arXiv 1706.06083), in the ball's own norm.

    Parameters
    ----------
    random_start
        Start at a random point of the ball. The clean image counts as an iterate either way. Several restarts need
        it.
    momentum
        The share of the earlier gradients that each step follows too (`ascent`), in [0, 1). None is 0.5 with
        ``step_size=None``, and 0, which is the paper's, with a step size that was given.
    steps, step_size, restarts, loss, targeted, stop_when_fooled, micro_batch
        See `memory_defense.attacks`.
    """

    steps: int = 40
    step_size: float | None = None
    momentum: float | None = None
    random_start: bool = True
    restarts: int = 1
    loss: str = "cross-entropy"
    targeted: bool = False
    stop_when_fooled: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        check_settings(self.loss, self.micro_batch, steps=self.steps, restarts=self.restarts)
        check_step_size(self.step_size)
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}, expected a share in [0, 1), or None")
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts is {self.restarts}, but without random_start all of them are the same")

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        with attacked(model, images, labels, self.micro_batch) as victim:
            if ball.epsilon == 0:
                return images.clamp(0, 1)
            sizes = step_sizes(self.step_size, ball.epsilon, self.steps)
            own = OWN_MOMENTUM if self.step_size is None else 0.0
            momentum = own if self.momentum is None else self.momentum
            loss = ascent_loss(self.loss, self.targeted)
            ascent = ProjectedAscent(
                victim, images, ball, score=loss, targeted=self.targeted, stop_when_fooled=self.stop_when_fooled
            )
            rows = ascent.begin()[0] if self.random_start and self.stop_when_fooled else victim.all_rows()
            judge = self.steps > 1 or self.random_start  # one step from clean is the only iterate
            for restart in range(self.restarts):
                start = ascent.random(draws.child("restart", restart)) if self.random_start else ascent.clean
                rows = ascent.run(start, rows, sizes, lambda _step, _rows: loss, momentum=momentum, judge=judge)
            return ascent.best


@dataclass(frozen=True, kw_only=True)
class Bim(StopsEarly):
    """Basic iterative method (Kurakin et al. 2017, arXiv 1607.02533): `Pgd` from the clean image.

    The step size may be above epsilon, as the paper's settings ask for it: the iterates then jump between corners
    of the ball.
    """

    steps: int = 10
    step_size: float | None = None
    loss: str = "cross-entropy"
    targeted: bool = False
    stop_when_fooled: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        self._as_pgd()

    def _as_pgd(self) -> Pgd:
        return Pgd(random_start=False, momentum=0.0, **vars(self))

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        return self._as_pgd()(model, images, labels, ball, draws)


@dataclass(frozen=True, kw_only=True)
class Fgsm(StopsEarly):
    """Fast gradient sign method (Goodfellow et al. 2015, arXiv 1412.6572): one step to the ball's surface.

    In an L2 ball the step is along the gradient itself; an unbounded ball is refused. Images that the model already
    mistakes stay as they are unless `stop_when_fooled` is off.
    """

    loss: str = "cross-entropy"
    targeted: bool = False
    stop_when_fooled: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        check_settings(self.loss, self.micro_batch)

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        if math.isinf(ball.epsilon):
            raise ValueError("one step cannot reach the surface of an unbounded ball; give it a finite epsilon")
        once = Pgd(steps=1, step_size=ball.epsilon or None, momentum=0.0, random_start=False, **vars(self))
        return once(model, images, labels, ball, draws)


@dataclass(frozen=True, kw_only=True)
class RandFgsm(StopsEarly):
    """RAND+FGSM (Tramer et al. 2018, arXiv 1705.07204): a random step, then one gradient step with what is left.

        x' = x + alpha * sign(N(0, I));   x_adv = x' + (epsilon - alpha) * sign(grad loss(x'))

    The random step leaves the clean image's neighbourhood, where a model trained against one step hides its
    gradient. In an L2 ball both steps have their length in that norm.

    Parameters
    ----------
    alpha
        Length of the random step in pixel units, above 0 and below epsilon; None is half of epsilon.
    loss, targeted, stop_when_fooled, micro_batch
        See `memory_defense.attacks`.
    """

    alpha: float | None = None
    loss: str = "cross-entropy"
    targeted: bool = False
    stop_when_fooled: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        check_settings(self.loss, self.micro_batch)
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha is {self.alpha}, expected a positive number of pixel units or None")

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        if math.isinf(ball.epsilon):
            raise ValueError("two steps cannot reach the surface of an unbounded ball; give it a finite epsilon")
        alpha = ball.epsilon / 2 if self.alpha is None else self.alpha
        with attacked(model, images, labels, self.micro_batch) as victim:
            if ball.epsilon == 0:
                return images.clamp(0, 1)
            if alpha >= ball.epsilon:
                raise ValueError(
                    f"alpha is {alpha:g}, but in a ball of radius {ball.epsilon:g} a gradient step must be left; "
                    "give a smaller alpha, or None for half of the radius"
                )
            loss = ascent_loss(self.loss, self.targeted)
            ascent = ProjectedAscent(
                victim, images, ball, score=loss, targeted=self.targeted, stop_when_fooled=self.stop_when_fooled
            )
            rows = ascent.begin()[0] if self.stop_when_fooled else victim.all_rows()
            start = ascent.noise(draws.child("random step"), alpha)
            ascent.run(start, rows, [ball.epsilon - alpha], lambda _step, _rows: loss)
            return ascent.best


PAPER_FGSM = Fgsm()
"""FGSM as the paper runs it."""

PAPER_RAND_FGSM = RandFgsm(alpha=0.05)
"""RAND+FGSM as Defense-GAN and Defense-VAE run it, for radii above 0.05."""

PAPER_BIM = Bim(steps=10, step_size=0.05)
"""BIM as the paper runs it; for every epsilon up to 12/255 its step is longer than epsilon."""

PAPER_PGD = Pgd(steps=40, step_size=0.0075)
"""PGD as the paper runs it."""
