"""Bounds hold for every layer: nothing in a box answers outside of them, as float32 computes it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from certificates.interval_nets import NETS, corners, images, net, randoms
from memory_defense.certificates import intervals
from memory_defense.certificates.activations import Rectifier
from memory_defense.certificates.boxes import OWN, UNIT, Box, image_box
from memory_defense.certificates.intervals import METHODS, logit_bounds, margin_bounds, margins, verified
from memory_defense.certificates.reading import steps_of
from memory_defense.certificates.steps import follow, least
from memory_defense.networks.layers import Normalize, Sum

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
RADII = (0.0, 0.03, 0.3)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NETS)
def test_no_point_of_a_box_answers_outside_of_its_bounds(name, seed) -> None:
    model, clean = net(name, seed), images(name, seed=seed)
    with torch.no_grad():
        labels = model(clean).argmax(1)
    for epsilon in RADII:
        lower, upper = logit_bounds(model, clean, epsilon)
        found = {method: margin_bounds(model, clean, labels, epsilon, method=method) for method in METHODS}
        for row, image in enumerate(clean):
            points = torch.cat([corners(image, epsilon), randoms(image, epsilon)])
            with torch.no_grad():
                logits = model(points).double()
            assert bool((lower[row] <= logits).all())
            assert bool((logits <= upper[row]).all())
            differences = logits[:, labels[row], None] - logits
            for bounds in found.values():
                assert bool((bounds[row] <= differences).all())
        assert bool((found["crown-ibp"] >= found["ibp"]).all()), "the better of both counts"
        others = torch.arange(3) != labels[:, None]
        for method, bounds in found.items():
            expected = (bounds > 0)[others].view(-1, 2).all(1)
            assert torch.equal(verified(model, clean, labels, epsilon, method=method), expected)


@pytest.mark.parametrize("name", NETS)
def test_bounds_at_radius_0_are_the_answers_up_to_rounding(name) -> None:
    model, clean = net(name), images(name, 5)
    with torch.no_grad():
        logits = model(clean).double()
    lower, upper = logit_bounds(model, clean, 0.0)
    assert torch.allclose(lower, logits, atol=3e-4, rtol=1e-4)
    assert torch.allclose(upper, logits, atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NETS)
def test_bounds_of_exact_arithmetic_hold_in_float64(name) -> None:
    """Without what float32's rounding asks for they hold as tightly as float64 shows, and CROWN's by themselves."""
    model, clean, epsilon = net(name).double(), images(name), 0.05
    steps = steps_of(model)
    end, _ = follow(steps, image_box(clean.double(), epsilon, OWN), OWN)
    labels = torch.tensor([0, 2])
    crown = margins(steps, end, labels, to_the_image=True, unit=OWN)
    for row, image in enumerate(clean):
        points = torch.cat([corners(image, epsilon), randoms(image, epsilon)]).double()
        with torch.no_grad():
            logits = model(points)
        slack = 1e-12 * logits.abs().max()
        assert bool((end.lower[row] - slack <= logits).all())
        assert bool((logits <= end.upper[row] + slack).all())
        assert bool((crown[row] - slack <= logits[:, labels[row], None] - logits).all())


@pytest.mark.parametrize("name", [name for name in NETS if "residual" in name or "normalisation" in name])
def test_what_is_published_of_a_module_is_what_it_computes(name) -> None:
    model, clean = net(name).double(), images(name).double()
    _, point = follow(steps_of(model), Box(clean, clean), point=clean)
    assert point is not None
    with torch.no_grad():
        torch.testing.assert_close(point, model(clean), rtol=1e-6, atol=1e-6)  # constants are float32's


def test_crown_is_exact_where_every_relu_is_active() -> None:
    """Then the network is affine in the box; intervals do not know that the hidden neurons move alike."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        model[1].bias.fill_(10)
        weight = model[3].weight @ model[1].weight
        clean = torch.full((1, 1, 3, 3), 0.5)
        logits = model(clean)[0]
    label, epsilon = int(logits.argmax()), 0.2
    exact = logits[label] - logits - epsilon * (weight[label] - weight).abs().sum(1)
    crown = margin_bounds(model, clean, torch.tensor([label]), epsilon)[0]
    plain = margin_bounds(model, clean, torch.tensor([label]), epsilon, method="ibp")[0]
    torch.testing.assert_close(crown.float(), exact, atol=1e-4, rtol=0)
    assert bool((crown <= exact + 1e-7).all())
    others = torch.arange(3) != label
    assert bool((plain < exact - 0.01)[others].all())


