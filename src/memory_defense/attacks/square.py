"""Square attack (Andriushchenko et al. 2020, arXiv 1912.00049): random search with squares, no gradients.

Every image starts at a random pattern on the surface of its ball. Then, query after query, a random square of
the perturbation is replaced, and the change is kept where it raises the margin loss. The squares shrink on a
fixed schedule. Each image has squares of its own, so its result does not depend on the batch it travels in;
in the authors' code one position serves the whole batch, and a square never touches the last row or column.
What a square is in each norm stands in `square_moves`.

A kept square is rare once the search is under way, and a pass of one image costs nearly that of several. So where
few images are left, the next squares of each are tried together, all on its present best; what comes after the
first one that is kept is thrown away and tried again. The outcome is that of trying them one by one.
"""

from __future__ import annotations

import itertools
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
            search = _Search(victim, images.clamp(0, 1), moves, self)
            if ball.epsilon > 0:
                search.run(draws)
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
    fooled: PerImage
    """(B,) bool: the model errs on `best`."""
    query: Rows
    """(B,) the next query of each image, inside the present block."""
    noise: Tensor
    """(B, queries, numbers) in [0, 1), for a block of queries."""

    def take(self, index: Tensor) -> _State:
        """Return these images, copied."""
        return _State(*(getattr(self, part.name)[index] for part in fields(self)))


class _Search:
    """One call: what is attacked, and the best image known for each row."""

    def __init__(self, victim: Victim, clean: Images, moves: Moves, settings: Square) -> None:
        self.victim, self.best, self.moves, self.settings = victim, clean, moves, settings
        self.kept = 1.0
        """Share of the squares that were kept lately."""

    def run(self, draws: Draws) -> None:
        """Replace `best`, which holds the clean images, by what the search finds."""
        settings, rows = self.settings, self.victim.all_rows()
        if settings.stop_when_fooled:
            leads = [self._judge(self.best[part], part)[1] for part in self.victim.parts(rows)]
            rows = rows[~torch.cat(leads)]
        state = self._leave(self._begin(rows, draws))
        for start in range(0, settings.queries, _BLOCK):
            if len(state.rows) == 0:
                break
            own = draws.child("squares", start).rows(state.rows.cpu())
            state.noise = own.uniform(_BLOCK, self.moves.numbers).to(state.clean)
            for first, end, side in self._pieces(start):
                state.query.fill_(first)
                self._search(state, end, side)
                state = self._leave(state)
        self.best[state.rows] = state.best

    def _pieces(self, start: int) -> list[tuple[int, int, int]]:
        """Return the runs of one block's queries whose squares have one size: first, end, side."""
        end, (_, height, width) = min(start + _BLOCK, self.settings.queries), self.best.shape[1:]
        cuts = [start, *(mark + 1 for mark in HALVINGS if start <= mark < end - 1), end]
        return [
            (first, last, square_side(self.settings.p_init, first, height, width))
            for first, last in itertools.pairwise(cuts)
        ]

    def _begin(self, rows: Rows, draws: Draws) -> _State:
        clean = self.best[rows]
        noise = draws.child("start").rows(rows.cpu()).uniform(*self.moves.start_numbers).to(clean)
        best = self.moves.start(clean, noise)
        judged = [self._judge(best[part], rows[part]) for part in self.victim.parts(torch.arange(len(rows)))]
        lead, fooled = (
            (torch.cat(each) for each in zip(*judged, strict=True)) if judged else (clean.new_zeros(0),) * 2
        )
        return _State(rows, clean, best, lead, fooled.bool(), torch.zeros_like(rows), noise)

    def _leave(self, state: _State) -> _State:
        """Let go of the images that need no more queries."""
        if not self.settings.stop_when_fooled or not bool(state.fooled.any()):
            return state
        self.best[state.rows[state.fooled]] = state.best[state.fooled]
        return state.take(~state.fooled)

    def _search(self, state: _State, end: int, side: int) -> None:
        """Try squares of one size on every image, in place, until all are at query `end`."""
        everyone = torch.arange(len(state.rows), device=state.rows.device)
        waiting = everyone
        while len(waiting):
            width = self._width(len(waiting), end - int(state.query[waiting].min()))
            together = max(self.victim.micro_batch // width, 1)
            for start in range(0, len(waiting), together):
                self._visit(state, waiting[start : start + together], range(width), end, side)
            going = state.query < end
            waiting = everyone[going & ~state.fooled if self.settings.stop_when_fooled else going]

    def _width(self, images: int, left: int) -> int:
        """Return how many squares of each image to try together; it decides about time, never about outcomes."""
        likely = round(1 / max(self.kept, 1e-3))
        return max(min(likely, self.victim.micro_batch // images, self.settings.ahead, left), 1)

    def _visit(self, state: _State, part: Rows, ahead: range, end: int, side: int) -> None:
        """Try the next squares of these images, and go on to the first that is kept, or past all."""
        width = len(ahead)
        each = part.repeat_interleave(width) if width > 1 else part  # (B W,)
        query = state.query[part][:, None] + torch.arange(width, device=part.device)  # (B, W)
        noise = state.noise[each, query.clamp(max=end - 1).flatten() % _BLOCK]
        tried = self.moves.square(state.clean[each], state.best[each], noise, side)
        lead, fooled = self._judge(tried, state.rows[each])
        before = state.lead[each]
        better = ((lead > before) | (fooled & ~(lead < before))).view(-1, width) & (query < end)
        found, first = better.any(1), better.byte().argmax(1)
        winners = (torch.arange(len(part), device=part.device) * width + first)[found]
        chosen = part[found]
        state.best[chosen], state.lead[chosen], state.fooled[chosen] = (
            tried[winners],
            lead[winners],
            fooled[winners],
        )
        state.query[part] = torch.where(found, state.query[part] + first + 1, query[:, -1] + 1).clamp(max=end)
        decided = int((state.query[part] - query[:, 0]).sum())
        self.victim.discount(len(each) - decided)
        self.kept += 0.1 * (len(chosen) / decided - self.kept)

    def _judge(self, points: Images, rows: Rows) -> tuple[PerImage, PerImage]:
        """Return (B,) the margin, and whether the model errs."""
        logits, labels = self.victim.answers(points, rows), self.victim.labels[rows]
        return margin(logits, labels).to(points.dtype), reached(logits, labels)
