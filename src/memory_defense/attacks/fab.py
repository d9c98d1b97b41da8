"""Fast adaptive boundary attack, targeted (Croce & Hein 2020, arXiv 1907.02044), as AutoAttack runs it.

Towards a target class t, with f = z_t - z_y the lead and H its linearised boundary at x_k:

    x_{k+1} = clip((1 - alpha) (x_k + eta d_k) + alpha (clean + eta d_0))            (their Eq. 8 and 9)

where d_k and d_0 are the shortest steps from x_k and from the clean image to H inside the [0, 1] box and
``alpha = min(||d_k|| / (||d_k|| + ||d_0||), alpha_max)`` pulls towards the clean image. An iterate that fools
the model is recorded and drawn back: ``clean + beta (x_{k+1} - clean)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memory_defense.attacks.calls import checked
from memory_defense.attacks.closest import Closest, SmallestChange, check_search, column
from memory_defense.attacks.engine import attacked
from memory_defense.attacks.targets import Siblings, lead_of, together
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, Logits, PerImage, Rows

_NEWTON_STEPS = 60
"""More than any projection needs; each step saturates at least one more pixel or is the last."""

_LOOK = 8
"""Newton steps between two looks, on an accelerator, at whether all are done; more of them change nothing."""

_BEYOND = 1e9
"""A multiplier that saturates every pixel with a weight worth the name."""


@dataclass(frozen=True, kw_only=True)
class FabTargeted(SmallestChange):
    """FAB-T in the ball's own norm, L-inf or L2; returns the closest image found that fools the model.

    An image for which nothing is found inside the ball comes back unchanged, as does one already mistaken.

    Parameters
    ----------
    alpha_max
        The largest pull towards the clean image, in (0, 1).
    eta
        Overshoot across the linearised boundary, at least 1.
    beta
        The share of the change that is kept after a success, in (0, 1).
    steps, targets, confidence, best_effort, stop_when_fooled, micro_batch
        See `memory_defense.attacks`.
    """

    steps: int = 100
    targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    confidence: float = 0.0
    best_effort: bool = False
    stop_when_fooled: bool = False
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        shares = {"alpha_max": self.alpha_max, "beta": self.beta}
        counts = {"steps": self.steps, "targets": self.targets}
        check_search(self.confidence, self.micro_batch, shares, {"eta": self.eta}, **counts)
        if self.eta < 1:
            raise ValueError(f"eta is {self.eta}, but a step that stops short of the boundary needs no eta below 1")

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        del draws  # nothing is random
        with attacked(model, images, labels, self.micro_batch, exact=True) as victim:
            clean = images.clamp(0, 1)
            if ball.epsilon == 0:
                return clean
            found = self.closest(victim, clean, ball)
            rows, logits = found.start()
            others = logits.scatter(1, labels[:, None], -torch.inf)
            likely = others.sort(dim=1, descending=True, stable=True).indices
            rank, count = 0, min(self.targets, logits.shape[1] - 1)
            while rank < count and len(rows):
                ranks = together(victim, len(rows), rank, count)
                self._run(found, Siblings(victim, rows, ranks), likely)
                rank, rows = ranks.stop, found.unfinished(rows)
            return found.result()

    def _run(self, found: Closest, group: Siblings, likely: Labels) -> None:
        """Search towards these targets of every image in the same passes, and keep the closest of what is found."""
        own, copies = self.closest(group.victim, found.clean[group.index], found.ball), group.victim.all_rows()
        points, targets = own.clean.clone(), likely[group.index, group.rank]
        for _ in range(self.steps):
            for part in group.victim.parts(copies):
                points[part] = self._step(own, points[part], part, targets[part])
            group.seen(copies, forward=2, backward=1)
            left = own.unfinished(copies)
            if len(left) < len(copies):
                group.settle(copies[~torch.isin(copies, left)])
                left = left[group.needed(left)]
            copies = left
        for at, rows in group.by_rank():
            found.merge(own, rows, at)
        group.discount()

    def _step(self, found: Closest, points: Images, rows: Rows, targets: Labels) -> Images:
        """Return one micro-batch moved by one step, recorded and drawn back where it fools the model."""

        def lead(logits: Logits, labels: Labels) -> PerImage:
            return lead_of(logits, labels, targets) - self.confidence

        victim, ball, clean = found.victim, found.ball, found.clean[rows]
        seen = victim.gradient(points, rows, lead)
        back = (seen.gradient * (points - clean)).flatten(1).sum(1)
        here, origin = shortest_steps(
            torch.stack([points, clean]), seen.gradient, torch.stack([-seen.losses, back - seen.losses]), ball.norm
        )
        zero = points.new_zeros(())
        near, far = (ball.distance(step, zero).clamp(min=1e-8) for step in (here, origin))
        pull = column((near / (near + far)).clamp(max=self.alpha_max))
        moved = points.add(here, alpha=self.eta).lerp_(clean.add(origin, alpha=self.eta), pull).clamp_(0, 1)
        if self.best_effort:
            moved = ball.project(moved, clean)
        wrong = found.record(moved, rows, victim.answers(moved, rows))
        if not victim.on_cpu:
            return torch.where(column(wrong), clean.lerp(moved, self.beta), moved)
        fooled = wrong.nonzero().squeeze(1)
        if len(fooled):
            back_to = clean.index_select(0, fooled).lerp(moved.index_select(0, fooled), self.beta)
            moved.index_copy_(0, fooled, back_to)
        return moved


def shortest_steps(points: Images, normals: Tensor, gaps: PerImage, norm: str) -> Tensor:
    """Return the shortest steps d with ``<normal, d> = gap`` that keep the points inside [0, 1] (their Eq. 4).

    Every pixel moves by ``min(m * speed, room)``, with speed 1 in L-inf and ``|normal|`` in L2, and one
    multiplier m for each image. What the steps add up to is concave and piecewise linear in m, so Newton's
    method from 0 rises to the root without overshooting, and without sorting. Where the box does not reach
    the plane, every pixel goes as far as it can.

    Parameters
    ----------
    points
        (..., B, C, H, W) in [0, 1].
    normals
        (B, C, H, W) of the planes.
    gaps
        (..., B) what ``<normal, point>`` lacks.
    norm
        ``linf`` or ``l2``.
    """
    normal = normals.flatten(1)  # (B, D)
    direction = normal.sign() * gaps.sign()[..., None]  # (..., B, D)
    # Arithmetic on masks, as torch.where is far slower on a CPU; in place, as passes over memory are the cost.
    room = (points.flatten(-3) - 0.5).mul_(direction).neg_().add_(0.5)
    # A plane is the same at any scale; at this one the multiplier is near the step's own length.
    weight = normal.abs()
    scale = weight.amax(1).clamp(min=1e-30)
    weight, needed = weight.div_(scale[:, None]), gaps.abs() / scale
    # In L-inf a pixel without slope would not move, but its speed matters to no sum and its direction is 0.
    speed, gain = (1.0, weight) if norm == "linf" else (weight, weight * weight)
    reachable = weight * room
    multiplier = torch.zeros_like(needed)
    look = 1 if points.device.type == "cpu" else _LOOK
    for step in range(1, _NEWTON_STEPS + 1):
        free = (_at_speed(multiplier, speed) < room).to(weight)
        slope = (free * gain).sum(-1)
        left = needed + free.sub_(1).mul_(reachable).sum(-1)
        better = torch.where(slope > 0, left / slope, _BEYOND).clamp(max=_BEYOND)
        if step % look == 0 and not bool((better > multiplier).any()):
            break
        multiplier = torch.maximum(multiplier, better)
    return torch.minimum(_at_speed(multiplier, speed), room).mul_(direction).view(points.shape)


def _at_speed(multiplier: PerImage, speed: Tensor | float) -> Tensor:
    """Return how far pixels of this speed go: (..., B, D), or (..., B, 1) where all have speed 1."""
    return multiplier[..., None] if isinstance(speed, float) else multiplier[..., None] * speed
