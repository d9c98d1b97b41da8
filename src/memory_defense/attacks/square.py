"""Square attack (Andriushchenko et al. 2020, arXiv 1912.00049): random search with squares, no gradients.

Every image starts at a random pattern on the surface of its ball. Then, query after query, a random square of
the perturbation is replaced, and the change is kept where it raises the margin loss. The squares shrink on a
fixed schedule. Each image has squares of its own, so its result does not depend on the batch it travels in;
in the authors' code one position serves the whole batch, and a square never touches the last row or column.
What a square is in each norm stands in `square_moves`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from memory_defense.attacks.engine import Victim, attacked, check_settings, reached
from memory_defense.attacks.square_moves import MOVES, Moves
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, PerImage, Rows
from memory_defense.losses import margin

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The queries after which the area of the squares is halved; made for 10,000 and not rescaled to fewer."""

_BLOCK = 64
"""Queries whose random numbers are drawn at once."""


def square_side(p_init: float, query: int, height: int, width: int) -> int:
    """Return the side of the squares at this query, counted from 0: ``sqrt(p * height * width)``, rounded.

    It is at least 1 and at most the shorter side of the image.
    """
    share = p_init / 2 ** sum(query > mark for mark in HALVINGS)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


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
    stop_when_fooled
        Leave an image alone once the model errs on it, or if it does from the start. Otherwise every image
        takes every query. What was never left alone is returned at its largest margin.
    micro_batch
        Images in one pass; None is 64 on a CPU and 512 elsewhere.

    Raises
    ------
    ValueError
        For a value outside these ranges; when called, for a ball that is unbounded or of another norm.
    """

    queries: int = 5000
    p_init: float = 0.8
    stop_when_fooled: bool = True
    micro_batch: int | None = None
    gradient_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings("margin", self.micro_batch, queries=self.queries)
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init is {self.p_init}, expected a share of the image in (0, 1]")

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        if ball.norm not in MOVES:
            raise ValueError(f"the ball is {ball.norm}, but squares are defined for {' and '.join(MOVES)}")
        if math.isinf(ball.epsilon):
            raise ValueError("squares are drawn on the surface of the ball, so it must be bounded")
        with attacked(model, images, labels, self.micro_batch) as victim:
            search = _Search(victim, images.clamp(0, 1), MOVES[ball.norm](ball.epsilon, *images.shape[1:]))
            if ball.epsilon > 0:
                search.run(self, draws)
            return search.best

    def for_transfer(self) -> Self:
        """Return the same attack without early stops: the largest margin instead of the first success."""
        return replace(self, stop_when_fooled=False)


@dataclass
class _State:
    """Where the images stand, packed: the first axis of every field is the images that are still attacked."""

    rows: Rows
    clean: Images
    best: Images
    lead: PerImage
    """The margin of `best`."""
    noise: Tensor
    """(B, queries, numbers) in [0, 1), for a block of queries."""

    def take(self, index: Tensor | slice) -> _State:
        """Return these images: as views for a slice, to be changed in place, else as copies."""
        return _State(*(getattr(self, part.name)[index] for part in fields(self)))


class _Search:
    """One call: what is attacked, and the best image known for each row."""

    def __init__(self, victim: Victim, clean: Images, moves: Moves) -> None:
        self.victim, self.best, self.moves = victim, clean, moves

    def run(self, settings: Square, draws: Draws) -> None:
        """Replace `best`, which holds the clean images, by what the search finds."""
        rows, (_, height, width) = self.victim.all_rows(), self.best.shape[1:]
        if settings.stop_when_fooled:
            leads = [self._judge(self.best[part], part)[1] for part in self.victim.parts(rows)]
            rows = rows[~torch.cat(leads)]
        state = self._begin(rows, draws)
        for query in range(-1, settings.queries):
            if query >= 0 and query % _BLOCK == 0:
                own = draws.child("squares", query).rows(state.rows.cpu())
                state.noise = own.uniform(_BLOCK, self.moves.numbers).to(state.clean)
            side = square_side(settings.p_init, query, height, width)
            fooled = [self._visit(part, query, side) for part in self._parts(state)]
            if settings.stop_when_fooled and any(bool(some.any()) for some in fooled):
                out = torch.cat(fooled)
                self.best[state.rows[out]] = state.best[out]
                state = state.take(~out)
            if len(state.rows) == 0:
                break
        self.best[state.rows] = state.best

    def _begin(self, rows: Rows, draws: Draws) -> _State:
        clean = self.best[rows]
        own = draws.child("start").rows(rows.cpu())
        low = clean.new_full((len(rows),), -math.inf)
        noise = own.uniform(*self.moves.start_numbers).to(clean)
        return _State(rows=rows, clean=clean, best=self.moves.start(clean, noise), lead=low, noise=noise)

    def _parts(self, state: _State) -> list[_State]:
        size = self.victim.micro_batch
        return [state.take(slice(at, at + size)) for at in range(0, len(state.rows), size)]

    def _visit(self, state: _State, query: int, side: int) -> PerImage:
        """Try one square on one micro-batch, in place; return (B,) whether the model errs on the result.

        Query -1 judges the start.
        """
        if query < 0:
            tried = state.best
        else:
            tried = self.moves.square(state.clean, state.best, state.noise[:, query % _BLOCK], side)
        lead, fooled = self._judge(tried, state.rows)
        better = (lead > state.lead) | (fooled & ~(lead < state.lead))
        state.best.copy_(torch.where(better[:, None, None, None], tried, state.best))
        state.lead.copy_(torch.where(better, lead, state.lead))
        return fooled

    def _judge(self, points: Images, rows: Rows) -> tuple[PerImage, PerImage]:
        """Return (B,) the margin, and whether the model errs."""
        logits, labels = self.victim.answers(points, rows), self.victim.labels[rows]
        return margin(logits, labels).to(points.dtype), reached(logits, labels)
