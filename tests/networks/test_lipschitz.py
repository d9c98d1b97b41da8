"""1-Lipschitz layers: no Jacobian, no pair and no attack stretches a distance, however the weights came about."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.networks.lipschitz import (
    LipschitzEncoder,
    LipschitzPlan,
    SllConv2d,
    SllLayer,
    SllLinear,
    ZeroChannels,
    sll_steps,
)

ROOM = 1e-9
"""What float64 may add to a constant of 1."""

PLAN = LipschitzPlan(channels=1, size=8, widths=(6, 24), depths=(2, 1), dense=(9, 5))
COLOUR = LipschitzPlan(channels=3, size=7, widths=(12,), depths=(2,), dense=(8,))

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolution": (lambda: SllConv2d(4, 6), (4, 5, 5)),
    "large kernel on a small image": (lambda: SllConv2d(2, 3, kernel=5), (2, 3, 4)),
    "one by one": (lambda: SllConv2d(5, 4, kernel=1), (5, 3, 3)),
    "linear": (lambda: SllLinear(12, 7), (12,)),
    "wide linear": (lambda: SllLinear(5, 20), (5,)),
    "zero channels": (lambda: ZeroChannels(7), (3, 4, 4)),
    "encoder": (lambda: LipschitzEncoder(PLAN, [0.3]), (1, 8, 8)),
    "encoder of images with an odd side": (lambda: LipschitzEncoder(COLOUR, [0.5, 0.4, 0.3]), (3, 7, 7)),
}


def stretched(made: nn.Module, shape: tuple[int, ...], steps: int = 6) -> nn.Module:
    """Train with a far too large learning rate to move pairs apart; return the module in float64 and eval mode."""
    parameters = list(made.parameters())
    if parameters:
        optimizer = torch.optim.AdamW(parameters, lr=0.5, fused=True)
        for _ in range(steps):
            one, other = torch.rand(2, 8, *shape)
            loss = -((made(one) - made(other)).flatten(1).norm(dim=1)).mean() - made(one).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return made.double().eval().requires_grad_(False)


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(3)
    make, shape = CASES[request.param]
    return stretched(make(), shape), shape


def stretch(module: nn.Module, one: Tensor, other: Tensor) -> Tensor:
    """Return (B,) how many times further apart the outputs are than the inputs."""
    apart = (module(one) - module(other)).flatten(1).norm(dim=1)
    return apart / (one - other).flatten(1).norm(dim=1).clamp_min(1e-9)


def largest_singular_value(module: nn.Module, point: Tensor) -> float:
    """Return the spectral norm of the Jacobian at a point (1, ...) by power iteration."""
    direction = torch.randn_like(point)
    for _ in range(60):
        direction = direction / direction.norm()
        _, along = torch.autograd.functional.jvp(module, point, direction)
        _, direction = torch.autograd.functional.vjp(module, point, along)
    return float(direction.norm().sqrt())


def attacked_stretch(module: nn.Module, shape: tuple[int, ...], steps: int = 60) -> Tensor:
    """Return (B,) the largest stretch that ascent on both points of each pair finds."""
    pair = [torch.rand(16, *shape).double().requires_grad_() for _ in range(2)]
    pair[1].data[8:] = pair[0].data[8:] + 1e-3 * torch.randn(8, *shape).double()  # close ones see one linear piece
    optimizer = torch.optim.Adam(pair, lr=0.02)
    best = torch.zeros(16).double()
    for _ in range(steps):
        found = stretch(module, *pair)
        best = torch.maximum(best, found.detach())
        optimizer.zero_grad()
        (-found.sum()).backward()
        optimizer.step()
    return best


def test_no_jacobian_is_longer_than_1(case) -> None:
    module, shape = case
    for scale in (0.1, 1, 30):
        point = scale * torch.randn(1, *shape).double()
        whole = torch.autograd.functional.jacobian(module, point).reshape(-1, point.numel())
        exact = float(torch.linalg.matrix_norm(whole, 2))
        assert exact <= 1 + ROOM
        assert largest_singular_value(module, point) <= exact + ROOM


def test_no_pair_is_moved_apart(case) -> None:
    module, shape = case
    for scale in (1e-3, 1, 100):
        one = torch.randn(200, *shape).double()
        assert stretch(module, one, one + scale * torch.randn(200, *shape).double()).max() <= 1 + 1e-8


def test_no_attack_moves_a_pair_apart(case) -> None:
    module, shape = case
    found = attacked_stretch(module, shape)
    assert found.max() <= 1 + 1e-8
    assert found.max() > 0.8, "the attack looks where distances are nearly kept"


def test_the_same_tests_catch_a_layer_that_goes_a_little_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    honest = SllConv2d.transposed
    monkeypatch.setattr(SllConv2d, "transposed", lambda self, *given: 1.5 * honest(self, *given))
    layer = stretched(SllConv2d(4, 4), (4, 5, 5))
    nn.init.constant_(layer.bias, 10.0)  # the ReLU lets all through: the step is 3 V' T^-1 V where 2 are allowed
    layer.weight[1:] = 0  # one filter, whose bound is nearly tight
    layer.weight[0, :, 0] = layer.weight[0, :, 2] = 0
    layer.weight[0, :, :, 0] = layer.weight[0, :, :, 2] = 0
    assert attacked_stretch(layer, (4, 5, 5)).max() > 1.2


def dense(layer: SllConv2d, height: int, width: int) -> Tensor:
    """Return the matrix of the convolution V on images of this size."""
    channels = layer.weight.shape[1]
    basis = torch.eye(channels * height * width).double().reshape(-1, channels, height, width)
    return F.conv2d(basis, layer.weight.double(), padding=layer.weight.shape[2] // 2).flatten(1).T


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 6)])
def test_the_bound_lies_above_the_convolution_at_its_borders_too(size) -> None:
    torch.manual_seed(0)
    layer = SllConv2d(3, 4).double()
    nn.init.normal_(layer.log_q)
    overlaps = F.conv2d(layer.weight, layer.weight, padding=2).abs().sum((2, 3))
    bound = (2 / sll_steps(overlaps, layer.log_q)).repeat_interleave(size[0] * size[1]).detach()
    v = dense(layer, *size).detach()
    assert torch.linalg.eigvalsh(torch.diag(bound) - v @ v.T).min() > -ROOM


def test_a_convolution_is_its_matrix() -> None:
    torch.manual_seed(0)
    layer = SllConv2d(3, 4).double().requires_grad_(False)
    nn.init.normal_(layer.log_q)
    nn.init.normal_(layer.bias)
    images, v = torch.randn(5, 3, 4, 6).double(), dense(layer, 4, 6)
    steps = sll_steps(F.conv2d(layer.weight, layer.weight, padding=2).abs().sum((2, 3)), layer.log_q)
    inside = F.relu(images.flatten(1) @ v.T + layer.bias.repeat_interleave(24))
    expected = images.flatten(1) - (inside * steps.repeat_interleave(24)) @ v
    assert torch.allclose(layer(images).flatten(1), expected, atol=1e-12)


def test_a_filter_of_zeros_does_nothing() -> None:
    layer = SllLinear(4, 3)
    nn.init.zeros_(layer.weight)
    vectors = torch.randn(5, 4)
    assert torch.equal(layer.eval()(vectors), vectors)


def layers() -> list[tuple[SllLayer, Tensor]]:
    torch.manual_seed(1)
    return [(SllConv2d(4, 6), torch.rand(3, 4, 5, 5)), (SllLinear(12, 9), torch.rand(3, 12))]


@pytest.mark.parametrize("which", [0, 1])
def test_eval_mode_answers_as_training_does_and_computes_once(which, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, given = layers()[which]
    calls: list[torch.dtype] = []
    honest = type(layer).transposed
    monkeypatch.setattr(type(layer), "transposed", lambda self, *it: calls.append(it[0].dtype) or honest(self, *it))
    expected = layer(given)
    assert calls == [torch.float32]
    layer.eval()
    with torch.no_grad():
        answers = [layer(given) for _ in range(4)]
    assert calls == [torch.float32, torch.float64]
    assert torch.allclose(expected, answers[0], atol=1e-6)
    assert all(torch.equal(one, answers[0]) for one in answers)
    assert set(layer.state_dict()) == {"weight", "bias", "log_q"}


def changes() -> dict[str, Callable[[SllLayer], object]]:
    def fused(layer: SllLayer) -> None:
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
        for parameter in layer.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()

    def averaged(layer: SllLayer) -> None:
        parameters = list(layer.parameters())
        torch._foreach_lerp_(parameters, [torch.ones_like(one) for one in parameters], 0.5)

    def loaded(layer: SllLayer) -> None:
        layer.load_state_dict({name: one + 1 for name, one in layer.state_dict().items()})

    def written(layer: SllLayer) -> None:
        layer.weight.data += 1

    def replaced(layer: SllLayer) -> None:
        layer.weight = nn.Parameter(layer.weight + 1)

    return {one.__name__: one for one in (fused, averaged, loaded, written, replaced)} | {
        "trained in between": lambda layer: fused(layer.train()) or layer.eval(),
        "only q": lambda layer: layer.log_q.data.copy_(torch.arange(len(layer.log_q))),
    }


@pytest.mark.parametrize("change", changes().values(), ids=changes())
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_remembered_follows_the_parameters(which, change) -> None:
    layer, given = layers()[which]
    layer.eval()
    with torch.no_grad():
        before = layer(given)
        change(layer)
        after = layer(given)
        fresh = type(layer)(layer.weight.shape[1], *layer.weight.shape[:1]).eval()
        fresh.load_state_dict(layer.state_dict())
        assert torch.equal(after, fresh(given))
    assert not torch.equal(after, before)


def test_another_precision_and_a_copy_do_not_share_what_is_remembered() -> None:
    layer, given = layers()[0]
    with torch.no_grad():
        before = layer.eval()(given)
        double = copy.deepcopy(layer).double()
        assert double(given.double()).dtype == torch.float64
        assert torch.allclose(double(given.double()).float(), before, atol=1e-6)
        assert torch.equal(layer(given), before)


def test_inference_mode_first_and_a_gradient_afterwards() -> None:
    layer, given = layers()[0]
    layer.eval().requires_grad_(False)
    with torch.inference_mode():
        expected = layer(given)
    point = given.clone().requires_grad_()
    answer = layer(point)
    answer.sum().backward()
    assert torch.equal(answer, expected)
    assert point.grad is not None


def test_parameters_that_want_a_gradient_have_one_in_eval_mode_too() -> None:
    layer, given = layers()[1]
    with torch.no_grad():
        layer.eval()(given)
    layer(given).square().sum().backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in layer.parameters())


def test_bounds_are_not_computed_in_bfloat16() -> None:
    layer, given = layers()[0]
    expected = layer.back()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(given).dtype == torch.float32, "the residual stays what it was"
        assert torch.equal(layer.back(), expected)


def test_an_encoder_without_layers_keeps_every_distance() -> None:
    plan = LipschitzPlan(channels=3, size=9, widths=(12, 48), depths=(0, 0), dense=())
    encoder = LipschitzEncoder(plan, [0.2, 0.5, 0.6])
    one, other = torch.rand(2, 6, 3, 9, 9)
    assert (plan.side, plan.code_size) == (3, 432)
    assert encoder(one).shape == (6, 432)
    assert torch.allclose(stretch(encoder, one, other), torch.ones(6))
    assert encoder(torch.tensor([0.2, 0.5, 0.6]).view(1, 3, 1, 1).expand(1, 3, 9, 9)).abs().max() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SllConv2d(0, 3), "channels is 0"),
        (lambda: SllConv2d(3, 3, kernel=2), "use 3"),
        (lambda: SllLinear(4, 0), "hidden is 0"),
        (lambda: LipschitzPlan(channels=1, size=8, widths=(), depths=(), dense=()), "halvings is 0"),
        (lambda: LipschitzPlan(channels=1, size=3, widths=(4, 16), depths=(1, 1), dense=()), "takes 4 to 128"),
        (lambda: LipschitzPlan(channels=1, size=8, widths=(4, 16), depths=(1,), dense=()), "depths 1"),
        (lambda: LipschitzPlan(channels=3, size=8, widths=(8,), depths=(1,), dense=()), "use at least 12"),
        (lambda: LipschitzEncoder(PLAN, [0.1, 0.2]), "give one for each"),
        (lambda: LipschitzEncoder(PLAN, [0.1])(torch.rand(2, 1, 9, 9)), "resize them"),
        (lambda: LipschitzEncoder(PLAN, [0.1])(torch.rand(2, 3, 8, 8)), "build it for 3 channels"),
    ],
)
def test_what_does_not_fit_is_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()
