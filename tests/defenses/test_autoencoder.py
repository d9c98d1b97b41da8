"""The systems without slots: what they compute, against plain loops and arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

from memory_defense.contracts import Adaptive, Flagging, SlotDefense
from memory_defense.defenses.autoencoder import (
    AutoencoderDefense,
    MemAeDefense,
    build_autoencoder_defense,
    build_memae_defense,
    build_target_classifier,
)
from memory_defense.defenses.memory.autoencoder import plan_for
from memory_defense.defenses.undefended import Undefended
from memory_defense.networks.classifiers import Linear
from memory_defense.networks.layers import Normalize
from memory_defense.wrappers import frozen, modules_of

GREY = {"channels": 1, "size": 28, "classes": 10, "mean": (0.286,), "std": (0.353,)}
COLOUR = {"channels": 3, "size": 32, "classes": 10, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
SMALL = {"channels": 1, "size": 16, "classes": 4, "mean": (0.3,), "std": (0.4,)}
BUILDERS = {"autoencoder": build_autoencoder_defense, "memae": build_memae_defense}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def awake(defense: AutoencoderDefense) -> AutoencoderDefense:
    """Return the defense in eval mode with random items and batch statistics, so that every part matters."""
    with torch.no_grad():
        for module in defense.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        if isinstance(defense, MemAeDefense):
            defense.memory.items.normal_()
    return defense.eval()


def build(kind: str, **options) -> AutoencoderDefense:
    return awake(BUILDERS[kind](**{**SMALL, **({"memory_size": 7} if kind == "memae" else {}), **options}))


def brute_force(codes: torch.Tensor, items: torch.Tensor, threshold: float) -> list[list[float]]:
    """Return MemAE's weights by loops over plain numbers."""
    rows = []
    for code in codes.tolist():
        cosines = []
        for item in items.tolist():
            lengths = math.sqrt(sum(c * c for c in code)) * math.sqrt(sum(m * m for m in item))
            cosines.append(sum(c * m for c, m in zip(code, item, strict=True)) / lengths)
        powers = [math.exp(one) for one in cosines]
        weights = [power / sum(powers) for power in powers]
        kept = [w if w > threshold or w == max(weights) else 0.0 for w in weights]
        rows.append([w / sum(kept) for w in kept])
    return rows


@pytest.mark.parametrize("times", [0, 1, 2, 3])
def test_addressing_is_a_loop_over_all_items(times):
    defense = build("memae", shrink_threshold=times / 7).double()
    codes = torch.randn(9, defense.plan.code_size, dtype=torch.float64) / 10
    with torch.no_grad():  # items near some codes, so that weights spread out
        defense.memory.items[:5] = codes[:5]

    weights = defense.address(codes)

    expected = brute_force(codes, defense.memory.items, times / 7)
    assert torch.allclose(weights, torch.tensor(expected, dtype=torch.float64), rtol=1e-10)
    assert ((weights == 0).sum() > 0) == (times > 0)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_shrunk_weights_sum_to_one_and_none_is_empty(times):
    defense = build("memae", shrink_threshold=times / 7)

    weights = defense.address(torch.rand(50, defense.plan.code_size))

    assert torch.allclose(weights.sum(1), torch.ones(50))
    assert (weights > 0).any(1).all()


def test_a_memory_that_cannot_tell_is_read_evenly():
    defense = build("memae")
    with torch.no_grad():
        defense.memory.items.copy_(torch.ones_like(defense.memory.items))

    weights = defense.address(torch.rand(3, defense.plan.code_size))

    assert torch.isfinite(weights).all()
    assert torch.allclose(weights.sum(1), torch.ones(3))


@pytest.mark.parametrize("kind", BUILDERS)
def test_the_answer_is_the_parts_in_order(kind):
    defense, images = build(kind).double(), torch.rand(6, 1, 16, 16).double()
    encoded = defense.encoder((images - 0.3) / 0.4)
    given = encoded
    if kind == "memae":
        weights = torch.tensor(brute_force(encoded, defense.memory.items, 1 / 7)).double()
        given = weights @ defense.memory.items
    decoded = defense.decoder(given)

    codes = defense.codes(images)

    assert torch.allclose(codes.encoded, encoded)
    assert torch.allclose(codes.decoded, given, atol=1e-6)
    assert (codes.attention is None) == (kind == "autoencoder")
    assert torch.allclose(defense.reconstruct(images), decoded * 0.4 + 0.3, atol=1e-6)
    error = (images - decoded * 0.4 - 0.3).square().sum((1, 2, 3)) / 256
    assert torch.allclose(defense.reconstruction_error(images), error, rtol=1e-5)
    assert torch.allclose(defense.scores(images)["reconstruction"], error, rtol=1e-5)
    assert torch.allclose(defense(images), defense.classifier_b(decoded), atol=1e-6)


