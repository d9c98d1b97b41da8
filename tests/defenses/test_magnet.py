"""MagNet against plain arithmetic: its detectors, their thresholds, what it publishes and how it is trained."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from memory_defense.contracts import Adaptive, Binding, Flagging, RowBound
from memory_defense.defenses.magnet import MagNet, build_magnet, jensen_shannon
from memory_defense.networks.classifiers import Linear
from memory_defense.networks.magnet import autoencoder_one, autoencoder_two
from memory_defense.wrappers import frozen, modules_of

SHAPE = {"channels": 1, "size": 8, "classes": 4, "mean": (0.3,), "std": (0.4,)}
NAMES = ("error-1", "error-2", "jsd-10", "jsd-40")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def build(**options) -> MagNet:
    """Return a small MagNet whose autoencoders are far from constant."""
    defense = build_magnet(classifier=Linear(**SHAPE), channels=1, **options)
    with torch.no_grad():
        for parameter in [*defense.reformer.parameters(), *defense.detector.parameters()]:
            parameter.mul_(3)
    return defense.eval()


def images(count: int = 12, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 10.0, 40.0])
def test_the_divergence_is_scipys(temperature):
    first, second = 5 * torch.randn(6, 10), 5 * torch.randn(6, 10)

    got = jensen_shannon(first, second, temperature)

    one, other = ((logits.double() / temperature).softmax(1).numpy() for logits in (first, second))
    expected = [jensenshannon(p, q) ** 2 for p, q in zip(one, other, strict=True)]
    assert got.tolist() == pytest.approx(expected, rel=1e-6)


def test_the_divergence_is_symmetric_bounded_and_zero_for_equals():
    first, second = 30 * torch.randn(200, 10), 30 * torch.randn(200, 10)
    for temperature in (1.0, 10.0, 40.0):
        value = jensen_shannon(first, second, temperature)
        assert torch.allclose(value, jensen_shannon(second, first, temperature))
        assert (value > 0).all()
        assert (value <= math.log(2)).all()
        assert jensen_shannon(first, first + 7, temperature).abs().max() < 1e-12
    certain = torch.tensor([[1e3, 0.0]]), torch.tensor([[0.0, 1e3]])
    assert jensen_shannon(*certain, 1.0).item() == pytest.approx(math.log(2))


def test_a_tiny_divergence_is_not_drowned_in_rounding():
    first = torch.randn(1, 10)
    steps = [jensen_shannon(first, first + size * torch.eye(10)[:1], 40.0).item() for size in (1e-2, 2e-2)]

    assert steps[1] / steps[0] == pytest.approx(4, rel=1e-2), "quadratic near zero"
    assert 0 < steps[0] < 1e-8


def test_the_divergence_has_a_true_gradient():
    first, second = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))

    assert torch.autograd.gradcheck(lambda a, b: jensen_shannon(a, b, 2.0), (first, second))


def test_scores_by_hand():
    defense, given = build(), images()
    one, two = defense.reformer(given), defense.detector(given)

    scores = defense.scores(given)

    assert tuple(scores) == defense.detectors == NAMES
    for row in range(len(given)):
        pairs = list(zip(given[row].flatten().tolist(), one[row].flatten().tolist(), strict=True))
        assert scores["error-1"][row].item() == pytest.approx(sum((a - b) ** 2 for a, b in pairs) / 64, rel=1e-5)
        pairs = list(zip(given[row].flatten().tolist(), two[row].flatten().tolist(), strict=True))
        assert scores["error-2"][row].item() == pytest.approx(sum(abs(a - b) for a, b in pairs) / 64, rel=1e-5)
    before, after = defense.classifier(given), defense.classifier(one)
    assert torch.allclose(scores["jsd-10"], jensen_shannon(before, after, 10.0))
    assert torch.allclose(scores["jsd-40"], jensen_shannon(before, after, 40.0))
    assert tuple(build(temperatures=()).scores(given)) == NAMES[:2]


def test_the_answer_is_the_classifiers_on_the_reformed_image():
    defense, given = build(), images()

    assert torch.equal(defense.purify(given), defense.reformer(given))
    assert torch.equal(defense(given), defense.classifier(defense.reformer(given)))


def test_each_detector_raises_its_share_of_false_alarms_on_fresh_images():
    defense = build()
    held_out, fresh = images(1999, seed=2), images(4000, seed=3)

    defense.fit_thresholds(held_out, 0.05)

    with torch.no_grad():
        scores, fitted = defense.scores(fresh), defense.scores(held_out)
    for name, threshold in zip(NAMES, defense.thresholds.tolist(), strict=True):
        assert (fitted[name] > threshold).sum() == 99, "the hundredth of 1999 is the threshold itself"
        share = float((scores[name] > threshold).float().mean())
        assert abs(share - 0.05) < 4 * math.sqrt(0.05 * 0.95 * (1 / 4000 + 1 / 1999))


def test_an_image_is_suspicious_if_one_detector_says_so():
    defense, given = build(), images(300, seed=4)
    assert isinstance(defense, Flagging)
    assert defense.flag_threshold is None
    with pytest.raises(ValueError, match="before the detectors have thresholds"):
        defense.suspicious(given)

    defense.fit_thresholds(images(199, seed=2), 0.1)

    assert defense.flag_threshold == 1.0
    scores = defense.scores(given)
    alarms = torch.stack([scores[name] > defense.thresholds[number] for number, name in enumerate(NAMES)])
    assert torch.equal(defense.suspicious(given), alarms.any(0))
    assert alarms.sum(1).min() > 0, "every detector has something to say"
    assert torch.equal(scores["loudest"] > 1, alarms.any(0))
    defense.flag_score, defense.flag_threshold = "error-2", 0.3
    assert torch.equal(defense.suspicious(given), scores["error-2"] > 0.3)


def test_surrogates_are_the_classifier_and_the_whole():
    defense, given = build(), images()
    surrogates = defense.surrogates()
    assert set(surrogates) == {"oblivious", "end-to-end"}
    assert set(surrogates) - defense.transfer_knowledge == {"end-to-end"}

    with torch.no_grad():
        expected = defense(given)
    with frozen(defense):
        assert torch.equal(surrogates["end-to-end"](given.clone().requires_grad_()), expected)
    assert torch.equal(surrogates["end-to-end"](given), expected)
    assert torch.equal(surrogates["oblivious"](given), defense.classifier(given))
    assert defense.reformer in list(modules_of(surrogates["end-to-end"]))


def test_the_end_to_end_gradient_is_that_of_finite_differences():
    defense, given = build().double(), images(1).double()
    weight = torch.randn(1, 4).double()
    leaf = given.clone().requires_grad_()
    (slope,) = torch.autograd.grad((defense.surrogates()["end-to-end"](leaf) * weight).sum(), leaf)

    for pixel in [(0, 0, 0, 0), (0, 0, 3, 4), (0, 0, 7, 7)]:
        step = torch.zeros_like(given)
        step[pixel] = 1e-6
        measured = ((defense(given + step) - defense(given - step)) * weight).sum().detach() / 2e-6
        assert float(measured) == pytest.approx(float(slope[pixel]), rel=1e-5, abs=1e-9)


def test_silent_errs_only_where_no_detector_speaks_and_quietens_the_loudest():
    defense = build()
    assert isinstance(defense, Adaptive)
    assert dict(defense.adaptive()) == {}
    defense.fit_thresholds(images(199, seed=2), 0.2)
    clean, other = images(40, seed=5), images(40, seed=6)
    published = defense.adaptive()["silent"]
    assert published.fights_flag
    assert isinstance(published.surrogate, Binding)
    bound, right = published.surrogate.bind(clean), defense(clean).argmax(1)
    assert isinstance(bound, RowBound)

    logits, loud = bound(other), defense.suspicious(other)

    assert 0 < loud.sum() < 40
    assert torch.equal(logits[~loud], defense(other)[~loud])
    assert torch.equal(logits[loud].argmax(1), right[loud])
    rows = loud.nonzero().squeeze(1)
    leaf = other[rows].clone().requires_grad_()
    (slope,) = torch.autograd.grad(bound.rows(rows)(leaf).gather(1, right[rows, None]).sum(), leaf)
    stepped = other[rows] - 1e-4 * slope / slope.flatten(1).norm(dim=1)[:, None, None, None]
    before, after = defense.excess(other[rows]), defense.excess(stepped)
    assert (after < before).float().mean() > 0.7


def test_state_round_trip_with_thresholds():
    first, second = build(), build()
    first.fit_thresholds(images(99, seed=2), 0.05)
    assert second.flag_threshold is None

    second.load_state_dict(first.state_dict())

    given = images(50, seed=3)
    assert torch.equal(first.thresholds, second.thresholds)
    assert torch.equal(first(given), second(given))
    assert torch.equal(first.suspicious(given), second.suspicious(given))
    assert second.flag_threshold == 1.0


def test_bad_settings_are_refused():
    classifier = Linear(**SHAPE)
    for temperatures in [(0.0,), (10.0, 10.0), (math.nan,), (math.inf,)]:
        with pytest.raises(ValueError, match="each must be above 0"):
            build_magnet(classifier=classifier, channels=1, temperatures=temperatures)
    with pytest.raises(ValueError, match="reformer takes 1 channels, the detector 3"):
        MagNet(classifier=classifier, reformer=autoencoder_one(1), detector=autoencoder_two(3))
    with pytest.raises(ValueError, match="at least 999 held-out"):
        build().fit_thresholds(images(500))
