"""What every attack checks of its call first: the model, the ball and the draws."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from torch import Tensor

from memory_defense.checks import shown

_Call = TypeVar("_Call", bound=Callable[..., Any])

_BALL = ("norm", "epsilon", "project", "random_point", "ascent", "distance", "contains")
_DRAWS = ("child", "rows", "uniform", "normal", "integers")


def checked(call: _Call) -> _Call:
    """Return an attack's ``__call__`` that first refuses, by ValueError, what it cannot be called with."""

    @wraps(call)
    def checking(self: object, model: object, images: Any, labels: Any, ball: object, draws: object) -> Any:
        if isinstance(model, type) or not callable(model):
            raise ValueError(f"model is {shown(model)}, expected a module or a function of images (B, C, H, W)")
        if not _has(ball, _BALL):
            raise ValueError(f"ball is {shown(ball)}, expected one such as threat.Linf(8 / 255) or threat.L2(0.5)")
        if not _has(draws, _DRAWS):
            raise ValueError(
                f"draws is {shown(draws)}, expected such as randomness.ImageDraws.of(0, 'attack', len(images))"
            )
        keys = getattr(draws, "keys", None)
        if isinstance(images, Tensor) and isinstance(keys, Tensor) and images.dim() and len(keys) != len(images):
            raise ValueError(
                f"draws has {len(keys)} streams, but there are {len(images)} images; make one for each: "
                "randomness.ImageDraws.of(0, 'attack', len(images))"
            )
        return call(self, model, images, labels, ball, draws)

    return cast("_Call", checking)


def _has(one: object, names: tuple[str, ...]) -> bool:
    return not isinstance(one, type) and all(hasattr(one, name) for name in names)
