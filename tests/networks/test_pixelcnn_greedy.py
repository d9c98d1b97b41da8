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


COMPANIES = [torch.arange(64).flip(0), torch.arange(16, 32), torch.arange(40, 64), torch.tensor([5])]


@pytest.mark.parametrize("name", ["grey", "colour"])
def test_in_float64_an_image_is_purified_alike_in_any_batch(name):
    net = build(name)
    levels = levels_of(images_for(net, 64))
    whole = purified_levels(net, levels, 20)
    for rows in COMPANIES:
        assert torch.equal(purified_levels(net, levels[rows], 20), whole[rows])


NEAR_TIE = 3e-5
"""Log probability that float32 may take for nothing in a network of this size; 2e-6 was the most seen."""


def as_columns_decide(product):
    """Return a product that rounds by the number of its columns, the images, as some processors' do."""

    def rounded(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
        if right.shape[-1] % 64 == 0 or left.shape[-1] < 2:
            return product(total, left, right)
        half = left.shape[-1] // 2
        return product(
            product(total, left[..., half:], right[..., half:, :]), left[..., :half], right[..., :half, :]
        )

    return rounded


@pytest.mark.parametrize("processor", ["this one", "one that rounds by the batch"])
@pytest.mark.parametrize("name", ["grey", "colour"])
def test_in_float32_the_batch_decides_near_ties_only(name, processor, monkeypatch):
    """Every level is as good as the best one given its past, in any batch; so is the first that differs."""
    net, exact = build(name).float(), build(name)
    exact.load_state_dict({key: value.double() for key, value in net.state_dict().items()})
    if processor != "this one":
        for product in ("addmm", "baddbmm"):
            monkeypatch.setattr(torch, product, as_columns_decide(getattr(torch, product)))
    levels = levels_of(images_for(net, 64))
    whole, swapped = purified_levels(net, levels, 20), 0
    for rows in (torch.arange(64), *COMPANIES):
        found = purified_levels(net, levels[rows], 20)
        with torch.no_grad():
            scores = exact.logits(found.float() / 255).movedim(2, -1)  # (B, C, H, W, 256)
        boxed = (torch.arange(256) - levels[rows][..., None]).abs() <= 20
        best = scores.masked_fill(~boxed, -torch.inf).amax(-1)
        taken = scores.gather(-1, found[..., None]).squeeze(-1)
        assert (best - taken).max() < NEAR_TIE
        other = whole[rows]
        for image in (found != other).flatten(1).any(1).nonzero().flatten():
            differs = (found[image] != other[image]).permute(1, 2, 0)  # in the order of purification
            y, x, channel = differs.nonzero()[0].tolist()
            here = scores[image, channel, y, x]
            gap = here[found[image, channel, y, x]] - here[other[image, channel, y, x]]
            assert abs(gap) < NEAR_TIE
            swapped += 1
    assert swapped or processor == "this one", "nothing was put to the test"


def test_a_wrong_level_is_no_near_tie():
    """The bound of the test above tells the best level from its neighbours almost everywhere."""
    net = build("grey")
    found = purified_levels(net, levels_of(images_for(net, 16)), 20)
    with torch.no_grad():
        scores = net.logits(found.float() / 255).movedim(2, -1)
    beside = (found + 1).clamp(max=255)
    gaps = scores.gather(-1, found[..., None]) - scores.gather(-1, beside[..., None])
    assert (gaps.abs() > NEAR_TIE).float().mean() > 0.7
