"""Thresholds with the promised rate of false alarms, and an adversary's view that counts flagged images right."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memory_defense.contracts import Adaptive, Binding, Flagging, RowBound
from memory_defense.defenses.flagging import FlaggingModule, SilentBinder, scores_of, thresholds_at


def test_the_threshold_is_the_score_of_the_right_rank():
    scores = torch.randperm(99, generator=torch.Generator().manual_seed(0)).float()[:, None]  # 0 to 98
    # 100 places for a fresh score among 99: it lies above the k-th largest with probability k / 100.
    for share, rank in [(0.01, 1), (0.05, 5), (0.059, 5), (0.5, 50)]:
        assert thresholds_at(scores, share).tolist() == [99 - rank]


def test_each_detector_has_its_own_threshold():
    scores = torch.tensor([[1.0, 50.0], [2.0, 40.0], [3.0, 30.0], [4.0, 20.0]])

    assert thresholds_at(scores, 0.4).tolist() == [3.0, 40.0]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_fresh_images_raise_the_promised_share_of_false_alarms(share):
    source = torch.Generator().manual_seed(1)
    alarms = []
    for _ in range(300):
        held_out, fresh = torch.randn(199, 1, generator=source), torch.randn(2000, 1, generator=source)
        alarms.append(float((fresh > thresholds_at(held_out, share)).float().mean()))
    expected = int(share * 200) / 200  # a Beta(rank, 200 - rank) share each time

    spread = (expected * (1 - expected) / 201 / 300 + expected / 2000 / 300) ** 0.5
    assert abs(sum(alarms) / 300 - expected) < 4 * spread


def test_too_few_images_for_a_rate_are_refused_and_the_remedy_works():
    with pytest.raises(ValueError, match="at least 999 held-out"):
        thresholds_at(torch.rand(998, 1), 0.001)
    assert thresholds_at(torch.arange(999.0)[:, None], 0.001).tolist() == [998]
    assert thresholds_at(torch.arange(2000.0)[:, None], 0.001).tolist() == [1998]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_rates_that_are_none_are_refused(share):
    with pytest.raises(ValueError, match="drop_rate is"):
        thresholds_at(torch.rand(50, 1), share)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="NaN or infinite"):
        thresholds_at(torch.tensor([[1.0], [float("nan")], [2.0]]), 0.5)


def test_scores_in_passes_are_the_scores_at_once():
    images = torch.rand(600, 1, 2, 2, requires_grad=True)

    scores = scores_of(images, lambda part: part.sum((1, 2, 3)))

    assert torch.equal(scores, images.detach().sum((1, 2, 3)))
    assert not scores.requires_grad


def first_pixel(images: torch.Tensor) -> torch.Tensor:
    """Return (B,) how far the first pixel lies above one half."""
    return images.flatten(1)[:, 0] / 0.5 - 1


def test_silent_is_the_classifiers_answer_unless_the_image_is_flagged():
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    binder = SilentBinder(classifier, first_pixel)
    assert isinstance(binder, Binding)
    clean, other = torch.rand(40, 1, 2, 2), torch.rand(40, 1, 2, 2)
    bound, right = binder.bind(clean), classifier(clean).argmax(1)
    assert isinstance(bound, RowBound)

    logits, flagged = bound(other), first_pixel(other) > 0

    assert 0 < flagged.sum() < 40
    assert torch.equal(logits[~flagged], classifier(other)[~flagged])
    assert torch.equal(logits[flagged].argmax(1), right[flagged])
    index = torch.tensor([7, 3, 7])
    assert torch.allclose(bound.rows(index)(other[index]), logits[index], atol=1e-6)


def test_silent_pulls_a_flagged_image_towards_the_threshold_by_the_weight():
    def constant(images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[2.0, 1.0]]).expand(len(images), 2) + 0 * images.sum()

    image = torch.full((1, 1, 2, 2), 0.9, requires_grad=True)
    bound = SilentBinder(constant, first_pixel, weight=3.0).bind(image.detach())

    (slope,) = torch.autograd.grad(bound(image)[0, 0], image)

    assert torch.allclose(slope.flatten(), torch.tensor([3.0 / 0.5, 0.0, 0.0, 0.0]))


def test_a_weight_that_says_nothing_is_refused():
    with pytest.raises(ValueError, match="weight is 0"):
        SilentBinder(nn.Identity(), first_pixel, weight=0)


class Brightness(FlaggingModule):
    """Flags bright images; answers nothing."""

    flag_score = "mean"

    def scores(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mean": images.flatten(1).mean(1), "corner": images.flatten(1)[:, 0]}


def test_the_flag_follows_score_and_threshold():
    module, images = Brightness(), torch.rand(50, 1, 2, 2)
    assert isinstance(module, Flagging)
    assert isinstance(module, Adaptive)
    assert module.flag_threshold is None
    assert dict(module.adaptive()) == {}

    module.flag_threshold = 0.5
    assert torch.equal(module.suspicious(images), images.mean((1, 2, 3)) > 0.5)
    module.flag_score = "corner"
    assert torch.equal(module.suspicious(images), images[:, 0, 0, 0] > 0.5)
    assert module.adaptive()["silent"].fights_flag
    module.flag_threshold = None
    with pytest.raises(ValueError, match="before flag_threshold is set"):
        module.suspicious(images)


def test_an_excess_is_a_share_of_the_threshold_and_has_a_gradient():
    module, images = Brightness(), torch.full((1, 1, 2, 2), 0.75, requires_grad=True)
    module.flag_threshold = 0.5

    excess = module.excess(images)

    assert excess.tolist() == [0.5]
    assert torch.autograd.grad(excess.sum(), images)[0].flatten().tolist() == [0.5] * 4
    module.flag_threshold = 0.0
    assert module.suspicious(images).tolist() == [True]
    assert torch.isfinite(module.excess(images)).all()


def test_a_threshold_travels_with_the_state():
    first, second = Brightness(), Brightness()
    first.flag_threshold = 0.3

    second.load_state_dict(first.state_dict())
    assert second.flag_threshold == first.flag_threshold == pytest.approx(0.3)
    first.flag_threshold = None
    second.load_state_dict(first.state_dict())
    assert second.flag_threshold is None


def test_bad_flags_are_refused():
    module = Brightness()
    for threshold in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite number"):
            module.flag_threshold = threshold
    module.flag_threshold, module.flag_score = 0.5, "means"
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        module.suspicious(torch.rand(2, 1, 2, 2))
