"""Randomized smoothing against the one classifier whose smoothed boundary is known: a half-space."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from memory_defense.certificates.smoothing import ABSTAINS, CHUNK, EARLY_SHARE, LATTICE, Smoothing, noisy
from memory_defense.randomness import ImageDraws

SHAPE = (1, 6, 6)


def direction(seed: int = 0) -> Tensor:
    w = torch.randn(math.prod(SHAPE), generator=torch.Generator().manual_seed(seed)).double()
    return w / w.norm()


class HalfSpace(nn.Module):
    """Class 1 where w.(x - 1/2) > 0, else class 0; under normal noise its boundary stays where it is."""

    def forward(self, images: Tensor) -> Tensor:
        lead = (images.double() - 0.5).flatten(1) @ direction()
        return torch.stack([-lead, lead], 1)


def eight_bit(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, *SHAPE), generator=torch.Generator().manual_seed(seed)).float() / 255


def distances(images: Tensor) -> Tensor:
    return ((images.double() - 0.5).flatten(1) @ direction()).abs()


SMOOTHING = Smoothing(sigma=0.5, samples=2000, selection=50)


def test_no_radius_is_above_the_true_one_and_few_are_far_below() -> None:
    images = eight_bit(60)
    found = SMOOTHING.certify(HalfSpace(), images, ImageDraws.of(0, "t", 60))
    true = distances(images)
    sure = found.labels != ABSTAINS
    assert bool((found.radii <= true).all())
    assert torch.equal(found.labels[sure], (HalfSpace()(images)[sure, 1] > 0).long())
    assert int(sure.sum()) > 40
    reachable = true.clamp(max=SMOOTHING.largest_radius)
    assert float((found.radii / reachable)[sure & (true > 0.2)].min()) > 0.6
    assert bool((found.radii[~sure] == 0).all())


def test_a_wrong_certificate_is_as_rare_as_it_says() -> None:
    """At alpha 1/4 a limit above the truth is no longer rare, and is about as frequent as that."""
    careless = Smoothing(sigma=0.5, samples=200, selection=50, alpha=0.25)
    image = (0.5 + 0.3 * direction().view(SHAPE)).float()
    images = ((image * 255).round() / 255).expand(400, *SHAPE)
    found = careless.certify(HalfSpace(), images, ImageDraws.of(0, "t", 400))
    true = float(distances(images[:1]))
    wrong = float((found.radii > true).double().mean())
    assert 0.1 < wrong < 0.3


def test_an_image_counts_the_same_in_any_batch_and_order() -> None:
    images, draws = eight_bit(5), ImageDraws.of(3, "t", torch.tensor([7, 1, 4, 9, 2]))
    whole = SMOOTHING.certify(HalfSpace(), images, draws)
    back = torch.tensor([4, 2, 0])
    part = SMOOTHING.certify(HalfSpace(), images[back], draws.rows(back))
    assert torch.equal(whole.radii[back], part.radii)
    assert torch.equal(whole.labels[back], part.labels)


@pytest.mark.parametrize(("n", "sigmas"), [(1000, 2.46), (10_000, 3.20), (100_000, 3.81)])
def test_the_largest_radius_is_the_known_one(n: int, sigmas: float) -> None:
    smoothing = Smoothing(sigma=0.25, samples=n)
    assert smoothing.largest_radius == pytest.approx(0.25 * sigmas, abs=0.005)
    least = smoothing.least_samples(smoothing.largest_radius)
    assert abs(least - n) <= 1
    assert Smoothing(sigma=0.25, samples=least).largest_radius >= smoothing.largest_radius - 1e-9


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 1.2))
def test_the_least_count_for_a_radius_is_least(radius: float) -> None:
    smoothing = Smoothing(sigma=0.5, samples=500)
    least = smoothing.least_top(radius)
    if least <= smoothing.samples:
        assert smoothing.radius(least) >= radius
    assert smoothing.radius(least - 1) < radius


def test_what_is_out_of_reach_ends_early_and_what_it_still_says_is_proven() -> None:
    smoothing = Smoothing(sigma=0.5, samples=5000, selection=50)
    images = eight_bit(30, seed=1)
    for row, image in enumerate(images):
        draws = ImageDraws.of(0, "t", torch.tensor([row]))
        whole, early = (
            smoothing.count(HalfSpace(), image, draws),
            smoothing.count(HalfSpace(), image, draws, wanted=(1.0,)),
        )
        assert early.radius <= whole.radius
        if whole.radius >= 1.0:
            assert early == whole
        if early.asked < smoothing.samples:
            assert whole.radius < 1.0
    assert (
        smoothing.count(HalfSpace(), torch.full(SHAPE, 128 / 255), ImageDraws.of(0, "t", 1), wanted=(1.0,)).asked
        < 2000
    )


def test_what_is_decided_ends_early_and_is_decided_as_by_all_copies() -> None:
    """Within a look's share of alpha: all radii that all copies prove comfortably are proven by fewer."""
    wanted = (0.25, 0.5)
    looking = Smoothing(sigma=0.5, samples=8000, selection=50, looks=6)
    assert looking.early_looks == (250, 500, 1000, 2000, 4000)
    images, asked = eight_bit(40, seed=1), []
    for image, true in zip(images, distances(images), strict=True):
        found = looking.count(HalfSpace(), image, ImageDraws.of(0, "t", 1), wanted=wanted)
        whole = looking.count(HalfSpace(), image, ImageDraws.of(0, "t", 1))
        assert found.radius <= float(true)
        assert whole.asked == looking.samples
        for radius in wanted:
            if abs(float(true) - radius) > 0.1:
                assert (found.radius >= radius) == (whole.radius >= radius) == (float(true) > radius)
        asked.append(found.asked)
    assert sum(asked) < 0.5 * looking.samples * len(images)


