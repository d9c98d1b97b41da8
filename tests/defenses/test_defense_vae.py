"""Defense-VAE as a classifier: ``z = mu``, true gradients, and a classifier that is frozen until it is released."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from defenses.small_defense_vae import build, build_double
from memory_defense.defenses.defense_vae import PRESETS, DefenseVae, build_defense_vae
from memory_defense.networks.classifiers import CLASSIFIERS
from memory_defense.networks.defense_vae import DefenseVaeNetwork, defense_vae_plan
from memory_defense.randomness import seeded
from memory_defense.wrappers import frozen


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
@pytest.mark.parametrize("preset", PRESETS)
def test_answers_and_reconstructions_have_the_right_shapes(channels: int, size: int, preset: str) -> None:
    defense, images = build(channels, size, preset), torch.rand(2, channels, size, size)

    made = defense.purify(images)

    assert made.shape == images.shape
    assert 0 < made.min() < made.max() < 1
    assert defense(images).shape == (2, 4)


@pytest.mark.parametrize("mode", [False, True])
def test_the_answer_is_decoded_from_mu_and_nothing_is_drawn(mode: bool) -> None:
    defense, images = build().train(mode), torch.rand(4, 1, 28, 28)
    state = torch.random.get_rng_state()
    latent = defense.purifier.encoder(images)
    expected = torch.sigmoid(defense.purifier.decoder(latent.mean))

    assert latent.log_variance.abs().max() > 0
    assert torch.allclose(defense.purify(images), expected, atol=1e-6)
    assert torch.equal(defense(images), defense(images))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_surrogates_give_the_defenses_logits_bit_for_bit_or_say_that_they_do_not() -> None:
    defense, images = build(), torch.rand(6, 1, 28, 28)
    expected = defense(images).detach()
    published = defense.surrogates()

    assert set(published) == {"oblivious", "end-to-end"}
    assert defense.transfer_knowledge == {"oblivious"}
    with frozen(defense):
        for asked in (images, images.clone().requires_grad_()):
            assert torch.equal(published["end-to-end"](asked), expected)
            assert torch.equal(defense(asked), expected)
    assert torch.equal(published["oblivious"](images), defense.classifier(images))
    assert not torch.allclose(published["oblivious"](images), expected, atol=1e-3)


def test_the_white_box_gradient_is_the_slope_of_the_answer() -> None:
    """Central differences along random directions, in float64."""
    defense = build_double()
    images = torch.rand(3, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    asked = images.clone().requires_grad_()

    (gradient,) = torch.autograd.grad(defense.surrogates()["end-to-end"](asked).square().sum(), asked)

    assert gradient.abs().amax((1, 2, 3)).min() > 1e-6
    for seed in range(5):
        step = 1e-5 * torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        rise = (defense(images + step).square().sum() - defense(images - step).square().sum()) / 2
        assert float(rise.detach()) == pytest.approx(float((gradient * step).sum()), rel=1e-5)


def test_the_classifier_is_frozen_until_a_copy_of_it_is_released() -> None:
    classifier = CLASSIFIERS["cnn-a"](channels=1, size=28, classes=4, mean=(0.3,), std=(0.4,))
    defense = build_defense_vae(channels=1, size=28, classifier=classifier, preset="small").train()
    images = torch.rand(3, 1, 28, 28)
    before = defense.classifier(images)
    assert defense.purifier.training
    assert not any(module.training for module in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())

    assert defense.release_classifier() is defense
    released = defense.classifier
    with torch.no_grad():
        for parameter in released.parameters():
            assert parameter.requires_grad
            parameter.add_(0.1)
    assert released.training  # dropout learns, too
    assert torch.equal(classifier(images), before)
    assert defense.release_classifier().classifier is released
    assert not defense.eval().classifier.training

    assert defense.train().freeze_classifier().classifier is released
    assert not any(parameter.requires_grad for parameter in released.parameters())
    assert not any(module.training for module in released.modules())


def test_a_state_dict_brings_every_answer_back_also_into_a_released_one() -> None:
    defense, images = build(), torch.rand(3, 1, 28, 28)
    for layer in defense.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    with seeded(5, "other"):
        other = build(seed=9)
    assert not torch.allclose(other(images), defense(images), atol=1e-3)

    other.release_classifier().load_state_dict(defense.state_dict())

    assert torch.equal(other(images), defense(images))


def test_presets_are_what_they_say() -> None:
    assert [build(preset=name).kl_weight for name in ("paper", "released", "small")] == [1, 0, 1]
    sizes = [build(preset=name).purifier.plan.latent for name in ("paper", "released", "small")]
    assert sizes == [128, 128, 32]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build(preset="papr"), "'papr'; did you mean 'paper'"),
        (lambda: build(size=30), "size is 30"),
        (
            lambda: DefenseVae(nn.Flatten(), DefenseVaeNetwork(defense_vae_plan(1, 8, "small")), kl_weight=-1),
            "kl_weight is -1",
        ),
        (lambda: build()(torch.rand(2, 3, 28, 28)), r"takes \(B, 1, 28, 28\)"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