@pytest.mark.parametrize("kind", BUILDERS)
def test_end_to_end_is_the_defense_bit_for_bit(kind):
    defense, images = build(kind), torch.rand(20, 1, 16, 16)
    surrogates = defense.surrogates()
    assert set(surrogates) == {"end-to-end", "target-classifier"}
    assert set(surrogates) - defense.transfer_knowledge == {"end-to-end"}

    with torch.no_grad():
        expected = defense(images)
    with frozen(defense):
        assert torch.equal(surrogates["end-to-end"](images.clone().requires_grad_()), expected)
    assert torch.allclose(
        surrogates["target-classifier"](images), defense.classifier_b((images - 0.3) / 0.4), atol=1e-6
    )
    assert all(defense in list(modules_of(surrogate)) for surrogate in surrogates.values())


@pytest.mark.parametrize("kind", BUILDERS)
def test_its_gradient_is_that_of_finite_differences(kind):
    defense, images = build(kind).double(), torch.rand(1, 1, 16, 16).double()
    weight = torch.randn(1, 4).double()
    leaf = images.clone().requires_grad_()
    score = (defense.surrogates()["end-to-end"](leaf) * weight).sum() + 50 * defense.reconstruction_error(
        leaf
    ).sum()
    (slope,) = torch.autograd.grad(score, leaf)

    assert slope.abs().max() > 1e-3
    for _ in range(5):
        direction = torch.randn_like(images)
        ends = []
        for sign in (1, -1):
            moved = images + sign * 1e-6 * direction
            ends.append((defense(moved) * weight).sum() + 50 * defense.reconstruction_error(moved).sum())
        measured = float((ends[0] - ends[1]).detach() / 2e-6)
        assert measured == pytest.approx(float((slope * direction).sum()), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", BUILDERS)
def test_the_flag_is_raised_above_the_threshold_and_silent_keeps_below(kind):
    defense, images = build(kind), torch.rand(30, 1, 16, 16)
    assert isinstance(defense, Flagging)
    assert isinstance(defense, Adaptive)
    assert not isinstance(defense, SlotDefense)
    with pytest.raises(ValueError, match="flag_threshold is set"):
        defense.suspicious(images)
    errors = defense.reconstruction_error(images).detach()
    defense.flag_threshold = float(errors.median())
    flagged = defense.suspicious(images)

    bound = defense.adaptive()["silent"].surrogate.bind(images)

    assert torch.equal(flagged, errors > errors.median())
    right, other = defense(images).argmax(1), images.flip(0)
    logits, loud = bound(other), defense.suspicious(other)
    assert torch.equal(logits[~loud], defense(other)[~loud])
    assert torch.equal(logits[loud].argmax(1), right[loud])


@pytest.mark.parametrize("kind", BUILDERS)
def test_state_round_trip_with_the_threshold(kind):
    first, images = build(kind), torch.rand(4, 1, 16, 16)
    second = build(kind)
    first.flag_threshold = 0.125
    assert not torch.equal(first(images), second(images))

    second.load_state_dict(first.state_dict())

    assert torch.equal(first(images), second(images))
    assert second.flag_threshold == 0.125


@pytest.mark.parametrize("preset", ["paper", "reference", "sound"])
@pytest.mark.parametrize("shape", [GREY, COLOUR], ids=["grey", "colour"])
def test_every_reading_answers_with_memory_defenses_parts(preset, shape):
    memae = build_memae_defense(preset=preset, **shape).eval()
    plain = build_autoencoder_defense(preset=preset, **shape).eval()
    alone = build_target_classifier(preset=preset, **shape).eval()
    images = torch.rand(2, shape["channels"], shape["size"], shape["size"])

    assert [defense(images).shape for defense in (memae, plain, alone)] == [(2, 10)] * 3
    items = {"reference": 500}.get(preset, 100) if shape is GREY else 500
    assert memae.memory.items.shape == (items, 1024)
    assert memae.memory.shrink_threshold == 1 / items
    stem = 3 if preset == "sound" or shape is COLOUR else 1
    assert plain.encoder.layers[0].kernel_size == memae.encoder.layers[0].kernel_size == (stem, stem)
    mean = 0.1307 if preset == "reference" and shape is GREY else shape["mean"][0]
    for normalize in (memae.normalize, plain.normalize, alone.network.normalize):
        assert normalize.mean.flatten()[0].item() == pytest.approx(mean)


def test_the_target_classifier_alone_is_an_undefended_net():
    defense = build_target_classifier(**SMALL)

    assert isinstance(defense, Undefended)
    assert defense.surrogates()["end-to-end"] is defense.network


def test_without_selector_and_slots_nothing_is_counted_by_class():
    assert build("memae", memory_size=101).memory.items.shape[0] == 101


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_size": 1}, "at least 2"),
        ({"memory_size": 0}, "at least 2"),
        ({"shrink_threshold": 0.05}, "between 1/7 and 3/7"),
        ({"shrink_threshold": 0.5}, "3/7"),
        ({"preset": "sounds"}, "did you mean 'sound'"),
        ({"size": 15}, "takes 16 to 1024"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_memae_defense(**{**SMALL, "memory_size": 7, **options})


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="normalize has 3 channels"):
        AutoencoderDefense(plan=plan_for(1, 16), normalize=Normalize.identity(3), classifier_b=Linear(**SMALL))
