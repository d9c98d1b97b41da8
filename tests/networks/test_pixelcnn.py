import math

import pytest
import torch
from torch import Tensor

from memory_defense.networks.pixelcnn import (
    PIXELCNN_PRESETS,
    PixelCnn,
    PixelCnnPlan,
    ShiftedConv,
    ShiftedUpsampling,
)
from memory_defense.networks.pixelcnn_mixture import Mixture, levels_of, scaled

PLANS = {
    "grey": {"channels": 1, "size": 8, "resolutions": 3, "blocks": 2},
    "colour": {"channels": 3, "size": 8, "resolutions": 3, "blocks": 2},
    "odd": {"channels": 1, "size": 5, "resolutions": 1},
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def awake(name: str = "grey", **options: object) -> PixelCnn:
    """Make a small network in float64 whose outputs depend on all that they may see."""
    plan = PixelCnnPlan(**{"filters": 5, "blocks": 1, "mixtures": 2, "dropout": 0.0, **PLANS[name], **options})
    net = PixelCnn(plan).double()
    net.initialise(torch.rand(20, plan.channels, plan.size, plan.size))
    return net


def values_for(net: PixelCnn, count: int = 2) -> Tensor:
    plan = net.plan
    return (2 * torch.rand(count, plan.channels, plan.size, plan.size, dtype=torch.float64) - 1).requires_grad_()


@pytest.mark.parametrize("name", PLANS)
def test_no_pixel_sees_itself_or_a_later_one(name):
    net = awake(name)
    values, size = values_for(net), net.plan.size
    outputs = net.parameters_of(values)
    for place in range(size * size):
        y, x = divmod(place, size)
        # Random weights, so that contributions cannot cancel.
        total = (outputs[:, :, y, x] * torch.randn_like(outputs[:, :, y, x])).sum()
        (gradient,) = torch.autograd.grad(total, values, retain_graph=True)
        seen = gradient.abs().sum((0, 1)).flatten()
        assert (seen[place:] == 0).all(), f"pixel {place} sees the future"
        if name != "odd":  # one block at one resolution does not reach far
            assert (seen[:place] > 0).all(), f"pixel {place} is blind to a part of its past"


def test_channels_see_only_those_before_them():
    net = awake("colour")
    values = values_for(net)
    mixture = Mixture.split(net.parameters_of(values).detach().movedim(1, 0), 3)
    for channel in range(3):
        scores = mixture.log_probabilities(channel, values.movedim(1, 0), torch.zeros(2, 8, 8), 256)
        (gradient,) = torch.autograd.grad(scores[100].sum(), values, allow_unused=True) if channel else (None,)
        seen = torch.zeros(3) if gradient is None else gradient.abs().sum((0, 2, 3))
        assert [bool(amount > 0) for amount in seen] == [other < channel for other in range(3)]


def test_one_channels_logits_do_not_move_with_a_later_channel():
    net, images = awake("colour").eval(), torch.rand(2, 3, 8, 8)
    changed = images.clone()
    changed[:, 2, 7, 7] = 1 - changed[:, 2, 7, 7]  # blue of the last pixel: nothing comes after it
    changed_green = images.clone()
    changed_green[:, 1, 7, 7] = 1 - changed_green[:, 1, 7, 7]
    assert torch.equal(net.logits(images), net.logits(changed))
    difference = (net.logits(images) - net.logits(changed_green)).abs().sum((0, 2))  # (C, H, W)
    assert difference[2, 7, 7] > 0
    assert difference.sum() == difference[2, 7, 7]


@pytest.mark.parametrize("name", ["grey", "colour"])
def test_the_likelihood_is_the_sum_of_the_chosen_logits(name):
    net = awake(name).eval()
    images = torch.rand(3, net.plan.channels, 8, 8)
    logits = net.logits(images)
    torch.testing.assert_close(logits.logsumexp(2), torch.zeros(3, net.plan.channels, 8, 8).double())
    chosen = logits.gather(2, levels_of(images)[:, :, None])
    torch.testing.assert_close(net.log_likelihood(images), chosen.sum((1, 2, 3, 4)))


def test_bits_per_dimension_by_hand():
    """All weights 0 leave one logistic of mean m and scale s, the same for each pixel."""
    net = PixelCnn(PixelCnnPlan(channels=1, size=2, filters=2, blocks=1, resolutions=1, mixtures=1))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        for module in net.modules():
            if isinstance(module, (ShiftedConv, ShiftedUpsampling)):
                module.direction.fill_(1.0)
        net.output.bias.copy_(torch.tensor([0.3, 0.25, -2.0]))  # weight, mean, log scale

    def cdf(point: float) -> float:
        return 1 / (1 + math.exp(-(point - 0.25) / math.exp(-2)))

    levels = [[0, 100], [160, 255]]
    masses = [cdf(-1 + 2 / 256), 1 - cdf(-1 + 2 * 255 / 256)]
    masses += [cdf(-1 + 2 * (v + 1) / 256) - cdf(-1 + 2 * v / 256) for v in (100, 160)]
    expected = -sum(math.log2(mass) for mass in masses) / 4
    got = net.bits_per_dimension(torch.tensor(levels)[None, None] / 255)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_data_dependent_initialisation_gives_unit_outputs():
    net, images = (
        PixelCnn(PixelCnnPlan(channels=1, size=8, filters=6, blocks=2, dropout=0.5)),
        torch.rand(50, 1, 8, 8),
    )
    seen: dict[str, Tensor] = {}
    assert not net.initialised
    net.initialise(images)
    assert net.initialised
    assert net.training, "the mode is left as it was"
    for name, module in net.named_modules():
        if isinstance(module, (ShiftedConv, ShiftedUpsampling)):
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        net.eval().parameters_of(scaled(levels_of(images)))
    assert len(seen) == sum(isinstance(m, (ShiftedConv, ShiftedUpsampling)) for m in net.modules())
    for name, output in seen.items():
        scale = 0.1 if name.endswith("second") else 1.0
        variance, mean = torch.var_mean(output, (0, 2, 3), correction=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-3, rtol=0)
        torch.testing.assert_close(variance.sqrt(), torch.full_like(mean, scale), rtol=1e-2, atol=0)


def test_initialisation_survives_streams_that_see_padding_only():
    """At a single pixel, nothing lies above and nothing to the left."""
    net = awake(size=4, resolutions=3)
    assert net.bits_per_dimension(torch.rand(5, 1, 4, 4)).max() < 30


def test_weights_have_the_length_of_their_gain():
    conv, up = ShiftedConv(3, 4, (2, 3)), ShiftedUpsampling(3, 4, 2)
    for module, axes in ((conv, (1, 2, 3)), (up, (0, 2, 3))):
        module.gain.data.uniform_(0.5, 2)
        torch.testing.assert_close(module.weight().square().sum(axes).sqrt(), module.gain)


def test_the_papers_sizes():
    counts = {"fashion-mnist": (1, 28, 3.37e6), "cifar-10": (3, 32, 53.66e6)}
    for name, (channels, size, expected) in counts.items():
        with torch.device("meta"):
            net = PixelCnn(PIXELCNN_PRESETS[name].plan(channels, size))
        assert sum(parameter.numel() for parameter in net.parameters()) == pytest.approx(expected, rel=1e-3)


def test_weights_survive_a_round_trip():
    net, other = awake(), PixelCnn(awake().plan).double()
    other.load_state_dict(net.state_dict())
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(net.bits_per_dimension(images), other.bits_per_dimension(images))
    assert other.initialised


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"size": 30}, "multiple of 4"),
        ({"size": 0}, "size is 0"),
        ({"filters": 0}, "filters is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_impossible_plans_are_refused(wrong, complaint):
    with pytest.raises(ValueError, match=complaint):
        PixelCnnPlan(**{"channels": 1, "size": 28, "filters": 4, "blocks": 1, **wrong})


def test_other_images_are_refused():
    with pytest.raises(ValueError, match="3 channels, the model takes 1"):
        awake()(torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match="x / 255"):
        awake()(torch.rand(2, 1, 8, 8) * 255)
