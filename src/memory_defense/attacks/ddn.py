"""Decoupled direction and norm (Rony et al. 2019, arXiv 1811.09600): the smallest L2 change that fools.

    x_{k+1} = clip(clean + eps_{k+1} * u / ||u||),   u = x_k - clean + size_k * g / ||g||

with ``eps_{k+1} = (1 - gamma) eps_k`` where x_k fools the model and ``(1 + gamma) eps_k`` where it does not:
the direction follows the gradient g, the norm follows the decision (their Algorithm 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from memory_defense.attacks.calls import checked
from memory_defense.attacks.closest import SmallestChange, check_search, column
from memory_defense.attacks.engine import ascent_loss, attacked
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels
from memory_defense.threat import L2

_LAST_STEP = 0.01
"""The gradient step falls from 1 to this along a cosine, in pixel units."""


@dataclass(frozen=True, kw_only=True)
class Ddn(SmallestChange):
    """Rony et al.'s L2 attack; returns the closest image found that fools the model.

    An image for which none is found inside the ball comes back unchanged, as does one already mistaken. The ball
    must be L2. If the gradient is exactly 0 the direction is drawn. Images are not rounded to 256 grey levels.

    Parameters
    ----------
    gamma
        Share by which the norm moves in one step, in (0, 1); distances are about as precise.
    initial_norm
        The first norm in pixel units, positive.
    loss
        The published cross-entropy pulls towards all wrong classes at once; if several are about as likely,
        ``margin`` reaches smaller distances.
    steps, confidence, best_effort, stop_when_fooled, targeted, micro_batch
        See `memory_defense.attacks`.
    """

    steps: int = 100
    gamma: float = 0.05
    initial_norm: float = 1.0
    loss: str = "cross-entropy"
    confidence: float = 0.0
    best_effort: bool = False
    stop_when_fooled: bool = False
    targeted: bool = False
    micro_batch: int | None = None
    norms: ClassVar[tuple[str, ...]] = ("l2",)

    def __post_init__(self) -> None:
        ascent_loss(self.loss)
        lengths = {"initial_norm": self.initial_norm}
        check_search(self.confidence, self.micro_batch, {"gamma": self.gamma}, lengths, steps=self.steps)

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        if ball.norm != "l2":
            raise ValueError(
                f"this attack minimises the L2 distance, the ball is {ball.norm}; use threat.L2(epsilon), "
                "L2(float('inf')) for no limit, or Fmn or FabTargeted for an L-inf ball"
            )
        loss = ascent_loss(self.loss, self.targeted)
        with attacked(model, images, labels, self.micro_batch, exact=True) as victim:
            clean = images.clamp(0, 1)
            if ball.epsilon == 0:
                return clean
            found = self.closest(victim, clean, ball)
            rows, _ = found.start()
            points = clean.clone()
            limit = found.reach()
            norm = limit.clamp(max=self.initial_norm)
            for step in range(self.steps):
                size = _LAST_STEP + (1 - _LAST_STEP) * (1 + math.cos(math.pi * step / self.steps)) / 2
                for part in victim.parts(rows):
                    here, centre = points[part], clean[part]
                    seen = victim.gradient(here, part, loss)
                    fooled = found.record(here, part, seen.logits)
                    gradient = seen.gradient
                    stuck = (gradient == 0).flatten(1).all(1)
                    if bool(stuck.any()):
                        ours = draws.child("flat", step).rows(part[stuck])
                        noise = ours.normal(*clean.shape[1:])
                        gradient = gradient.index_put((stuck.nonzero().squeeze(1),), noise.to(gradient))
                    grown = norm[part] * torch.where(fooled, 1 - self.gamma, 1 + self.gamma)
                    norm[part] = torch.minimum(grown, limit[part])
                    offset = (here - centre).add_(L2(1.0).ascent(gradient), alpha=size)
                    points[part] = L2(1.0).ascent(offset).mul_(column(norm[part])).add_(centre).clamp_(0, 1)
                rows = found.unfinished(rows)
            for part in victim.parts(rows):
                found.record(points[part], part, victim.answers(points[part], part))
            return found.result()
