import math

import pytest
import torch
from torch import Tensor, nn

from memory_defense.contracts import Flagging
from memory_defense.defenses.pixeldefend import PixelDefend, StandIn
from memory_defense.evaluation.invariance import agreeing_granule
from memory_defense.networks.classifiers import Linear
from memory_defense.networks.pixelcnn import PixelCnn, PixelCnnPlan
from memory_defense.networks.pixelcnn_greedy import purified_levels
from memory_defense.networks.pixelcnn_mixture import levels_of
from memory_defense.passes import granules_of
from networks.test_pixelcnn_greedy import as_columns_decide

SIZE = 8


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def build(epsilon: float = 16 / 255, channels: int = 1, **options: object) -> PixelDefend:
    plan = PixelCnnPlan(channels=channels, size=SIZE, filters=4, blocks=1, resolutions=2, mixtures=2)
    purifier = PixelCnn(plan)
    purifier.initialise(torch.rand(30, channels, SIZE, SIZE))
    shape = {"channels": channels, "size": SIZE, "classes": 3}
    classifier = nn.Sequential(Linear(**shape, mean=(0.5,) * channels, std=(0.5,) * channels), nn.Tanh())
    return PixelDefend(classifier=classifier, purifier=purifier, epsilon_defend=epsilon, **options).eval()