def test_many_looks_are_together_wrong_as_rarely_as_one() -> None:
    """Each limit alone has its share of alpha, so the largest of them is above the truth with alpha at most."""
    careless = Smoothing(sigma=0.5, samples=400, selection=50, alpha=0.5, looks=8)
    image = (0.5 + 0.3 * direction().view(SHAPE)).float()
    images = ((image * 255).round() / 255).expand(400, *SHAPE)
    found = careless.certify(HalfSpace(), images, ImageDraws.of(0, "t", 400), wanted=(9.0, 0.3))
    true = float(distances(images[:1]))
    assert 0.2 < float((found.radii > true).double().mean()) < 0.5


def test_looks_share_alpha_and_nothing_else_changes() -> None:
    one, six = Smoothing(sigma=0.5, samples=1000), Smoothing(sigma=0.5, samples=1000, looks=6)
    assert six.last_alpha + 5 * EARLY_SHARE * six.alpha == pytest.approx(six.alpha)
    assert one.last_alpha == one.alpha
    assert 0 < one.radius(990) - six.radius(990) < 0.01
    with pytest.raises(ValueError, match="looks is 11"):
        Smoothing(sigma=0.5, looks=11)


def test_sums_of_image_and_noise_are_exact_on_the_lattice() -> None:
    image, draws = eight_bit(1)[0], ImageDraws.of(0, "t", 1)
    steps = noisy(image, draws, 0.25, 0, 150).double() * LATTICE
    assert float((steps - steps.round()).abs().max()) < 0.02  # float32's own spacing there
    noise = steps.round() - (image.double() * LATTICE).round()
    other = eight_bit(1, seed=5)[0]
    again = (noisy(other, draws, 0.25, 0, 150).double() * LATTICE).round() - (other.double() * LATTICE).round()
    assert torch.equal(noise, again), "the image betrays nothing of itself in the noise"


def test_copies_are_the_same_whatever_is_asked_beside_them() -> None:
    image, draws = eight_bit(1)[0], ImageDraws.of(0, "t", 1)
    whole = noisy(image, draws, 0.25, 0, 3 * CHUNK)
    assert torch.equal(whole[CHUNK : 2 * CHUNK], noisy(image, draws, 0.25, CHUNK, CHUNK))
    assert torch.equal(whole[2 * CHUNK : 2 * CHUNK + 7], noisy(image, draws, 0.25, 2 * CHUNK, 7))
    assert not torch.equal(whole[:CHUNK], whole[CHUNK : 2 * CHUNK])


def test_noise_is_normal_with_the_deviation_it_says() -> None:
    noise = (noisy(torch.full(SHAPE, 0.5), ImageDraws.of(0, "t", 1), 0.25, 0, 3000) - 0.5).double() / 0.25
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert float((noise.abs() > 2).double().mean()) == pytest.approx(0.0455, abs=0.005)


def test_a_classifier_that_cannot_decide_abstains() -> None:
    class Coin(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            lead = images[:, 0, 0, 0] - 0.5
            return torch.stack([lead, -lead], 1)

    image = torch.full((1, *SHAPE), 0.5)
    assert SMOOTHING.certify(Coin(), image, ImageDraws.of(0, "t", 1)).labels.item() == ABSTAINS
    assert SMOOTHING.predict(Coin(), image, ImageDraws.of(0, "t", 1)).item() == ABSTAINS


def test_answers_that_are_not_finite_prove_nothing() -> None:
    class Silent(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.new_full((len(images), 3), torch.nan)

    found = SMOOTHING.certify(Silent(), eight_bit(2), ImageDraws.of(0, "t", 2))
    assert found.labels.tolist() == [ABSTAINS, ABSTAINS]
    assert found.radii.tolist() == [0, 0]
    assert SMOOTHING.predict(Silent(), eight_bit(1), ImageDraws.of(0, "t", 1)).item() == ABSTAINS


def test_predictions_are_the_majority_s() -> None:
    images = eight_bit(20)
    labels = SMOOTHING.predict(HalfSpace(), images, ImageDraws.of(0, "t", 20), samples=500)
    sure = labels != ABSTAINS
    assert int(sure.sum()) > 12
    assert torch.equal(labels[sure], (HalfSpace()(images)[sure, 1] > 0).long())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"samples": 0}, "samples"),
        ({"selection": 0}, "selection"),
        ({"alpha": 1.0}, "alpha"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Smoothing(**{"sigma": 0.25, **wrong})  # pyright: ignore[reportArgumentType]


class Precise(nn.Module):
    """Class 1 for everything where a product of matrices is exact, class 0 where it is rounded to bfloat16."""

    def forward(self, images: Tensor) -> Tensor:
        exact = torch.full((len(images), 1), 1 + 2**-10) @ torch.ones(1, 1) != 1
        return torch.cat([~exact, exact], 1).float()


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_classifier_is_asked_in_the_precision_that_is_said(bfloat16: bool) -> None:
    smoothing = Smoothing(sigma=0.5, samples=100, selection=10, bfloat16=bfloat16)
    draws = ImageDraws.of(0, "t", 1)
    found = smoothing.certify(Precise(), eight_bit(1), draws)
    assert (
        found.labels.tolist() == smoothing.predict(Precise(), eight_bit(1), draws).tolist() == [int(not bfloat16)]
    )
    assert float(found.radii) == pytest.approx(smoothing.radius(100), abs=1e-3)
