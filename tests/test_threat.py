"""The balls: projections, random points, ascent directions, and what counts as inside."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memory_defense.contracts import Ball
from memory_defense.randomness import ImageDraws, generator
from memory_defense.threat import BALLS, L2, TOLERANCE, Linf, ball

SHAPE = (5, 2, 3, 4)
norms = st.sampled_from(sorted(BALLS))
radii = st.floats(0, 1, width=32)
seeds = st.integers(0, 2**32)


def cloud(seed: int, spread: float = 1.0) -> Tensor:
    """Return points around the box, many of them outside it."""
    return 0.5 + spread * torch.randn(SHAPE, generator=generator(seed, "cloud"))


def centre_of(seed: int) -> Tensor:
    return cloud(seed + 1, 0.6).clamp(0, 1)


@settings(max_examples=60, deadline=None)
@given(norms, radii, seeds, st.floats(0.01, 100))
def test_a_projection_is_inside_and_stays_where_it_is(norm: str, radius: float, seed: int, spread: float) -> None:
    area, centre = ball(norm, radius), centre_of(seed)
    once = area.project(cloud(seed, spread), centre)
    assert bool(area.contains(once, centre).all())
    torch.testing.assert_close(area.project(once, centre), once, atol=1e-6, rtol=0)
    assert torch.equal(area.project(centre, centre), centre)


@settings(max_examples=40, deadline=None)
@given(norms, radii, seeds)
def test_points_inside_are_not_moved(norm: str, radius: float, seed: int) -> None:
    area, centre = ball(norm, radius), centre_of(seed)
    inside = area.random_point(centre, ImageDraws.of(seed, "p", len(centre)))
    assert bool(area.contains(inside, centre).all())
    torch.testing.assert_close(area.project(inside, centre), inside, atol=1e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(radii, seeds, seeds)
def test_the_linf_projection_is_the_nearest_point(radius: float, seed: int, other: int) -> None:
    """No admissible point is nearer, in the Euclidean sense, than the projection onto a box."""
    area, centre, far = Linf(radius), centre_of(seed), cloud(seed, 2)
    rival = area.random_point(centre, ImageDraws.of(other, "rival", len(centre)))
    mine, its = ((far - near).flatten(1).norm(dim=1) for near in (area.project(far, centre), rival))
    assert bool((mine <= its + 1e-5).all())


@settings(max_examples=40, deadline=None)
@given(radii, seeds, st.floats(0.01, 100))
def test_clamping_to_the_walls_is_the_linf_projection(radius: float, seed: int, spread: float) -> None:
    area, centre, far = Linf(radius), centre_of(seed), cloud(seed, spread)
    assert torch.equal(far.clamp(*area.walls(centre)), area.project(far, centre))


def test_the_l2_projection_keeps_the_direction_away_from_the_box() -> None:
    centre, offset = torch.full(SHAPE, 0.5), 0.1 * torch.randn(SHAPE, generator=generator(0, "offset"))
    moved = L2(0.05).project(centre + offset, centre) - centre
    expected = offset * (0.05 / offset.flatten(1).norm(dim=1))[:, None, None, None]
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(norms, seeds)
def test_no_unit_step_ascends_faster(norm: str, seed: int) -> None:
    area: Ball = BALLS[norm](1.0)
    gradient, rival = cloud(seed) - 0.5, cloud(seed + 7) - 0.5
    best = area.ascent(gradient)
    origin = torch.zeros_like(best)
    torch.testing.assert_close(area.distance(best, origin), torch.ones(len(best)))
    rival = rival / area.distance(rival, origin)[:, None, None, None]
    gain, its = ((step * gradient).flatten(1).sum(1) for step in (best, rival))
    assert bool((gain >= its - 1e-5).all())
    dual = gradient.flatten(1).norm(p=1 if norm == "linf" else 2, dim=1)
    torch.testing.assert_close(gain, dual)


@pytest.mark.parametrize("norm", BALLS)
def test_no_gradient_means_no_step(norm: str) -> None:
    zero = torch.zeros(SHAPE)
    assert torch.equal(BALLS[norm](0.1).ascent(zero), zero)


@pytest.mark.parametrize("norm", BALLS)
def test_distance_is_each_images_own_norm(norm: str) -> None:
    points, centre = cloud(1), centre_of(2)
    order = math.inf if norm == "linf" else 2
    expected = torch.stack([(p - c).flatten().norm(p=order) for p, c in zip(points, centre, strict=True)])
    torch.testing.assert_close(BALLS[norm](0.1).distance(points, centre), expected)


@pytest.mark.parametrize("norm", BALLS)
def test_inside_means_the_ball_and_the_box_and_no_nan(norm: str) -> None:
    area, centre = BALLS[norm](0.25), torch.full((4, 1, 1, 1), 0.9)
    points = torch.tensor([0.9, 0.6, 1.01, math.nan]).view(4, 1, 1, 1)
    assert area.contains(points, centre).tolist() == [True, False, False, False]
    edge = centre[:2] - 0.25 - torch.tensor([0.5, 3.0]).view(2, 1, 1, 1) * TOLERANCE
    assert area.contains(edge, centre[:2]).tolist() == [True, False]


def test_random_points_fill_the_ball() -> None:
    centre, draws = torch.full((2000, 1, 2, 2), 0.5), ImageDraws.of(0, "fill", 2000)
    cube = Linf(0.2).random_point(centre, draws) - 0.5
    assert cube.mean().abs() < 0.01
    assert cube.std() == pytest.approx(0.2 / 3**0.5, rel=0.03)
    radius = L2(0.2).distance(L2(0.2).random_point(centre, draws), centre)
    assert (radius < 0.1).double().mean() == pytest.approx(1 / 16, abs=0.02)  # (1/2)**4 of the volume
    assert radius.max() <= 0.2 + 1e-6


def test_an_unbounded_ball_is_the_box() -> None:
    centre = centre_of(0)
    far = cloud(1, 3)
    assert torch.equal(L2(math.inf).project(far, centre), far.clamp(0, 1))
    assert bool(L2(math.inf).contains(far.clamp(0, 1), centre).all())
    assert bool(L2(math.inf).random_point(centre, ImageDraws.of(0, "x", 5)).isfinite().all())


@pytest.mark.parametrize(("kind", "radius"), [(Linf, 8), (Linf, -0.1), (Linf, math.nan), (L2, -1), (L2, math.nan)])
def test_radii_without_meaning_are_refused(kind: type[Linf | L2], radius: float) -> None:
    with pytest.raises(ValueError, match=f"epsilon is {radius}"):
        kind(radius)


def test_balls_are_made_by_name() -> None:
    assert ball("linf", 0.1) == Linf(0.1)
    assert ball("l2", 0.5) == L2(0.5)
    with pytest.raises(ValueError, match=r"unknown norm 'l1'; known: linf, l2"):
        ball("l1", 0.5)
