"""How everything here is timed, counted and judged.

Jobs take turns, A B C A B C, in one process, so that what disturbs the machine disturbs all of them. Every job
gets the same network in the same state, wrapped in the same counter, and what it returns is judged the same way.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from memory_defense.contracts import Ball, Images, Labels, Logits, PerImage
from memory_defense.losses import margin
from memory_defense.threat import L2, Linf
from memory_defense.wrappers import CountingPasses

Trace = deque[list[int]]
"""Of every call: how many images, and how often a gradient came back."""

_ROUNDING = 1e-5
"""Margin over the largest logit within which a decision is a matter of rounding."""


class Counted(nn.Module):
    """A network that counts what goes through it, for ours and the peers alike.

    Parameters
    ----------
    network
        Its parameters ask for gradients, as after training; who freezes them does so in its own time.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()  # the wrapper's own flag, which foolbox looks at
        self.reset()

    def reset(self) -> None:
        """Forget what was counted, and the gradients that some peers leave in the parameters."""
        self.counting = CountingPasses(self.network)
        self.trace: Trace = deque()  # attacks look for modules in lists, and would look at every call of it
        for parameter in self.parameters():
            parameter.grad = None

    def forward(self, images: Images) -> Logits:
        """Return the logits (B, K)."""
        logits = self.counting(images)
        call = [len(images), 0]
        self.trace.append(call)
        if logits.requires_grad:
            logits.register_hook(lambda _: call.__setitem__(1, call[1] + 1))
        return logits


Run = Callable[[Counted, Images, Labels, int], Images]
"""An attack at work, with a seed; the peers draw from the global generators, which are seeded before."""


@dataclass(frozen=True)
class Job:
    """One line of a table."""

    name: str
    by: str
    """Whose implementation: ``ours``, a peer's name, or ``floor`` for passes without any logic."""
    settings: str
    """What it was given, in words."""
    run: Run


@dataclass
class Outcome:
    """What one job did, a value for each repetition."""

    job: Job
    cpu: list[float] = field(default_factory=list[float])
    wall: list[float] = field(default_factory=list[float])
    forward: list[float] = field(default_factory=list[float])
    """Passes of an image, on average."""
    backward: list[float] = field(default_factory=list[float])
    fooled: list[Tensor] = field(default_factory=list[Tensor])
    outside: list[int] = field(default_factory=list[int])
    """Returned images that lie outside the ball or outside [0, 1]; they count as not fooled."""
    distance: list[Tensor] = field(default_factory=list[Tensor])
    trace: Trace = field(default_factory=Trace)
    """Of the last repetition."""

    def row(self, fastest: float | None = None) -> dict[str, object]:
        """Return the medians under the names of the tables; `fastest` is the CPU time that counts as 1."""
        seconds = statistics.median(self.cpu)
        row: dict[str, object] = {
            "job": self.job.name,
            "by": self.job.by,
            "settings": self.job.settings,
            "cpu_s": seconds,
            "wall_s": statistics.median(self.wall),
            "cpu_s_all": self.cpu,
            "forward": statistics.median(self.forward),
            "backward": statistics.median(self.backward),
        }
        if fastest:
            row["times_ours"] = seconds / fastest
        if self.job.by != "floor":
            row["robust"] = statistics.median(1 - float(fooled.double().mean()) for fooled in self.fooled)
            row["robust_all"] = [1 - float(fooled.double().mean()) for fooled in self.fooled]
            row["outside"] = max(self.outside)
        return row


@torch.no_grad()
def judge(network: nn.Module, points: Images, clean: Images, labels: Labels, ball: Ball) -> tuple[PerImage, int]:
    """Return (B,) bool, which images fool the network from inside the ball, and how many lie outside it.

    An image on the boundary of two classes counts as fooled even where this pass, in this company, rounds the
    other way: a closest image ends there, and nobody's judging pass was this one.
    """
    inside = ball.contains(points, clean)
    logits = torch.cat([network(part.contiguous()) for part in points.split(256)])
    fooled = margin(logits, labels) > -_ROUNDING * logits.abs().amax(1)
    return fooled & inside, int((~inside).sum())


def seed_everything(seed: int) -> None:
    """Seed the global generators, which the peers draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def measure(
    jobs: Sequence[Job],
    network: nn.Module,
    images: Images,
    labels: Labels,
    ball: Linf | L2,
    *,
    repetitions: int,
    seed: int,
    warm_up: int = 16,
) -> dict[str, Outcome]:
    """Return what every job did, by its name.

    Parameters
    ----------
    jobs
        Run in this order, `repetitions` times over; repetition r is seeded with ``seed + r``.
    network
        In eval mode.
    images, labels, ball
        What is attacked, and where the returned images must lie.
    repetitions
        At least 1.
    seed
        Of the first repetition.
    warm_up
        Each job first works on this many images without a clock; 0 for only one pass of the network.
    """
    model = Counted(network)
    outcomes = {job.name: Outcome(job) for job in jobs}
    model(images[:64])
    for job in jobs if warm_up else ():
        model.reset()
        job.run(model, images[:warm_up], labels[:warm_up], seed)
    for repetition in range(repetitions):
        for job in jobs:
            outcome = outcomes[job.name]
            seed_everything(seed + repetition)
            model.reset()
            wall, cpu = time.perf_counter(), time.process_time()
            points = job.run(model, images, labels, seed + repetition).detach()
            outcome.cpu.append(time.process_time() - cpu)
            outcome.wall.append(time.perf_counter() - wall)
            outcome.trace = model.trace
            outcome.forward.append(model.counting.passes.forward / len(images))
            outcome.backward.append(model.counting.passes.backward / len(images))
            fooled, outside = judge(network, points, images, labels, ball)
            outcome.fooled.append(fooled)
            outcome.outside.append(outside)
            outcome.distance.append(torch.where(fooled, ball.distance(points, images), torch.inf))
    return outcomes
