"""Square attack (Andriushchenko et al. 2020, arXiv 1912.00049): random search with squares, no gradients.

Every image starts at a random pattern on the surface of its ball. Then, query after query, a random square of
the perturbation is replaced, and the change is kept where it raises the margin loss. The squares shrink on a
fixed schedule. Each image has squares of its own, so its result does not depend on the batch it travels in;
in the authors' code one position serves the whole batch, and a square never touches the last row or column.
What a square is in each norm stands in `square_moves`, the search in `square_search`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from memory_defense.attacks.engine import attacked, check_settings
from memory_defense.attacks.square_moves import MOVES
from memory_defense.attacks.square_search import Search
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels


@dataclass(frozen=True, kw_only=True)
class Square:
    """Square attack in an L-inf or an L2 ball, on the margin loss.

    Parameters
    ----------
    queries
        Squares tried on each image, at least 1. The clean image and the starting pattern cost a pass each.
    p_init
        The share of the image's area that the first squares have, in (0, 1]. With few queries the squares stay
        large, unless this is small.
    ahead
        Squares of one image tried together, at most. With 1 the model is asked exactly `queries` times for each
        image, as a model that charges for every question should be; more may ask more often, in fewer passes. The
        images that come out are the same, and so are the passes that `CountingPasses` counts: answers that are
        thrown away are not among them.
    stop_when_fooled
        Leave an image alone once the model errs on it, or if it does from the start. Otherwise every image
        takes every query. What was never left alone is returned at its largest margin.
    micro_batch
        Images in one pass; None is 256 on a CPU and 512 elsewhere.

    Raises
    ------
    ValueError
        For a value outside these ranges; when called, for a ball that is unbounded or of another norm.
    """

    queries: int = 5000
    p_init: float = 0.8
    ahead: int = 64
    stop_when_fooled: bool = True
    micro_batch: int | None = None
    gradient_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings("margin", self.micro_batch, queries=self.queries, ahead=self.ahead)
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init is {self.p_init}, expected a share of the image in (0, 1]")

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        if ball.norm not in MOVES:
            raise ValueError(f"the ball is {ball.norm}, but squares are defined for {' and '.join(MOVES)}")
        if math.isinf(ball.epsilon):
            raise ValueError("squares are drawn on the surface of the ball, so it must be bounded")
        with attacked(model, images, labels, self.micro_batch) as victim:
            moves = MOVES[ball.norm](ball.epsilon, *images.shape[1:])
            search = Search(victim, images.clamp(0, 1), moves, self)
            if ball.epsilon > 0:
                search.run(draws)
            return search.best

    def for_transfer(self) -> Self:
        """Return the same attack without early stops: the largest margin instead of the first success."""
        return replace(self, stop_when_fooled=False)
