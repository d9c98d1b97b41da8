import math

import numpy as np
import pytest
import torch
from scipy.stats import logistic

from memory_defense.networks.pixelcnn_mixture import LEVELS, Mixture, levels_of, parameter_count, scaled


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def mixture(channels: int, count: int = 3, places: int = 4, spread: float = 1.0) -> Mixture:
    parameters = spread * torch.randn(parameter_count(channels, count), places, dtype=torch.float64)
    return Mixture.split(parameters, channels)


def brute_force(mix: Mixture, channel: int, values: torch.Tensor, place: int) -> torch.Tensor:
    """Return the 256 probabilities as differences of scipy's distribution function at the bins' edges."""
    edges = np.concatenate([[-np.inf], -1 + np.arange(1, 256) / 128, [np.inf]])
    total = np.zeros(LEVELS)
    for k in range(len(mix.log_weights)):
        mean = float(mix.means[channel, k, place])
        for index, (later, earlier) in enumerate([(1, 0), (2, 0), (2, 1)]):
            if later == channel:
                mean += float(mix.coefficients[index, k, place]) * float(values[earlier, place])
        scale = math.exp(float(mix.log_scales[channel, k, place]))
        weight = math.exp(float(mix.log_weights[k, place]))
        total += weight * np.diff(logistic.cdf(edges, mean, scale))
    return torch.from_numpy(total)


@pytest.mark.parametrize("channels", [1, 3])
def test_probabilities_are_the_mixtures_mass_in_each_bin(channels):
    mix = mixture(channels)
    values = 2 * torch.rand(channels, 4, dtype=torch.float64) - 1
    for channel in range(channels):
        got = mix.log_probabilities(channel, values, torch.zeros(4), LEVELS).exp()
        expected = torch.stack([brute_force(mix, channel, values, place) for place in range(4)], 1)
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("spread", [1.0, 5.0, 40.0])
def test_probabilities_sum_to_1_however_narrow_or_far_the_components(spread):
    mix = mixture(3, places=50, spread=spread)
    values = 2 * torch.rand(3, 50, dtype=torch.float64) - 1
    for channel in range(3):
        logs = mix.log_probabilities(channel, values, torch.zeros(50), LEVELS)
        assert logs.isfinite().all()
        torch.testing.assert_close(logs.logsumexp(0), torch.zeros(50, dtype=torch.float64), rtol=0, atol=1e-9)


def test_a_window_of_levels_is_a_part_of_all_levels():
    mix, values, first = mixture(1), torch.zeros(1, 4), torch.tensor([-3, 0, 100, 250])
    whole = mix.log_probabilities(0, values, torch.zeros(4), LEVELS)
    window = mix.log_probabilities(0, values, first, 10)
    for place, lowest in enumerate(first.tolist()):
        for offset in range(10):
            level = lowest + offset
            expected = float(whole[level, place]) if 0 <= level < LEVELS else -math.inf
            assert float(window[offset, place]) == pytest.approx(expected, rel=1e-12)


def test_float32_loses_little_where_a_difference_of_sigmoids_would_be_nothing():
    parameters = torch.tensor([0.0, 0.9, -7.0])[:, None]  # one narrow component far from black
    single = Mixture.split(parameters, 1).log_probabilities(0, torch.zeros(0), torch.zeros(1), LEVELS)
    double = Mixture.split(parameters.double(), 1).log_probabilities(0, torch.zeros(0), torch.zeros(1), LEVELS)
    assert float(double[0]) < -1900
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-3)


def test_half_precision_outputs_are_widened():
    parameters = torch.randn(parameter_count(1, 2), 3).bfloat16()
    assert Mixture.split(parameters, 1).means.dtype == torch.float32


def test_the_papers_outputs_are_30_for_grey_and_100_for_colour():
    assert parameter_count(1, 10) == 30
    assert parameter_count(3, 10) == 100


def test_levels_are_rounded_and_never_truncated():
    images = torch.tensor([0.0, 0.4999 / 255, 0.5001 / 255, 0.9, 254.6 / 255, 1.0])
    assert levels_of(images).tolist() == [0, 0, 1, 230, 255, 255]
    assert scaled(torch.tensor([0, 255])).tolist() == [-1, 1]
