"""The cache against one whole pass for each pixel, in float64: no rounding decides between two levels there."""

import pytest
import torch
from torch import Tensor

from memory_defense.networks.pixelcnn import PixelCnn, PixelCnnPlan
from memory_defense.networks.pixelcnn_cache import PixelCnnCache
from memory_defense.networks.pixelcnn_greedy import purified_levels
from memory_defense.networks.pixelcnn_mixture import levels_of, scaled

PLANS = {
    "grey": {"channels": 1, "size": 8, "resolutions": 3, "blocks": 1},
    "colour": {"channels": 3, "size": 4, "resolutions": 3, "blocks": 2},
    "two resolutions": {"channels": 1, "size": 6, "resolutions": 2, "blocks": 2},
    "one resolution": {"channels": 2, "size": 5, "resolutions": 1, "blocks": 1},
    "four resolutions": {"channels": 1, "size": 8, "resolutions": 4, "blocks": 1},
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def build(name: str) -> PixelCnn:
    plan = PixelCnnPlan(filters=4, mixtures=3, dropout=0.5, **PLANS[name])
    net = PixelCnn(plan).double()
    net.initialise(torch.rand(20, plan.channels, plan.size, plan.size))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net.eval()


def images_for(net: PixelCnn, count: int = 4) -> Tensor:
    return torch.rand(count, net.plan.channels, net.plan.size, net.plan.size)


def naive(net: PixelCnn, levels: Tensor, radius: int) -> Tensor:
    """Purify with one whole pass, over the image purified so far, for every pixel and channel."""
    current = levels.clone()
    for y in range(net.plan.size):
        for x in range(net.plan.size):
            for channel in range(net.plan.channels):
                scores = net.logits(current.float() / 255)[:, channel, :, y, x]  # (B, V)
                for image in range(len(levels)):
                    own = int(levels[image, channel, y, x])
                    low, high = max(own - radius, 0), min(own + radius, 255)
                    current[image, channel, y, x] = low + int(scores[image, low : high + 1].argmax())
    return current


@pytest.mark.parametrize("name", PLANS)
def test_cached_parameters_are_those_of_a_whole_pass(name):
    net = build(name)
    values = scaled(levels_of(images_for(net)), torch.float64)
    with torch.no_grad():
        whole, cache = net.parameters_of(values), PixelCnnCache(net, len(values))
        for y in range(net.plan.size):
            cache.start_row(y)
            for x in range(net.plan.size):
                torch.testing.assert_close(cache.parameters_at(y, x).T, whole[:, :, y, x], rtol=1e-9, atol=1e-10)
                cache.write(y, x, values[:, :, y, x].T)


@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_cached_purification_is_the_naive_one(name):
    net = build(name)
    levels = levels_of(images_for(net, 3))
    radius = 255 if name == "one resolution" else 20
    cached = purified_levels(net, levels, radius)
    assert torch.equal(cached, naive(net, levels, radius))
    assert not torch.equal(cached, levels)


@pytest.mark.parametrize("name", ["grey", "colour"])
@torch.no_grad()
def test_no_greedy_step_lowers_its_own_likelihood(name):
    """Given the purified past, the chosen level is at least as probable as the one that came in."""
    net = build(name)
    levels = levels_of(images_for(net))
    chosen = purified_levels(net, levels, 20)
    gains = []
    for y in range(net.plan.size):
        for x in range(net.plan.size):
            for channel in range(net.plan.channels):
                before = chosen.clone()
                before[:, channel, y, x] = levels[:, channel, y, x]
                scores = net.logits(before.float() / 255)[:, channel, :, y, x]
                ours = scores.gather(1, chosen[:, channel, y, x, None])
                gains.append(ours - scores.gather(1, levels[:, channel, y, x, None]))
    assert torch.stack(gains).min() >= -1e-10
    assert torch.stack(gains).max() > 0.1


def test_the_box_holds_and_radius_0_is_the_identity():
    net = build("grey")
    levels = levels_of(images_for(net))
    moved = purified_levels(net, levels, 7) - levels
    assert moved.abs().max() == 7
    assert torch.equal(purified_levels(net, levels, 0), levels)
    edges = torch.randint(0, 2, levels.shape) * 255
    assert purified_levels(net, edges, 9).clamp(0, 255).equal(purified_levels(net, edges, 9))


def test_an_image_is_purified_alike_in_any_company():
    net = build("grey").float()
    levels = levels_of(images_for(net, 64))
    whole = purified_levels(net, levels, 20)
    order = torch.randperm(64)
    assert torch.equal(purified_levels(net, levels[order], 20), whole[order])
    assert torch.equal(purified_levels(net, levels[16:32], 20), whole[16:32])
