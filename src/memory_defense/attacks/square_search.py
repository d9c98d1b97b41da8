"""The search behind `square.Square`: squares tried one after the other, on many images at once.

A kept square is rare once the search is under way, and a pass of one image costs nearly that of several. So where
few images are left, the next squares of each are tried together, all on its present best; what comes after the
first one that is kept is thrown away and tried again. The outcome is that of trying them one by one.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from memory_defense.attacks.engine import Victim, reached
from memory_defense.attacks.square_moves import Moves
from memory_defense.contracts import Draws, Images, PerImage, Rows
from memory_defense.losses import margin

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The queries after which the area of the squares is halved; made for 10,000 and not rescaled to fewer."""

_BLOCK = 64
"""Queries whose random numbers are drawn at once."""

_VISIT = 10
"""Images whose pass takes as long as everything else about a visit; measured on small networks."""


def square_side(p_init: float, query: int, height: int, width: int) -> int:
    """Return the side of the squares at this query, counted from 0: ``sqrt(p * height * width)``, rounded.

    It is at least 1 and at most the shorter side of the image.
    """
    share = p_init / 2 ** sum(query > mark for mark in HALVINGS)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


class Settings(Protocol):
    """What a search asks of `square.Square`, which explains it."""

    @property
    def queries(self) -> int:
        """How many squares are tried on each image."""
        ...

    @property
    def p_init(self) -> float:
        """The share of the image that the first squares have."""
        ...

    @property
    def ahead(self) -> int:
        """How many squares of one image are tried together, at most."""
        ...

    @property
    def stop_when_fooled(self) -> bool:
        """Whether an image is left alone once the model errs on it."""
        ...


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


class Search:
    """One call: what is attacked, and the best image known for each row."""

    def __init__(self, victim: Victim, clean: Images, moves: Moves, settings: Settings) -> None:
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
                part = waiting[start : start + together]
                if width > 1:
                    self._visit_ahead(state, part, width, end, side)
                else:  # where all are visited, the images of a part lie side by side and are not gathered
                    whole = len(waiting) == len(everyone)
                    self._visit(state, part, slice(start, start + together) if whole else part, side)
            going = state.query < end
            waiting = everyone[going & ~state.fooled if self.settings.stop_when_fooled else going]

    def _width(self, images: int, left: int) -> int:
        """Return how many squares of each image to try together; it decides about time, never about outcomes.

        With W squares of n images a visit costs as much as a pass of `_VISIT` + W n images. Of an image's W squares
        about W (W - 1) / 2 times the share kept are wasted. Where that is rare, the best W is the root below.
        """
        likely = round(math.sqrt(2 * _VISIT / (images * max(self.kept, 1e-3))))
        return max(min(likely, self.victim.micro_batch // images, self.settings.ahead, left), 1)

    def _visit(self, state: _State, part: Rows, at: Rows | slice, side: int) -> None:
        """Try the next square of these images; `at` says where they lie, as a slice where that is one."""
        noise = state.noise[part, state.query[at] % _BLOCK]
        tried = self.moves.square(state.clean[at], state.best[at], noise, side)
        lead, fooled = self._judge(tried, state.rows[at])
        winners = _is_kept(lead, fooled, state.lead[at]).nonzero().squeeze(1)
        self._keep(state, part[winners], tried, lead, fooled, winners)
        state.query[at] += 1
        self._note(len(winners), len(part))

    def _visit_ahead(self, state: _State, part: Rows, width: int, end: int, side: int) -> None:
        """Try the next few squares of these images, and go on to the first that is kept, or past all."""
        each = part.repeat_interleave(width)  # (B W,)
        query = state.query[part][:, None] + torch.arange(width, device=part.device)  # (B, W)
        noise = state.noise[each, query.clamp(max=end - 1).flatten() % _BLOCK]
        tried = self.moves.square(state.clean[each], state.best[each], noise, side)
        lead, fooled = self._judge(tried, state.rows[each])
        better = _is_kept(lead, fooled, state.lead[each]).view(-1, width) & (query < end)
        found, first = better.any(1), better.byte().argmax(1)
        winners = (torch.arange(len(part), device=part.device) * width + first)[found]
        self._keep(state, part[found], tried, lead, fooled, winners)
        state.query[part] = torch.where(found, state.query[part] + first + 1, query[:, -1] + 1).clamp(max=end)
        decided = int((state.query[part] - query[:, 0]).sum())
        self.victim.discount(len(each) - decided)
        self._note(len(winners), decided)

    def _keep(
        self, state: _State, chosen: Rows, tried: Images, lead: PerImage, fooled: PerImage, winners: Rows
    ) -> None:
        """Let these images of the state go on from what was tried in these rows."""
        state.best[chosen], state.lead[chosen], state.fooled[chosen] = (
            tried[winners],
            lead[winners],
            fooled[winners],
        )

    def _note(self, kept: int, decided: int) -> None:
        """Remember how often squares are kept."""
        self.kept += 0.1 * (kept / decided - self.kept)

    def _judge(self, points: Images, rows: Rows) -> tuple[PerImage, PerImage]:
        """Return (B,) the margin, and whether the model errs."""
        logits, labels = self.victim.answers(points, rows), self.victim.labels[rows]
        return margin(logits, labels).to(points.dtype), reached(logits, labels)


def _is_kept(lead: PerImage, fooled: PerImage, before: PerImage) -> PerImage:
    """Return which squares are kept: those with a larger margin, or a rounding error that fools the model."""
    return (lead > before) | (fooled & ~(lead < before))
