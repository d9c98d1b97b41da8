"""Threat models: the balls an adversary must stay in. The norm is a value, not a class-name prefix.

Every radius is in pixel units of [0, 1]: 8/255 is written ``Linf(8 / 255)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from memory_defense.contracts import Ball, Draws, Images, PerImage
from memory_defense.names import check_norm, check_radius

TOLERANCE = 1e-5
"""Largest distance outside a ball that rounding of float32 explains, in pixel units (1/400 of a grey level)."""


def _column(values: PerImage, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, ...) so that it broadcasts over `like`."""
    return values.view(-1, *([1] * (like.dim() - 1)))


def _length(offset: Tensor) -> PerImage:
    return offset.flatten(1).square().sum(1).sqrt()


def _in_box(points: Images) -> PerImage:
    return ((points >= 0) & (points <= 1)).flatten(1).all(1)


@dataclass(frozen=True)
class Linf:
    """Every pixel may move by at most `epsilon`.

    Parameters
    ----------
    epsilon
        In [0, 1], pixel units.

    Raises
    ------
    ValueError
        For a radius outside [0, 1]; 8 is not 8/255.
    """

    epsilon: float
    norm: ClassVar[str] = "linf"

    def __post_init__(self) -> None:
        check_radius(self.norm, self.epsilon)

    def project(self, points: Images, centre: Images) -> Images:
        """Return points clamped to ``centre +- epsilon`` and to [0, 1]."""
        return points.clamp(centre - self.epsilon, centre + self.epsilon).clamp_(0, 1)

    def walls(self, centre: Images) -> tuple[Images, Images]:
        """Return the lowest and the highest pixels inside: `project` clamps to them, many projections faster."""
        return (centre - self.epsilon).clamp_(min=0), (centre + self.epsilon).clamp_(max=1)

    def random_point(self, centre: Images, draws: Draws) -> Images:
        """Return a uniform point of the cube, clamped to [0, 1]."""
        noise = draws.uniform(*centre.shape[1:]).to(centre)
        return (centre + self.epsilon * (2 * noise - 1)).clamp_(0, 1)

    def ascent(self, gradient: Tensor) -> Tensor:
        """Return the sign of the gradient."""
        return gradient.sign()

    def distance(self, points: Images, centre: Images) -> PerImage:
        """Return (B,) the largest pixel change."""
        return (points - centre).abs().flatten(1).amax(1)

    def contains(self, points: Images, centre: Images) -> PerImage:
        """Return (B,) bool; NaN is outside."""
        return (self.distance(points, centre) <= self.epsilon + TOLERANCE) & _in_box(points)


@dataclass(frozen=True)
class L2:
    """The Euclidean length of the perturbation is at most `epsilon`.

    Parameters
    ----------
    epsilon
        Non-negative, pixel units; ``L2(float("inf"))`` leaves only the [0, 1] box.

    Raises
    ------
    ValueError
        For a negative or NaN radius.
    """

    epsilon: float
    norm: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        check_radius(self.norm, self.epsilon)

    def project(self, points: Images, centre: Images) -> Images:
        """Return points scaled back to the ball, then clamped to [0, 1] (which moves them closer still)."""
        offset = points - centre
        length = _length(offset)
        shrink = (self.epsilon / length.clamp(min=1e-12)).clamp(max=1)
        return (centre + offset * _column(shrink, offset)).clamp_(0, 1)

    def random_point(self, centre: Images, draws: Draws) -> Images:
        """Return a uniform point of the ball, clamped to [0, 1]."""
        direction = self.ascent(draws.child("direction").normal(*centre.shape[1:]).to(centre))
        dimensions = centre[0].numel()
        radius = min(self.epsilon, dimensions**0.5) * draws.child("radius").uniform() ** (1 / dimensions)
        return (centre + direction * _column(radius.to(centre), centre)).clamp_(0, 1)

    def ascent(self, gradient: Tensor) -> Tensor:
        """Return the gradient at unit length; a zero gradient stays zero."""
        length = _length(gradient)
        return gradient / _column(length.clamp(min=1e-30), gradient)

    def distance(self, points: Images, centre: Images) -> PerImage:
        """Return (B,) the Euclidean length of the change."""
        return _length(points - centre)

    def contains(self, points: Images, centre: Images) -> PerImage:
        """Return (B,) bool; NaN is outside."""
        slack = TOLERANCE * max(1.0, min(self.epsilon, 1e3))
        return (self.distance(points, centre) <= self.epsilon + slack) & _in_box(points)


BALLS: dict[str, type[Linf] | type[L2]] = {"linf": Linf, "l2": L2}


def ball(norm: str, epsilon: float) -> Ball:
    """Return the ball of this name and radius; raise ValueError for an unknown norm."""
    check_norm(norm)
    return BALLS[norm](epsilon)
