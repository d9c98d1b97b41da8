"""ComDefend: bits, patches, the straight-through gradient, and what it draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from defenses.small_comdefend import build, by_hand, sigmoid
from memory_defense.defenses.comdefend import (
    EXPECTATION_SAMPLES,
    PRESETS,
    build_comdefend,
    from_patches,
    to_patches,
)
from memory_defense.networks.classifiers import Linear
from memory_defense.randomness import ImageDraws, seeded
from memory_defense.wrappers import Eot, frozen


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
@pytest.mark.parametrize("preset", PRESETS)
def test_answers_and_reconstructions_have_the_right_shapes(channels: int, size: int, preset: str) -> None:
    defense, images = build(channels, size, preset), torch.rand(2, channels, size, size)

    made = defense.purify(images)

    assert made.shape == images.shape
    assert 0 < made.min() < made.max() < 1
    assert defense(images).shape == (2, 4)
    assert defense.bits(images).shape == (2, 4 * channels, size, size)


def test_the_code_is_binary_and_the_image_is_made_of_it_alone() -> None:
    defense, images = build(), torch.rand(5, 1, 28, 28)

    bits = defense.bits(images)

    assert set(bits.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(bits == 1, defense.purifier.compressor(images).sigmoid() > 0.5)
    assert torch.equal(defense.purify(images), defense.purifier.reconstructor(bits))
    soft = build(soft_reconstruction=True)
    assert torch.equal(soft.purify(images), soft.purifier.reconstructor(soft.purifier.compressor(images).sigmoid()))
    assert not torch.equal(soft.purify(images), defense.purify(images))


def test_the_straight_through_value_and_gradient_are_those_of_pen_and_paper() -> None:
    pixels = [0.1, 0.43, 0.44, 0.9]  # 3 (x - 1/2) + 0.2 > 0 from x = 0.4333 on
    images = torch.tensor(pixels, dtype=torch.float64).reshape(1, 1, 2, 2).requires_grad_()

    logits = by_hand()(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images)

    values, slopes = [], []
    for pixel, bit in zip(pixels, (0, 0, 1, 1), strict=True):
        soft, made = sigmoid(3 * (pixel - 0.5) + 0.2), sigmoid(2 * bit - 0.7)
        values.append(made)
        slopes.append(made * (1 - made) * 2 * soft * (1 - soft) * 3)
    assert logits.flatten().tolist() == pytest.approx(values)
    assert gradient.flatten().tolist() == pytest.approx(slopes)


def test_the_identity_surrogate_hands_the_classifiers_gradient_back_unchanged() -> None:
    images = torch.rand(3, 1, 28, 28).requires_grad_()
    defense = build()

    (gradient,) = torch.autograd.grad(defense.surrogates()["identity"](images)[:, 2].sum(), images)

    made = defense.purify(images.detach()).requires_grad_()
    (expected,) = torch.autograd.grad(defense.classifier(made)[:, 2].sum(), made)
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("options", [{"patch": 32}, {"soft_reconstruction": True}, {"patch": 10}])
def test_surrogates_that_are_the_defense_give_its_logits_bit_for_bit(options: dict[str, object]) -> None:
    defense, images = build(**options), torch.rand(6, 1, 28, 28)
    expected = defense(images).detach()
    published = defense.surrogates()

    assert set(published) == {"oblivious", "identity", "end-to-end"}
    assert defense.transfer_knowledge == {"oblivious"}
    with frozen(defense):
        for name in ("identity", "end-to-end"):
            asked = images.clone().requires_grad_()
            logits = published[name](asked)
            assert torch.equal(logits, expected)
            assert torch.equal(published[name](images), expected)
            assert torch.autograd.grad(logits.logsumexp(1).sum(), asked)[0].abs().sum() > 0
        assert torch.equal(defense(images.clone().requires_grad_()), expected)
    assert torch.equal(published["oblivious"](images), defense.classifier(images))
    assert not torch.equal(published["oblivious"](images), expected)


def test_patches_are_cut_row_by_row_and_put_together_again() -> None:
    images = torch.arange(2 * 3 * 5 * 7, dtype=torch.float32).reshape(2, 3, 5, 7)

    patches = to_patches(images, 4)

    assert patches.shape == (2, 4, 3, 4, 4)
    assert torch.equal(patches[:, 0], images[:, :, :4, :4])
    assert torch.equal(patches[:, 2, :, 0, :], images[:, :, 4, :4])
    assert torch.equal(patches[:, 3, :, 3, 3], images[:, :, 4, 6])  # the corner, repeated to fill
    assert torch.equal(from_patches(patches, 5, 7), images)


def test_large_and_oblong_images_are_compressed_patch_by_patch() -> None:
    defense = build(3, 32)
    images = torch.rand(2, 3, 40, 64)

    made = defense.purify(images)

    assert made.shape == images.shape
    assert torch.allclose(made[:, :, :32, 32:], defense.purify(images[:, :, :32, 32:]), atol=1e-6)
    low = F.pad(images[:, :, 32:, :32], (0, 0, 0, 24), mode="replicate")
    assert torch.allclose(made[:, :, 32:, :32], defense.purify(low)[:, :, :8], atol=1e-6)
    oblong = torch.rand(2, 3, 20, 30)
    filled = F.pad(oblong, (0, 2, 0, 12), mode="replicate")
    assert torch.equal(defense.purify(oblong), defense.purify(filled)[:, :, :20, :30])


def test_without_noise_nothing_is_drawn() -> None:
    defense, images = build(), torch.rand(2, 1, 28, 28)
    state = torch.random.get_rng_state()

    assert torch.equal(defense(images), defense(images))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_test_noise_is_drawn_anew_at_every_call_and_follows_the_seed() -> None:
    defense, images = build(test_noise_std=0.05), torch.rand(4, 1, 28, 28)

    def asked() -> tuple[Tensor, Tensor]:
        with seeded(7, "judge"):
            return defense(images), defense(images)

    first, second = asked()
    again = asked()
    draws = ImageDraws.of(3, "mine", 4)
    assert not torch.equal(first, second)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert torch.equal(defense.repair(images, draws), defense.repair(images, draws))
    scores = defense.purifier.compressor(images) - 0.05 * draws.normal(4, 28, 28)
    bits = (scores.sigmoid() > 0.5).float()
    assert torch.equal(defense.repair(images, draws), defense.purifier.reconstructor(bits))


def test_a_defense_that_draws_says_that_it_is_to_be_attacked_in_expectation() -> None:
    defense, images = build(test_noise_std=0.05), torch.rand(4, 1, 28, 28)
    published = defense.surrogates()
    expectation = published["expectation"]

    assert isinstance(expectation, Eot)
    assert expectation.samples == EXPECTATION_SAMPLES > 1
    assert defense.transfer_knowledge == {"oblivious", "expectation"}
    with seeded(1, "a"):
        averaged = expectation(images)
    with seeded(1, "a"):
        one_by_one = torch.stack([published["end-to-end"](images) for _ in range(EXPECTATION_SAMPLES)]).mean(0)
    assert torch.equal(averaged, one_by_one)
    with seeded(2, "b"):
        white = published["end-to-end"](images)
    with seeded(2, "b"):
        assert torch.equal(white, defense(images))


def test_a_state_dict_brings_every_answer_back() -> None:
    defense, images = build(), torch.rand(3, 1, 28, 28)
    with seeded(5, "other"):
        other = build_comdefend(
            channels=1,
            size=28,
            classifier=Linear(channels=1, size=28, classes=4, mean=(0.0,), std=(1.0,)),
            preset="small",
        ).eval()
    assert not torch.equal(other(images), defense(images))

    other.load_state_dict(defense.state_dict())

    assert torch.equal(other(images), defense(images))


def test_presets_are_what_they_say() -> None:
    assert (build().test_noise_std, build().soft_reconstruction) == (0, False)
    assert (build(preset="released").test_noise_std, build(preset="released").soft_reconstruction) == (1, True)
    assert not build(3, 32, "released").soft_reconstruction
    assert build(1, 28).patch == 28
    assert build(3, 64, "small").patch == 32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build(preset="papr"), "'papr'; did you mean 'paper'"),
        (lambda: build(size=0), "size is 0"),
        (lambda: build(patch=0), "patch is 0"),
        (lambda: build(test_noise_std=-1.0), "test_noise_std is -1.0"),
        (lambda: build()(torch.rand(2, 3, 28, 28)), r"takes \(B, 1, H, W\)"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