def test_float32_leaves_the_bounds_of_exact_arithmetic_but_not_ours() -> None:
    """Large terms cancel: what float32 makes of them is not what is exact, and a proof about the latter is none."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(400, 50), nn.ReLU(), nn.Linear(50, 2)).eval()
    with torch.no_grad():
        model[1].weight.mul_(1e4)
        model[3].weight[1] = model[3].weight[0]
        model[3].bias.copy_(torch.tensor([1e-5, 0.0]))  # by so much class 0 leads, in exact arithmetic
    clean, labels = torch.rand(200, 1, 20, 20), torch.zeros(200, dtype=torch.int64)
    with torch.no_grad():
        logits = model(clean)
    assert (logits[:, 0] == logits[:, 1]).any(), "float32 rounds the lead away"
    lower, upper = logit_bounds(model, clean, 0.0)
    assert bool(((lower <= logits) & (logits <= upper)).all())
    assert not verified(model, clean, labels, 0.0).any()
    steps = steps_of(model)
    end, _ = follow(steps, image_box(clean.double(), 0.0, OWN), OWN)
    outside = ((end.lower > logits) | (end.upper < logits)).any(1)
    assert outside.float().mean() > 0.5
    assert bool((margins(steps, end, labels, unit=OWN)[:, 1] > 0).all()), "exact arithmetic would prove it"


LAYERS = {
    "sum": Sum(nn.Identity(), nn.Identity(), nn.Identity()),
    "leaky": nn.LeakyReLU(0.3),
    "average": nn.AvgPool2d(3, 1),
    "adaptive average": nn.AdaptiveAvgPool2d((2, 3)),
    "normalisation": Normalize((0.3,), (0.123,)),
    "batch normalisation": nn.BatchNorm2d(1).eval(),
    "convolution": nn.Conv2d(1, 3, 3, bias=False),
    "linear": nn.Linear(5, 3),
}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_pays_for_its_own_rounding(name, scale) -> None:
    layer, values = LAYERS[name], scale * (torch.rand(50, 1, 5, 5) - 0.3)
    with torch.no_grad():
        made = layer(values).double()
        box, _ = follow(steps_of(layer), Box(values.double(), values.double()), UNIT)
        exact, _ = follow(steps_of(layer), Box(values.double(), values.double()), OWN)
    assert bool(((box.lower <= made) & (made <= box.upper)).all())
    assert bool(((exact.lower > made) | (made > exact.upper)).any()), "float32 does round here"
    assert bool((box.upper - box.lower <= 1e-4 * (made.abs().max() + 1)).all())


@pytest.mark.parametrize(
    ("lower", "upper", "slope", "rising", "falling"),
    [
        (-1.0, 2.0, 0.0, (1, 0, -1), (-2 / 3, -2 / 3, -2)),  # the line x below, the chord (x + 1) 2 / 3 above
        (-2.0, 1.0, 0.0, (0, 0, 0), (-1 / 3, -2 / 3, -1)),
        (0.5, 2.0, 0.0, (1, 0, 0.5), (-1, 0, -2)),
        (-2.0, -0.5, 0.0, (0, 0, 0), (0, 0, 0)),
        (-2.0, 1.0, 0.1, (0.1, 0, -0.2), (-0.4, -0.6, -1)),
        (0.5, 0.5, 0.0, (1, 0, 0.5), (0, -0.5, -0.5)),
    ],
)
def test_lines_of_a_rectifier_by_hand(lower, upper, slope, rising, falling) -> None:
    """Slope and constant of the line under relu(x), and under -relu(x), and its minimum."""
    step = Rectifier(slope)
    step.box(Box(torch.tensor([[lower]]), torch.tensor([[upper]])))
    for sign, (steep, constant, smallest) in ((1.0, rising), (-1.0, falling)):
        lines, added = step.back(torch.full((1, 1, 1), sign), 0.0)
        assert lines.item() == pytest.approx(steep, abs=1e-6)
        assert added.item() == pytest.approx(constant, abs=1e-6)
        assert (added + least(lines, step.entered, 0.0)).item() == pytest.approx(smallest, abs=1e-6)


def test_the_bounds_leave_the_model_as_it_was() -> None:
    model, clean = net("batch normalisation").train(), images("batch normalisation")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model[0].weight.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):  # bounds are computed outside of it
        inside = margin_bounds(model, clean, torch.tensor([0, 1]), 0.1)
    assert torch.equal(inside, margin_bounds(net("batch normalisation"), clean, torch.tensor([0, 1]), 0.1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert [one.requires_grad for one in model.parameters()] == [False] + [True] * 8
    assert inside.dtype == torch.float64
    assert not inside.requires_grad


def test_no_image_depends_on_its_batch(monkeypatch) -> None:
    model, clean, labels = net("convolution"), images("convolution", 7), torch.arange(7) % 3
    radii = torch.linspace(0, 0.2, 7, dtype=torch.float64)
    whole = margin_bounds(model, clean, labels, radii)
    monkeypatch.setattr(intervals, "_CHUNKS", {"ibp": 2, "crown-ibp": 3})
    torch.testing.assert_close(margin_bounds(model, clean, labels, radii), whole, atol=1e-12, rtol=0)
    for row in range(7):
        alone = margin_bounds(model, clean[row : row + 1], labels[row : row + 1], float(radii[row]))
        torch.testing.assert_close(alone[0], whole[row], atol=1e-12, rtol=0)
