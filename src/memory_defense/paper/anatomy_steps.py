"""The choices between the paper's cell and the number that is left, and the order in which they are changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from memory_defense.attacks import Pgd
from memory_defense.contracts import Ball, Draws, Images, PerImage
from memory_defense.threat import TOLERANCE, Linf

RELEASED_MEAN, RELEASED_STD = 0.1307, 0.3081
"""What the released code normalises Fashion-MNIST with: MNIST's constants (reading A20)."""
STEP_SIZE = 0.0075
"""Of the paper's PGD, in whatever units the step's protocol has."""

SEEN = {
    "true label": "the slot is a constant, the image's true label",
    "clean answer": "the slot is a constant, the selector's answer for the clean image",
    "soft slot": "the choice of the slot has a gradient",
    "selector": "the selector alone, which chooses the slot",
}
"""What the attack differentiates: encoder, memory, decoder and classifier-B, but for the last."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Every choice that some step changes."""

    score: Literal["mean of clean and attacked", "attacked"] = "mean of clean and attacked"
    """What is printed as robust accuracy."""
    steps: int = 10
    units: Literal["normalised", "pixels"] = "normalised"
    """What epsilon and the step size are measured in, and where images are clipped to [0, 1]."""
    seen: Literal["true label", "clean answer", "soft slot", "selector"] = "true label"
    """Key of `SEEN`."""
    attacks: Literal["PGD", "all, worst case"] = "PGD"

    def choices(self) -> dict[str, str | int]:
        """Return every choice by name."""
        return asdict(self)

    def ball(self, epsilon: float) -> Ball:
        """Return where attacked images may lie."""
        if self.units == "pixels":
            return Linf(epsilon)
        return NormalisedBox(epsilon, RELEASED_MEAN, RELEASED_STD)

    def attack(self) -> Pgd:
        """Return the paper's PGD; every image takes every step and comes back at its highest loss."""
        size = STEP_SIZE if self.units == "pixels" else STEP_SIZE * RELEASED_STD
        return Pgd(steps=self.steps, step_size=size, stop_when_fooled=False)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One row of the table."""

    key: str
    title: str
    protocol: Protocol


def _steps() -> tuple[Step, ...]:
    changes: Sequence[tuple[str, str, dict[str, str | int]]] = (
        ("b", "Attacked images alone, not their mean with clean ones", {"score": "attacked"}),
        ("c", "40 steps, not 10", {"steps": 40}),
        ("d", "Epsilon and clipping in pixels, not in normalised units", {"units": "pixels"}),
        ("e", "The slot is the selector's, not the true label", {"seen": "clean answer"}),
        ("f", "The choice of the slot has a gradient", {"seen": "soft slot"}),
        ("g", "The selector itself is attacked", {"seen": "selector"}),
        ("h", "Every attack with every knowledge, worst case image by image", {"attacks": "all, worst case"}),
    )
    steps = [Step(key="a", title="Scored as the released code does", protocol=Protocol())]
    for key, title, change in changes:
        changed = replace(steps[-1].protocol, **change)  # pyright: ignore[reportArgumentType]
        steps.append(Step(key=key, title=title, protocol=changed))
    return tuple(steps)


STEPS = _steps()
"""Each differs from the one before in exactly one choice."""


def difference(one: Protocol, other: Protocol) -> list[str]:
    """Return the names of the choices in which two protocols differ."""
    return [field.name for field in fields(Protocol) if getattr(one, field.name) != getattr(other, field.name)]


@dataclass(frozen=True)
class NormalisedBox:
    """Where the released code looks for adversarial images, in pixel units.

    It takes epsilon in the units of ``(x - mean) / std`` and clips to [0, 1] there. In pixels the radius is
    ``epsilon * std`` and the box is ``[mean, mean + std]``, so that every pixel outside the box is moved into it,
    however far that is: clean images do not lie in their own ball, and black is never black.

    Parameters
    ----------
    radius
        epsilon in normalised units, at least 0.
    mean, std
        Of the normalisation; the box lies in [0, 1].

    Raises
    ------
    ValueError
        For a negative radius, or a box that leaves [0, 1].
    """

    radius: float
    mean: float
    std: float
    norm: ClassVar[str] = "linf"

    def __post_init__(self) -> None:
        if not self.radius >= 0:
            raise ValueError(f"the radius is {self.radius}, but it must be at least 0")
        if not (self.mean >= 0 and self.std > 0 and self.mean + self.std <= 1):
            raise ValueError(f"the box [{self.mean}, {self.mean + self.std}] must be a part of [0, 1]")

    @property
    def epsilon(self) -> float:
        """The radius in pixel units."""
        return self.radius * self.std

    def project(self, points: Images, centre: Images) -> Images:
        """Return points clamped to ``centre +- epsilon``, then to the box."""
        near = torch.minimum(torch.maximum(points, centre - self.epsilon), centre + self.epsilon)
        return near.clamp(self.mean, self.mean + self.std)

    def random_point(self, centre: Images, draws: Draws) -> Images:
        """Return a uniform point of ``centre +- epsilon``, clamped to the box."""
        noise = draws.uniform(*centre.shape[1:]).to(centre)
        return self.project(centre + self.epsilon * (2 * noise - 1), centre)

    def ascent(self, gradient: Tensor) -> Tensor:
        """Return the sign of the gradient."""
        return gradient.sign()

    def distance(self, points: Images, centre: Images) -> PerImage:
        """Return (B,) the largest change of a pixel, which may be far above `epsilon`."""
        return (points - centre).abs().flatten(1).amax(1)

    def contains(self, points: Images, centre: Images) -> PerImage:
        """Return (B,) bool: what `project` leaves where it is; NaN is outside."""
        moved = (points - self.project(points, centre)).abs().flatten(1).amax(1)
        return moved <= TOLERANCE
