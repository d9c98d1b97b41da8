"""The squares of the square attack against loops over images, channels and pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attacks import victims
from memory_defense.attacks import square as square_moves
from memory_defense.attacks.square import L2Moves, LinfMoves
from memory_defense.randomness import ImageDraws

EPSILON = 0.2


def candidates(moves: LinfMoves | L2Moves, clean: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the numbers and results of a start and of one square on top of it."""
    draws = ImageDraws.of(0, "moves", len(clean))
    first, then = draws.child("one").uniform(*moves.start_numbers), draws.child("two").uniform(moves.numbers)
    start = moves.start(clean, first)
    return first, start, then, moves.square(clean, start, then, side)


def sign(number: Tensor) -> float:
    return -1.0 if number < 0.5 else 1.0


@pytest.mark.parametrize("side", [1, 2, 5, 6])
def test_linf_paints_stripes_and_then_squares(side: int) -> None:
    clean = victims.images(8, 3)
    clean = torch.cat([clean, clean[:, :, :, :2]], 3)  # (8, 3, 6, 8)
    first, start, then, square = candidates(LinfMoves(EPSILON, 3, 6, 8), clean, side)
    for image in range(8):
        top, left = int(then[image, 0] * (7 - side)), int(then[image, 1] * (9 - side))
        for channel in range(3):
            for row in range(6):
                for column in range(8):
                    at = (image, channel, row, column)
                    stripe = EPSILON * sign(first[image, channel, 0, column])
                    assert start[at] == (clean[at] + stripe).clamp(0, 1)
                    inside = top <= row < top + side and left <= column < left + side
                    moved = (start[at] + 2 * EPSILON * sign(then[image, 2 + channel])).clamp(
                        max(0.0, clean[at] - EPSILON), min(1.0, clean[at] + EPSILON)
                    )
                    torch.testing.assert_close(square[at], moved if inside else start[at], atol=1e-6, rtol=0)


def hill(height: int, width: int) -> Tensor:
    """Eq. 2: squares of side 1, 3, 5 ... around the centre, clipped, each adding one over its rank squared."""
    sums = torch.zeros(height, width)
    for rank in range(1, max(height, width) // 2 + 2):
        for row in range(height):
            for column in range(width):
                if max(abs(row - height // 2), abs(column - width // 2)) < rank:
                    sums[row, column] += 1 / rank**2
    return sums / sums.square().sum().sqrt()


def hills(side: int, turned: bool) -> Tensor:
    half = side // 2
    upper = [hill(half, side)] if half else []
    pattern = torch.cat([*upper, -hill(side - half, side)])
    pattern = pattern / pattern.square().sum().sqrt()
    return pattern.T if turned else pattern


@pytest.mark.parametrize("size", [6, 11, 17])
def test_l2_starts_with_hills_on_a_grid(size: int) -> None:
    clean = torch.full((5, 2, size, size), 0.5)
    moves = L2Moves(EPSILON, 2, size, size)
    numbers, start, _, _ = candidates(moves, clean, 3)
    tile = size // 5
    count, edge = size // tile, (size % tile) // 2
    for image in range(5):
        offset = torch.zeros(2, size, size)
        for down in range(count):
            for across in range(count):
                patch = hills(tile, bool(numbers[image, 0, down, across] >= 0.5))
                rows, columns = edge + down * tile, edge + across * tile
                for channel in range(2):
                    sign_here = sign(numbers[image, 1 + channel, down, across])
                    offset[channel, rows : rows + tile, columns : columns + tile] = sign_here * patch
        expected = clean[image] + EPSILON * offset / offset.norm()
        torch.testing.assert_close(start[image], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("asked", "side"), [(1, 3), (3, 3), (4, 5), (9, 9), (11, 11), (12, 11)])
def test_l2_moves_the_mass_of_two_windows_into_one(asked: int, side: int) -> None:
    size = 12
    clean = (torch.rand(20, 2, size, size, generator=victims.generator()) * 1.8 - 0.4).clamp(0, 1)
    moves = L2Moves(EPSILON, 2, size, size)
    _, start, numbers, square = candidates(moves, clean, asked)
    for image in range(20):
        offset = start[image] - clean[image]
        spots = [int(number * (size - side + 1)) for number in numbers[image, :4]]
        first = slice(spots[0], spots[0] + side), slice(spots[1], spots[1] + side)
        other = slice(spots[2], spots[2] + side), slice(spots[3], spots[3] + side)
        unused = EPSILON**2 - float(offset.square().sum())
        assert unused > 0.1 * EPSILON**2, "the box must cut the start short"
        after = offset.clone()
        for channel in range(2):
            both = torch.zeros(size, size)
            both[first] = both[other] = 1
            mass = math.sqrt(float((offset[channel] * both).square().sum()) + unused / 2)
            old = offset[channel][first]
            mix = sign(numbers[image, 5 + channel]) * hills(side, bool(numbers[image, 4] >= 0.5))
            mix = mix + old / (old.norm() + 1e-12)
            after[channel][other] = 0
            after[channel][first] = mix / mix.norm() * mass
        torch.testing.assert_close(after.norm(), torch.tensor(EPSILON), atol=1e-6, rtol=0)
        torch.testing.assert_close(square[image], (clean[image] + after).clamp(0, 1), atol=1e-5, rtol=0)


def test_windows_are_uniform_and_reach_every_edge() -> None:
    clean, start = torch.full((6000, 1, 6, 6), 0.5), torch.full((6000, 1, 6, 6), 0.5)
    noise = ImageDraws.of(0, "windows", 6000).uniform(3)
    changed = (LinfMoves(EPSILON, 1, 6, 6).square(clean, start, noise, 4) != start)[:, 0].int()
    corners = changed.flatten(1).argmax(1)
    counts = corners.bincount(minlength=36).view(6, 6)
    assert counts[3:].sum() == counts[:, 3:].sum() == 0
    assert bool(((counts[:3, :3] - 6000 / 9).abs() < 100).all())


@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_small_squares_are_painted_as_large_ones(monkeypatch, side: int) -> None:
    draws = ImageDraws.of(3, "paint", 6)
    clean, noise = draws.child("clean").uniform(3, 8, 11), draws.child("noise").uniform(5)
    moves = LinfMoves(0.2, 3, 8, 11)
    best = moves.start(clean, draws.child("start").uniform(3, 1, 11))
    painted = []
    for few in (0, 10**6):  # all are small, then none
        monkeypatch.setattr(square_moves, "_FEW", few)
        painted.append(moves.square(clean, best, noise, side))
    assert torch.equal(*painted)
    assert int((painted[0] != best).any(1).sum(0).gt(0).sum()) > 0
