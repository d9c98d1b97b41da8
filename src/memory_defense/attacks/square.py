"""Square attack (Andriushchenko et al. 2020, arXiv 1912.00049): random search with squares, no gradients.

    delta_0 = a random pattern on the surface of the ball;   for i = 1, ..., queries:
    delta'  = delta with a random square of side h_i changed
    delta   = delta' if the margin loss of clean + delta' is larger, else delta

The side h_i shrinks on a fixed schedule (`square_side`). Each image has squares of its own, so its result does not
depend on the batch it travels in; in the authors' code one position serves the whole batch, and a square never
touches the last row or column.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import ClassVar, Self

import torch
from torch import Tensor

from memory_defense.attacks.calls import checked
from memory_defense.attacks.engine import StopsEarly, Victim, attacked, check_settings, reached
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, PerImage, Rows
from memory_defense.losses import margin

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The queries after which the area of the squares is halved; made for 10,000 and not rescaled to fewer."""

_BLOCK = 64
"""Queries whose random numbers are drawn at once."""

_FIRST_LOOK = 512
"""Queries after which `Square.patience` is first asked; a whole number of blocks, and so is its half."""

_VISIT = {"cpu": 10}
"""Images whose pass takes as long as everything else about a visit; measured on small networks."""

_VISIT_ELSEWHERE = 500
"""The same on an accelerator, which is waited for in each visit and is not filled by fewer."""

_FEW = 16
"""A square is small if the image has that many times its pixels."""

_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Square(StopsEarly):
    """Square attack in an L-inf or an L2 ball, which must be bounded, on the margin loss.

    Parameters
    ----------
    queries
        Squares tried on each image, at least 1. The clean image and the starting pattern cost a pass each.
    p_init
        The share of the image's area that the first squares have, in (0, 1]. With few queries the squares stay
        large, unless this is small.
    ahead
        Most squares of one image that are tried together. With 1 the model is asked exactly `queries` times for
        each image, as a model that charges for every question should be; with more it may be asked more often, in
        fewer passes. The resulting images are the same, and so are the passes that `CountingPasses` counts: answers
        that are thrown away are not among them.
    patience
        Leave an image alone once its margin would not reach 0 with the queries that are left, even if it rose
        `patience` times as fast as over the last half of those that were asked; above 0. Searches slow down, so 1
        hopes for more than most of them hold. It is looked at after 512 queries, and at each doubling. A margin
        that has not risen says nothing, and the image goes on. None asks all `queries` of every image.
    stop_when_fooled, micro_batch
        See `memory_defense.attacks`; without early stops an image is returned at its largest margin.
    """

    queries: int = 5000
    p_init: float = 0.8
    ahead: int = 64
    patience: float | None = None
    stop_when_fooled: bool = True
    micro_batch: int | None = None
    gradient_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings("margin", self.micro_batch, queries=self.queries, ahead=self.ahead)
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init is {self.p_init}, expected a share of the image in (0, 1]")
        if self.patience is not None and not 0 < self.patience < math.inf:
            raise ValueError(f"patience is {self.patience}, expected a positive number, or None to try to the end")

    def for_transfer(self) -> Self:
        """Return the same attack without early stops: what is hopeless here may not be on another model."""
        return replace(self, stop_when_fooled=False, patience=None)

    @checked
    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        if ball.norm not in MOVES:
            raise ValueError(f"the ball is {ball.norm}, but squares are defined for {' and '.join(MOVES)}")
        if math.isinf(ball.epsilon):
            raise ValueError("squares are drawn on the surface of the ball, so it must be bounded")
        with attacked(model, images, labels, self.micro_batch) as victim:
            moves = MOVES[ball.norm](ball.epsilon, *images.shape[1:])
            search = _RandomSearch(self, victim, images.clamp(0, 1), moves)
            if ball.epsilon > 0:
                search.run(draws)
            return search.best


def square_side(p_init: float, query: int, height: int, width: int) -> int:
    """Return the side of the squares at this query, counted from 0: ``sqrt(p * height * width)``, rounded.

    It is at least 1 and at most the shorter side of the image.
    """
    share = p_init / 2 ** sum(query > mark for mark in HALVINGS)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


@dataclass
class _State:
    """State of the images that are still attacked, which are the first axis of every field."""

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
    marked: PerImage
    """`lead` at the last doubling of the queries."""

    def take(self, index: Tensor) -> _State:
        """Return these images, copied."""
        return _State(*(getattr(self, part.name)[index] for part in fields(self)))

    def put(self, at: Rows, best: Images, lead: PerImage, fooled: PerImage) -> None:
        """Go on from these images."""
        self.best[at], self.lead[at], self.fooled[at] = best, lead, fooled


