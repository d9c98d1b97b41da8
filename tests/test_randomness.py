"""The seed tree: draws belong to images, are independent between purposes, and are distributed as they say."""

from __future__ import annotations

import math

import pytest
import torch

from memory_defense.randomness import ImageDraws, derive, generator, seeded

MASK = (1 << 64) - 1


def split_mix(state: int) -> int:
    """SplitMix64's finaliser on Python integers, as its authors give it."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def test_draws_are_split_mix_bit_for_bit() -> None:
    draws = ImageDraws.of(7, "test", 3)
    uniform = draws.uniform(4)
    integers = draws.integers(1000, 5)
    for image in range(3):
        key = int(draws.keys[image]) & MASK
        for position in range(4):
            bits = split_mix((key + (position // 2 + 1) * 0x9E3779B97F4A7C15) & MASK)
            half = bits >> 32 if position % 2 else bits & 0xFFFFFFFF
            assert float(uniform[image, position]) == (half >> 8) * 2.0**-24
            assert int(integers[image, position]) == half * 1000 >> 32


def test_more_draws_begin_with_fewer_and_pairs_are_independent() -> None:
    draws = ImageDraws.of(5, "pairs", 400)
    for draw in (draws.uniform, draws.normal):
        assert torch.equal(draw(7), draw(2, 50).flatten(1)[:, :7])
        even, odd = draw(400)[:, ::2].flatten().double(), draw(400)[:, 1::2].flatten().double()
        for one, other in ((even, odd), (even.square(), odd.square())):
            assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.015


def test_the_finaliser_matches_published_values() -> None:
    """The first outputs of SplitMix64 seeded with 1234567."""
    state, outputs = 1234567, []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        outputs.append(split_mix(state))
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_an_image_keeps_its_draws_in_any_batch() -> None:
    whole = ImageDraws.of(0, "attack", 10)
    index = torch.tensor([7, 2, 9])
    for part in (whole.rows(index), ImageDraws.of(0, "attack", index)):
        for draw in (lambda d: d.uniform(2, 3), lambda d: d.normal(5), lambda d: d.integers(9, 2)):
            assert torch.equal(draw(part), draw(whole)[index])
        assert torch.equal(part.child("x", 1).uniform(3), whole.child("x", 1).uniform(3)[index])


def test_asking_twice_gives_the_same_and_other_purposes_give_others() -> None:
    draws = ImageDraws.of(0, "attack", 200)
    streams = [
        draws,
        draws.child("a"),
        draws.child("b"),
        draws.child("a", 0),
        draws.child("a", 1),
        draws.child("a").child("a"),
        ImageDraws.of(1, "attack", 200),
        ImageDraws.of(0, "noise", 200),
    ]
    flat = torch.stack([stream.uniform(50).flatten() for stream in streams])
    assert torch.equal(draws.uniform(50).flatten(), flat[0])
    correlation = torch.corrcoef(flat) - torch.eye(len(streams))
    assert correlation.abs().max() < 0.05
    across = torch.corrcoef(draws.uniform(2000)) - torch.eye(200)
    assert across.abs().max() < 0.12, "images must not share a stream"


def test_uniform_normal_and_integers_are_what_they_are_called() -> None:
    draws = ImageDraws.of(3, "moments", 500)
    uniform, normal, integers = draws.uniform(100), draws.normal(100), draws.integers(7, 100)
    assert uniform.shape == normal.shape == integers.shape == (500, 100)
    assert 0 <= uniform.min() < uniform.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.005)
    assert uniform.var() == pytest.approx(1 / 12, rel=0.02)
    assert normal.mean() == pytest.approx(0, abs=0.02)
    assert normal.std() == pytest.approx(1, rel=0.02)
    assert (normal.abs() < 1).double().mean() == pytest.approx(math.erf(2**-0.5), abs=0.01)
    assert bool(normal.isfinite().all())
    assert (integers.dtype, uniform.dtype, normal.dtype) == (torch.int64, torch.float32, torch.float32)
    counts = integers.flatten().bincount(minlength=7)
    assert len(counts) == 7
    assert bool(((counts - 50000 / 7).abs() < 400).all())


def test_a_draw_without_shape_is_one_number_for_each_image() -> None:
    assert ImageDraws.of(0, "x", 4).uniform().shape == (4,)


def test_seeds_depend_on_every_part_of_the_purpose() -> None:
    seeds = [
        derive(0),
        derive(1),
        derive(0, "a"),
        derive(0, "1"),
        derive(0, 1),
        derive(0, "a", "b"),
        derive(0, "ab"),
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(0, "a") == derive(0, "a")


def test_nothing_touches_the_global_generator() -> None:
    before = torch.get_rng_state()
    ImageDraws.of(0, "x", 4).normal(3)
    torch.rand(3, generator=generator(0, "order"))
    with seeded(5, "weights"):
        inside = torch.rand(3)
        torch.manual_seed(99)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(5, "weights"):
        assert torch.equal(torch.rand(3), inside)
    assert not torch.equal(torch.rand(3, generator=generator(0, "a")), torch.rand(3, generator=generator(0, "b")))


def test_no_images_get_no_draws() -> None:
    nobody = ImageDraws.of(0, "anything", 3).rows(torch.arange(0))
    assert nobody.normal(2, 3).shape == nobody.uniform(2, 3).shape == (0, 2, 3)
    assert nobody.normal(3).shape == (0, 3)
    assert nobody.integers(5).shape == (0,)