def gradient(model, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    return torch.autograd.grad(model(images)[:, 1].sum(), images)[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_purified_images_stay_in_the_box_and_on_the_grid(channels):
    defense = build(channels=channels)
    images = torch.rand(5, channels, SIZE, SIZE)
    purified = defense.purify(images)
    assert purified.shape == images.shape
    assert purified.dtype == torch.float32
    assert purified.aminmax().min >= 0
    assert purified.aminmax().max <= 1
    assert torch.equal(levels_of(purified).float() / 255, purified)
    moved = (levels_of(purified) - levels_of(images)).abs()
    assert moved.max() == 16
    assert (purified - images).abs().max() <= 16.5 / 255 + 1e-6


def test_it_is_the_greedy_purification_of_the_rounded_images():
    defense, images = build(), torch.rand(16, 1, SIZE, SIZE)
    expected = purified_levels(defense.purifier, levels_of(images), 16).float() / 255
    assert torch.equal(defense.purify(images), expected)
    assert torch.equal(defense.purify(levels_of(images).float() / 255), expected)
    assert torch.equal(defense(images), defense.classifier(expected))


def test_epsilon_0_only_rounds():
    defense, images = build(0.0), levels_of(torch.rand(3, 1, SIZE, SIZE)).float() / 255
    assert torch.equal(defense.purify(images), images)
    assert torch.equal(defense.purify((images + 0.4 / 255).clamp(0, 1)), images), "rounded, not truncated"
    assert torch.equal(defense.purify((images - 0.4 / 255).clamp(0, 1)), images)


def test_no_image_depends_on_its_batch_or_on_the_mode():
    """In float64; what a batch may decide in float32 is in tests/networks/test_pixelcnn_greedy.py."""
    defense, images = build(), torch.rand(37, 1, SIZE, SIZE)
    defense.purifier.double()
    whole = defense.purify(images)
    for part in (slice(0, 1), slice(3, 20), slice(21, 37)):
        assert torch.equal(defense.purify(images[part]), whole[part])
    assert torch.equal(defense.train().purify(images), whole)
    assert defense.purifier.training


def test_autocast_changes_nothing():
    defense, images = build(), torch.rand(16, 1, SIZE, SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        purified, bits = defense.purify(images), defense.bits_per_dimension(images)
    assert torch.equal(purified, defense.purify(images))
    assert torch.equal(bits, defense.bits_per_dimension(images))


def test_where_rounding_decides_near_ties_the_measurement_sees_it(monkeypatch):
    """Levels hide rounding until it swaps two of them, which among some tens of images it does."""
    defense, images = build(), torch.rand(64, 1, SIZE, SIZE)
    for product in ("addmm", "baddbmm"):
        monkeypatch.setattr(torch, product, as_columns_decide(getattr(torch, product)))
    alone = torch.cat([defense.purify(images[:32]), defense.purify(images[32:])])
    assert 0 < (alone != defense.purify(images)).flatten(1).any(1).sum() < 64
    assert agreeing_granule(defense, images, 128, gradients=False) in (64, None)
    with granules_of(64):
        assert torch.equal(defense.purify(images[:20]), defense.purify(images)[:20])


def test_likely_images_are_left_alone_when_adaptive():
    defense, images = build(), torch.rand(9, 1, SIZE, SIZE)
    defense.purifier.double()  # those that are purified travel alone
    bits = defense.bits_per_dimension(images)
    plain, threshold = defense.purify(images), float(bits.median())
    defense.adaptive_threshold = threshold
    adaptive = defense.purify(images)
    for index in range(9):
        expected = images if bits[index] < threshold else plain
        assert torch.equal(adaptive[index], expected[index])
    defense.adaptive_threshold = float(bits.max()) + 1
    assert torch.equal(defense.purify(images), images)


def test_end_to_end_is_the_defense_and_its_gradient_the_classifiers_at_the_purified_point():
    defense, images = build(), torch.rand(4, 1, SIZE, SIZE)
    surrogate, purified = defense.surrogates()["end-to-end"], defense.purify(images)
    assert torch.equal(surrogate(images.clone().requires_grad_()), defense(images))
    assert torch.equal(gradient(surrogate, images), gradient(defense.classifier, purified))


def test_learned_goes_back_through_the_stand_in():
    defense, images = build(stand_in=StandIn(1)), torch.rand(4, 1, SIZE, SIZE)
    assert defense.stand_in is not None
    for parameter in defense.stand_in.parameters():
        parameter.data.normal_(0, 0.2)
    surrogate, purified = defense.surrogates()["learned"], defense.purify(images)
    assert torch.equal(surrogate(images.clone().requires_grad_()), defense(images))

    seen = images.clone().requires_grad_()
    cotangent = gradient(defense.classifier, purified)
    (expected,) = torch.autograd.grad(defense.stand_in(seen), seen, cotangent)
    torch.testing.assert_close(gradient(surrogate, images), expected)
    assert set(defense.surrogates()) - defense.transfer_knowledge == {"end-to-end", "learned"}
    assert set(build().surrogates()) == {"oblivious", "end-to-end"}


def test_a_new_stand_in_is_the_identity():
    images = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(StandIn(3)(images), images)


def test_p_values_count_the_images_that_are_no_more_likely():
    defense, known, images = build(), torch.rand(40, 1, SIZE, SIZE), torch.rand(6, 1, SIZE, SIZE)
    defense.fit_likelihoods(known)
    reference, own = defense.bits_per_dimension(known).tolist(), defense.bits_per_dimension(images).tolist()
    expected = [(sum(bits >= mine for bits in reference) + 1) / 41 for mine in own]
    torch.testing.assert_close(defense.p_values(images), torch.tensor(expected))


def test_p_values_of_exchangeable_images_are_uniform():
    defense = build()
    defense.fit_likelihoods(torch.rand(600, 1, SIZE, SIZE))
    values = defense.p_values(torch.rand(600, 1, SIZE, SIZE)).sort().values
    steps = torch.arange(1, 601) / 600
    # Kolmogorov-Smirnov for two samples of 600: a distance of 0.11 has a probability of 0.1 %.
    assert (values - steps).abs().max() < 0.11


@pytest.mark.parametrize(("score", "threshold"), [("improbability", 0.945), ("bits-per-dimension", None)])
def test_the_least_likely_images_are_suspicious(score, threshold):
    defense, known = build(), torch.rand(99, 1, SIZE, SIZE)
    assert isinstance(defense, Flagging)
    defense.flag_score = score
    with pytest.raises(ValueError, match="flag_threshold"):
        defense.suspicious(known)
    defense.fit_likelihoods(known)
    highest = defense.bits_per_dimension(known).topk(5)
    # Each counts itself, so the p-values are 0.02, 0.03, ... 1; four are below 0.055.
    defense.flag_threshold = float(highest.values[4]) if threshold is None else threshold
    suspicious = defense.suspicious(known).nonzero().squeeze(1)
    assert suspicious.tolist() == highest.indices[:4].sort().values.tolist()


def test_scores_are_the_bits_and_what_the_p_value_leaves():
    defense, images = build(), torch.rand(6, 1, SIZE, SIZE)
    assert set(defense.scores(images)) == {"bits-per-dimension"}
    defense.fit_likelihoods(torch.rand(20, 1, SIZE, SIZE))
    scores = defense.scores(images)
    assert torch.equal(scores["bits-per-dimension"], defense.bits_per_dimension(images))
    assert torch.equal(scores["improbability"], 1 - defense.p_values(images))


def test_an_adversary_can_follow_the_scores_down():
    defense, images = build(), torch.rand(4, 1, SIZE, SIZE)
    defense.fit_likelihoods(torch.rand(20, 1, SIZE, SIZE))
    before = defense.bits_per_dimension(images)
    for name in ("bits-per-dimension", "improbability"):
        seen = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(defense.scores(seen)[name].sum(), seen)
        after = defense.bits_per_dimension((images - 8 / 255 * slope.sign()).clamp(0, 1))
        assert (after < before).all()
    assert not any(parameter.grad is not None for parameter in defense.parameters())


def test_the_silent_adversary_is_published_with_a_threshold():
    defense = build()
    assert not defense.adaptive()
    defense.flag_threshold = 7.0
    assert defense.adaptive()["silent"].fights_flag


def test_no_p_value_before_likelihoods_are_stored():
    defense = build()
    with pytest.raises(ValueError, match="fit_likelihoods"):
        defense.p_values(torch.rand(1, 1, SIZE, SIZE))
    with pytest.raises(ValueError, match="10000 can be stored"):
        defense.fit_likelihoods(torch.rand(10_001, 1, SIZE, SIZE))


def test_everything_survives_a_round_trip():
    defense, other, images = build(stand_in=StandIn(1)), build(stand_in=StandIn(1)), torch.rand(5, 1, SIZE, SIZE)
    defense.fit_likelihoods(torch.rand(7, 1, SIZE, SIZE))
    other.load_state_dict(defense.state_dict())
    assert torch.equal(other(images), defense(images))
    assert torch.equal(other.p_values(images), defense.p_values(images))


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (-1 / 255, r"lie in \[0, 1\]"),
        (16, "divide levels by 255"),
        (math.nan, "is nan"),
        (0.1, "nearest is 26 / 255"),
    ],
)
def test_an_impossible_box_is_refused(wrong, complaint):
    with pytest.raises(ValueError, match=complaint):
        build(wrong)


def test_other_wrong_values_are_refused():
    with pytest.raises(ValueError, match="adaptive_threshold is 0"):
        build(adaptive_threshold=0)
    with pytest.raises(ValueError, match="x / 255"):
        build().purify(torch.full((1, 1, SIZE, SIZE), 255.0))
    with pytest.raises(ValueError, match="the model takes"):
        build().purify(torch.rand(1, 1, 12, 12))