class _RandomSearch:
    """One call: the best image known for each row of the set."""

    def __init__(self, attack: Square, victim: Victim, clean: Images, moves: LinfMoves | L2Moves) -> None:
        self.attack, self.victim, self.best, self.moves = attack, victim, clean, moves
        self.kept = 1.0
        """Share of the squares that were kept lately."""

    def run(self, draws: Draws) -> None:
        """Replace `best`, which holds the clean images, by what the search finds."""
        attack, rows = self.attack, self.victim.all_rows()
        if attack.stop_when_fooled:
            leads = [self._judge(self.best[part], part)[1] for part in self.victim.parts(rows)]
            rows = rows[~torch.cat(leads)]
        state = self._leave(self._begin(rows, draws))
        for start in range(0, attack.queries, _BLOCK):
            if len(state.rows) == 0:
                break
            own = draws.child("squares", start).rows(state.rows)
            state.noise = own.uniform(_BLOCK, self.moves.numbers).to(state.clean)
            for first, end, side in self._pieces(start):
                state.query.fill_(first)
                self._search(state, end, side)
                state = self._leave(state)
            state = self._give_up(state, start + _BLOCK)
        self.best[state.rows] = state.best

    def _pieces(self, start: int) -> list[tuple[int, int, int]]:
        """Return the runs of one block's queries whose squares have one size: first, end, side."""
        end, (_, height, width) = min(start + _BLOCK, self.attack.queries), self.best.shape[1:]
        cuts = [start, *(mark + 1 for mark in HALVINGS if start <= mark < end - 1), end]
        return [
            (first, last, square_side(self.attack.p_init, first, height, width))
            for first, last in itertools.pairwise(cuts)
        ]

    def _begin(self, rows: Rows, draws: Draws) -> _State:
        clean = self.best[rows]
        noise = draws.child("start").rows(rows).uniform(*self.moves.start_numbers).to(clean)
        best = self.moves.start(clean, noise)
        everyone = torch.arange(len(rows), device=rows.device)
        judged = [self._judge(best[part], rows[part]) for part in self.victim.parts(everyone)]
        lead, fooled = (
            (torch.cat(each) for each in zip(*judged, strict=True)) if judged else (clean.new_zeros(0),) * 2
        )
        return _State(rows, clean, best, lead, fooled.bool(), torch.zeros_like(rows), noise, lead.clone())

    def _leave(self, state: _State) -> _State:
        """Let go of the images that need no more queries."""
        if not self.attack.stop_when_fooled or not bool(state.fooled.any()):
            return state
        self.best[state.rows[state.fooled]] = state.best[state.fooled]
        return state.take(~state.fooled)

    def _give_up(self, state: _State, asked: int) -> _State:
        """Let go of the images that `Square.patience` calls hopeless, where so many queries are a doubling."""
        patience, left = self.attack.patience, self.attack.queries - asked
        if patience is None or left <= 0 or asked < _FIRST_LOOK // 2 or math.log2(asked / _FIRST_LOOK) % 1:
            return state
        rise, state.marked = state.lead - state.marked, state.lead.clone()
        forecast = state.lead + patience * rise * (left / (asked / 2))
        hopeless = (rise > 0) & (forecast < 0)
        if asked < _FIRST_LOOK or not bool(hopeless.any()):
            return state
        self.best[state.rows[hopeless]] = state.best[hopeless]
        return state.take(~hopeless)

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
            waiting = everyone[going & ~state.fooled if self.attack.stop_when_fooled else going]

    def _width(self, images: int, left: int) -> int:
        """Return how many squares of each image to try together; it decides about time, never about outcomes.

        With W squares of n images a visit costs as much as a pass of V + W n images (`_VISIT`). Of an image's W
        squares about W (W - 1) / 2 times the share kept are wasted. Where that is rare, the best W is the root
        below.
        """
        visit = _VISIT.get(self.best.device.type, _VISIT_ELSEWHERE)
        likely = round(math.sqrt(2 * visit / (images * max(self.kept, 1e-3))))
        return max(min(likely, self.victim.micro_batch // images, self.attack.ahead, left), 1)

    def _visit(self, state: _State, part: Rows, at: Rows | slice, side: int) -> None:
        """Try the next square of these images; `at` says where they lie, as a slice where that is one."""
        noise = state.noise[part, state.query[at] % _BLOCK]
        tried = self.moves.square(state.clean[at], state.best[at], noise, side)
        lead, fooled = self._judge(tried, state.rows[at])
        winners = _is_kept(lead, fooled, state.lead[at]).nonzero().squeeze(1)
        state.put(part[winners], tried[winners], lead[winners], fooled[winners])
        state.query[at] += 1
        self.kept += 0.1 * (len(winners) / len(part) - self.kept)

    def _visit_ahead(self, state: _State, part: Rows, width: int, end: int, side: int) -> None:
        """Try the next `width` squares of these images, and go on to the first that is kept, or past all."""
        each = part.repeat_interleave(width)  # (B W,)
        query = state.query[part][:, None] + torch.arange(width, device=part.device)  # (B, W)
        noise = state.noise[each, query.clamp(max=end - 1).flatten() % _BLOCK]
        tried = self.moves.square(state.clean[each], state.best[each], noise, side)
        lead, fooled = self._judge(tried, state.rows[each])
        better = _is_kept(lead, fooled, state.lead[each]).view(-1, width) & (query < end)
        # Squares after the first one kept were put on an image that is no longer the best: they are not decided.
        found, first = better.any(1), better.byte().argmax(1)
        winners = (torch.arange(len(part), device=part.device) * width + first)[found]
        state.put(part[found], tried[winners], lead[winners], fooled[winners])
        state.query[part] = torch.where(found, state.query[part] + first + 1, query[:, -1] + 1).clamp(max=end)
        decided = int((state.query[part] - query[:, 0]).sum())
        self.victim.discount(len(each) - decided)
        self.kept += 0.1 * (len(winners) / decided - self.kept)

    def _judge(self, points: Images, rows: Rows) -> tuple[PerImage, PerImage]:
        """Return (B,) the margin, and whether the model errs."""
        logits, labels = self.victim.answers(points, rows), self.victim.labels[rows]
        return margin(logits, labels).to(points.dtype), reached(logits, labels)


def _is_kept(lead: PerImage, fooled: PerImage, before: PerImage) -> PerImage:
    """Return which squares are kept: those with a larger margin, or a rounding error that fools the model."""
    return (lead > before) | (fooled & ~(lead < before))


class LinfMoves:
    """Pixels at ``clean +- epsilon``: vertical stripes to start with, then squares of one sign per channel.

    Like `L2Moves`, it says how a search starts and moves in its norm: `start` takes `start_numbers` random numbers
    (a shape) for each image, `square` takes `numbers` of them, all in [0, 1).

    Parameters
    ----------
    epsilon
        Radius of the ball.
    channels, height, width
        Shape of an image.
    """

    def __init__(self, epsilon: float, channels: int, height: int, width: int) -> None:
        del height
        self.epsilon = epsilon
        self.start_numbers = (channels, 1, width)
        self.numbers = 2 + channels

    def start(self, clean: Images, noise: Tensor) -> Images:
        """Return the starting patterns (B, C, H, W); noise (B, C, 1, W)."""
        return (clean + self.epsilon * _signs(noise)).clamp_(0, 1)

    def square(self, clean: Images, best: Images, noise: Tensor, side: int) -> Images:
        """Return `best` (B, C, H, W) with one square of this side changed in each image; noise (B, 2 + C).

        Adding ``+-2 epsilon`` and projecting leaves ``clean +- epsilon``.
        """
        steps = self.epsilon * _signs(noise[:, 2:, None])  # (B, C, 1)
        if _FEW * side * side > clean[0, 0].numel():
            inside = _window(noise[:, 0], noise[:, 1], side, clean)
            return torch.where(inside, (clean + steps[..., None]).clamp_(0, 1), best)
        # A small square is painted pixel by pixel; late in a search nearly all are small.
        at = _pixels(noise[:, 0], noise[:, 1], side, clean)[:, None].expand(-1, clean.shape[1], -1)  # (B, C, S * S)
        painted = (clean.flatten(2).gather(2, at) + steps).clamp_(0, 1)
        return best.flatten(2).scatter(2, at, painted).view_as(best)


class L2Moves:
    """Perturbations of length epsilon: hills on a grid to start with, then squares that take over mass.

    Two windows are drawn. All that the perturbation has in both, and what it lacks to epsilon, goes into the
    first one, as a mix of what was there and of a new hill; the second is left empty. Parameters as
    in `LinfMoves`.
    """

    def __init__(self, epsilon: float, channels: int, height: int, width: int) -> None:
        self.epsilon, self.channels = epsilon, channels
        self.tile = max(min(height, width) // 5, 1)
        self.start_numbers = (1 + channels, height // self.tile, width // self.tile)
        self.numbers = 5 + channels

    def start(self, clean: Images, noise: Tensor) -> Images:
        """Return the starting patterns (B, C, H, W); noise (B, 1 + C, rows, columns of the grid)."""
        tile, (down, across) = self.tile, noise.shape[2:]
        hills = _hills(tile, clean.device)[_coin(noise[:, 0])]  # (B, down, across, S, S)
        hills = hills.transpose(2, 3).reshape(-1, 1, down * tile, across * tile)  # (B, 1, down * S, across * S)
        signs = _signs(noise[:, 1:]).repeat_interleave(tile, 2).repeat_interleave(tile, 3)
        top, left = (clean.shape[2] - down * tile) // 2, (clean.shape[3] - across * tile) // 2
        offset = torch.zeros_like(clean)
        offset[:, :, top : top + down * tile, left : left + across * tile] = hills * signs
        return self._at_full_length(clean, offset)

    def square(self, clean: Images, best: Images, noise: Tensor, side: int) -> Images:
        """Return `best` (B, C, H, W) with two windows changed in each image; noise (B, 5 + C).

        Squares have an odd side, 3 at least if the image allows it.
        """
        shorter = min(clean.shape[2:])
        side = min(max(side + 1 - side % 2, 3), shorter - 1 + shorter % 2)
        offset = best - clean
        first = _window(noise[:, 0], noise[:, 1], side, clean)  # (B, 1, H, W)
        both = first | _window(noise[:, 2], noise[:, 3], side, clean)
        unused = (self.epsilon**2 - offset.square().sum((1, 2, 3), keepdim=True)).clamp(min=0)
        budget = ((offset * both).square().sum((2, 3), keepdim=True) + unused / self.channels).sqrt()

        hill = _place(_hills(side, clean.device)[_coin(noise[:, 4])], noise[:, 0], noise[:, 1], clean) * first
        mix = hill * _signs(noise[:, 5:, None, None]) + _unit(offset * first)
        return self._at_full_length(clean, torch.where(first, _unit(mix) * budget, offset * ~both))

    def _at_full_length(self, clean: Images, offset: Tensor) -> Images:
        length = offset.square().sum((1, 2, 3), keepdim=True).sqrt()
        return (clean + offset * (self.epsilon / (length + _TINY))).clamp_(0, 1)


MOVES: dict[str, type[LinfMoves] | type[L2Moves]] = {"linf": LinfMoves, "l2": L2Moves}


def _coin(noise: Tensor) -> Tensor:
    return (noise >= 0.5).long()


def _signs(noise: Tensor) -> Tensor:
    return torch.where(noise < 0.5, -1.0, 1.0)


def _unit(channels: Tensor) -> Tensor:
    """Scale every channel (B, C, H, W) to length 1; an empty one stays empty."""
    return channels / (channels.square().sum((2, 3), keepdim=True).sqrt() + _TINY)


def _inside(noise: PerImage, side: int, length: int) -> tuple[Tensor, Tensor]:
    """Return (B, length) the coordinate relative to a random segment, and whether it lies in the segment."""
    first = (noise * (length - side + 1)).long()
    relative = torch.arange(length, device=noise.device) - first[:, None]
    return relative, (relative >= 0) & (relative < side)


def _window(down: PerImage, across: PerImage, side: int, like: Images) -> Tensor:
    """Return (B, 1, H, W) bool: each image's own square."""
    _, rows = _inside(down, side, like.shape[2])
    _, columns = _inside(across, side, like.shape[3])
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _pixels(down: PerImage, across: PerImage, side: int, like: Images) -> Tensor:
    """Return (B, S * S) the positions of the pixels, row by row, in which `_window` is true."""
    height, width = like.shape[2:]
    top, left = (down * (height - side + 1)).long(), (across * (width - side + 1)).long()
    own = torch.arange(side, device=like.device)
    return (top * width + left)[:, None] + (own[:, None] * width + own).flatten()


def _place(patches: Tensor, down: PerImage, across: PerImage, like: Images) -> Tensor:
    """Return (B, 1, H, W): patches (B, S, S) where `_window` is true; anything elsewhere."""
    side = patches.shape[1]
    rows, _ = _inside(down, side, like.shape[2])
    columns, _ = _inside(across, side, like.shape[3])
    images = torch.arange(len(patches), device=patches.device)[:, None, None]
    last = side - 1
    return patches[images, rows.clamp(0, last)[:, :, None], columns.clamp(0, last)[:, None, :]][:, None]


@lru_cache(maxsize=32)
def _hills(side: int, device: torch.device) -> Tensor:
    """Return (2, S, S) of length 1 each: a hill above a valley (Eq. 2 of the paper), and side by side."""
    upper = side // 2
    pattern = torch.cat([_hill(upper, side), -_hill(side - upper, side)])
    pattern = pattern / pattern.square().sum().sqrt()
    return torch.stack([pattern, pattern.T]).to(device)


def _hill(height: int, width: int) -> Tensor:
    """Return (height, width) of length 1: sums of ``1 / k**2`` over ever larger squares around the centre."""
    if height == 0:
        return torch.zeros(0, width)
    reach = max(height, width) // 2 + 1
    heights = torch.arange(1.0, reach + 1).pow(-2).flip(0).cumsum(0).flip(0)  # (reach,) from the centre out
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    hill = heights[torch.maximum(rows[:, None], columns[None, :])]
    return hill / hill.square().sum().sqrt()
