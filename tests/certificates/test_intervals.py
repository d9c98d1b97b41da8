"""Certificates by intervals against closed forms, exhaustive search and attacks."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from certificates.interval_nets import images, net
from memory_defense.attacks import Pgd
from memory_defense.certificates.intervals import (
    METHODS,
    certified_radii,
    interval_certificates,
    logit_bounds,
    margin_bounds,
    verified,
)
from memory_defense.certificates.published import ChannelAffine, Layered
from memory_defense.defenses.undefended import Undefended
from memory_defense.networks.classifiers import Linear
from memory_defense.networks.layers import Normalize
from memory_defense.randomness import ImageDraws
from memory_defense.threat import Linf

COUNT = 40


def linear() -> Linear:
    torch.manual_seed(0)
    return Linear(channels=2, size=4, classes=5, mean=(0.2, 0.6), std=(0.3, 0.25)).eval()


def exact_radii(model: Linear, clean: Tensor, labels: Tensor) -> Tensor:
    """Return (B,) float64: the distance to the nearest image that a linear classifier does not answer `labels`.

    Moving every pixel by r against the difference of two weights, as far as [0, 1] goes, lowers the margin the
    most; the least r that lowers it to 0 is found by halving.
    """
    std = model.normalize.std.double().flatten().repeat_interleave(16)
    mean = model.normalize.mean.double().flatten().repeat_interleave(16)
    weight = model.output.weight.detach().double() / std
    bias = model.output.bias.detach().double() - weight @ mean
    points = clean.double().flatten(1)
    radii = torch.full((len(clean),), torch.inf, dtype=torch.float64)
    for row, label in enumerate(labels.tolist()):
        for other in set(range(5)) - {label}:
            difference = weight[label] - weight[other]
            low, high = 0.0, 1.0
            for _ in range(60):
                middle = (low + high) / 2
                moved = (points[row] - middle * difference.sign()).clamp(0, 1)
                leads = float(moved @ difference + bias[label] - bias[other]) > 0
                low, high = (middle, high) if leads else (low, middle)
            radii[row] = min(radii[row], low)
    return radii


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spread", [1.0, 0.2], ids=["cut at 0 and 1", "inside"])
def test_a_linear_classifiers_radius_is_the_exact_one(method, spread) -> None:
    model = linear()
    clean = 0.5 + spread * (ImageDraws.of(0, "images", COUNT).uniform(2, 4, 4) - 0.5)
    with torch.no_grad():
        labels = model(clean).argmax(1)
    exact = exact_radii(model, clean, labels)
    found = certified_radii(model, clean, labels, largest=0.5, tolerance=1e-6, method=method)
    inside = exact < 0.5
    assert inside.any()
    assert bool((found <= exact).all())
    assert bool((found[inside] >= exact[inside] - 1e-4).all())
    assert bool((found[~inside] == 0.5).all())
    wrong = certified_radii(model, clean, (labels + 1) % 5, largest=0.5, method=method)
    assert not wrong.any()


def least_margin(model: nn.Sequential, clean: Tensor, epsilon: float, label: int, other: int) -> float:
    """Return the exact minimum of a margin in a box, by a linear programme for each pattern of active ReLUs.

    The model is Flatten, Linear, ReLU, Linear, ReLU, Linear.
    """
    first, second, last = (model[at] for at in (1, 3, 5))
    w1, b1, w2, b2, w3, b3 = (one.detach().double().numpy() for layer in (first, second, last) for one in
                              (layer.weight, layer.bias))  # fmt: skip
    centre = clean.double().flatten().numpy()
    bounds = list(zip(np.maximum(centre - epsilon, 0), np.minimum(centre + epsilon, 1), strict=True))
    best = np.inf
    for one in product((0.0, 1.0), repeat=len(b1)):
        on = np.array(one)
        inner, inner_bias = w2 @ (on[:, None] * w1), w2 @ (on * b1) + b2
        signs = np.where(on > 0, -1.0, 1.0)
        for two in product((0.0, 1.0), repeat=len(b2)):
            also = np.array(two)
            more = np.where(also > 0, -1.0, 1.0)
            outer, outer_bias = w3 @ (also[:, None] * inner), w3 @ (also * inner_bias) + b3
            found = linprog(
                outer[label] - outer[other],
                A_ub=np.concatenate([signs[:, None] * w1, more[:, None] * inner]),
                b_ub=np.concatenate([-signs * b1, -more * inner_bias]),
                bounds=bounds,
            )
            if found.success:
                best = min(best, found.fun + outer_bias[label] - outer_bias[other])
    return best


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_bound_is_above_the_minimum_over_all_activation_patterns(seed) -> None:
    torch.manual_seed(seed)
    layers = (nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    model = nn.Sequential(nn.Flatten(), *layers).eval()
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight.mul_(2)
    clean = torch.rand(1, 1, 2, 3)
    label = int(model(clean).argmax())
    for epsilon in (0.05, 0.3):
        exact = least_margin(model, clean, epsilon, label, 1 - label)
        bounds = [
            float(margin_bounds(model, clean, torch.tensor([label]), epsilon, method=method)[0, 1 - label])
            for method in METHODS
        ]
        assert bounds[0] <= bounds[1] <= exact + 1e-9
        assert exact - bounds[1] < 5 * epsilon, "bounds are of the size of what they bound"


def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """Return a small network that tells which half of an image is brighter, and images with labels."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 2, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24, 10), nn.ReLU(), nn.Linear(10, 2)),
    )
    clean = torch.rand(200, 1, 4, 4)
    labels = (clean[:, 0, :, :2].sum((1, 2)) > clean[:, 0, :, 2:].sum((1, 2))).long()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(clean), labels).backward()
        optimizer.step()
    return model.eval(), clean, labels


def test_no_attack_succeeds_within_a_certified_radius() -> None:
    model, clean, _ = trained()
    answers, radii = interval_certificates(model, clean, largest=0.2)
    beyond = 0
    for epsilon in (0.02, 0.05, 0.1):
        attacked = Pgd(steps=40, restarts=2, loss="margin")(
            model, clean, answers, Linf(epsilon), ImageDraws.of(0, "attack", len(clean))
        )
        with torch.no_grad():
            fooled = model(attacked).argmax(1) != answers
        distance = (attacked.double() - clean.double()).abs().flatten(1).amax(1)
        assert not (fooled & (distance <= radii)).any()
        beyond += int((fooled & (distance > radii)).sum())
    assert beyond > 0
    assert (radii > 0.01).float().mean() > 0.5


def test_crown_proves_more_than_plain_intervals() -> None:
    model, clean, labels = trained()
    plain, crown = (certified_radii(model, clean, labels, largest=0.2, method=method) for method in METHODS)
    assert bool((crown >= plain - 1e-3).all())
    assert crown.mean() > 1.2 * plain.mean()


@pytest.mark.parametrize("method", METHODS)
def test_a_radius_that_is_asked_for_is_answered_exactly(method) -> None:
    model, clean, labels = trained()
    asked = (0.01, 1 / 255, 0.04)
    radii = certified_radii(model, clean, labels, largest=0.15, tolerance=0.03, at=asked, method=method)
    for radius in (*asked, 0.15):
        assert torch.equal(radii >= radius, verified(model, clean, labels, radius, method=method))
    assert bool(verified(model, clean, labels, radii, method=method)[radii > 0].all()), (
        "all that is returned is proven"
    )
    finer = certified_radii(model, clean, labels, largest=0.15, tolerance=1e-4, method=method)
    assert bool((finer >= radii - 1e-4).all())
    assert bool((finer <= radii + 0.03 + 1e-4).all())
    coarse = certified_radii(model, clean, labels, largest=0.15, tolerance=1, at=asked, method=method)
    assert set(coarse.tolist()) <= {0.0, *asked, 0.15}


def test_certificates_are_the_answers_and_their_radii() -> None:
    model, clean, labels = trained()
    found = interval_certificates(model, clean, largest=0.1, at=(0.05,), method="ibp")
    with torch.no_grad():
        assert torch.equal(found.labels, model(clean).argmax(1))
    expected = certified_radii(model, clean, found.labels, largest=0.1, at=(0.05,), method="ibp")
    assert torch.equal(found.radii, expected)
    assert (found.radii.dtype, found.radii.shape) == (torch.float64, (200,))
    wrong = found.labels != labels
    assert wrong.any()
    assert not certified_radii(model, clean[wrong], labels[wrong], largest=0.1).any()
    assert not interval_certificates(model, clean[:3], largest=0.0).radii.any()


def test_a_wrapper_that_publishes_its_network_is_bounded_like_it() -> None:
    model, clean, labels = trained()
    assert isinstance(Undefended(model), Layered)
    assert isinstance(Normalize((0.5,), (0.2,)), ChannelAffine)
    assert torch.equal(verified(Undefended(model), clean, labels, 0.02), verified(model, clean, labels, 0.02))


def test_what_torch_compiled_is_read_through() -> None:
    model, clean = net("convolution"), images("convolution")
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(logit_bounds(compiled, clean, 0.1)[0], logit_bounds(model, clean, 0.1)[0])


class Halved(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


class Published(nn.Module):
    """Says that it is its layers, and is not."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(9, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) * 2

    def layers(self) -> tuple[nn.Module, ...]:
        return (self.inner,)


class Overridden(Published):
    """Has a forward of its own, of which the class before has said nothing."""

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images)


class Renamed(nn.Module):
    """Calls a list of its own `layers`, which publishes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Flatten(), nn.Linear(9, 3)])

    def forward(self, images: Tensor) -> Tensor:
        return self.layers[1](self.layers[0](images))


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3))
    model[1].register_forward_hook(lambda module, args, output: -output)
    return model


def patched() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3))
    model[1].forward = lambda values: values[:, :3]
    return model


REFUSED = {
    "an activation": (
        nn.Sequential(nn.Flatten(), nn.SiLU(), nn.Linear(9, 3)),
        r"SiLU \(1\) has no interval bounds",
    ),
    "inside": (nn.Sequential(nn.Sequential(nn.Flatten(), nn.Tanh())), r"Tanh \(0\.1\) has no interval bounds"),
    "a forward of its own": (nn.Sequential(nn.Flatten(), Halved(9, 3)), "Halved .* has no interval bounds"),
    "a subclass of what is published": (Overridden(), "Overridden has no interval bounds"),
    "a list": (Renamed(), "Renamed has no interval bounds"),
    "what publishes something else": (Published(), "answers differently from the layers that it publishes"),
    "hooks": (hooked(), "remove them"),
    "a patched instance": (patched(), "remove them"),
    "another padding": (
        nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")),
        "padding_mode='zeros'",
    ),
    "a slope above 1": (nn.Sequential(nn.LeakyReLU(1.5)), r"negative_slope in \[0, 1\]"),
    "a negative slope": (nn.Sequential(nn.LeakyReLU(-0.1)), r"negative_slope in \[0, 1\]"),
    "a negative divisor": (nn.Sequential(nn.AvgPool2d(2, divisor_override=-3)), "positive divisor_override"),
    "indices": (nn.Sequential(nn.MaxPool2d(2, return_indices=True)), "return_indices=False"),
    "moments of a batch": (nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)), "track_running_stats=True"),
    "flattened batches": (nn.Sequential(nn.Flatten(0)), "start_dim=1"),
    "lower precision": (nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).bfloat16(), r"model\.float\(\)"),
    "no logits": (nn.Sequential(nn.Conv2d(1, 3, 1)), r"expected logits \(B, K\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_bounds_is_refused(name) -> None:
    model, said = REFUSED[name]
    with pytest.raises(ValueError, match=said):
        margin_bounds(model, torch.rand(2, 1, 3, 3), torch.tensor([0, 1]), 0.1)


def test_arguments_out_of_range_are_refused() -> None:
    model, clean, labels = net("linear"), images("linear"), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="x / 255"):
        verified(model, clean * 255, labels, 0.1)
    with pytest.raises(ValueError, match="8/255"):
        verified(model, clean, labels, 8)
    with pytest.raises(ValueError, match="epsilon is nan"):
        verified(model, clean, labels, torch.tensor([0.1, torch.nan]))
    with pytest.raises(ValueError, match="labels span"):
        verified(model, clean, labels + 7, 0.1)
    with pytest.raises(ValueError, match="did you mean 'crown-ibp'"):
        verified(model, clean, labels, 0.1, method="crown")
    with pytest.raises(ValueError, match="a distance above 0"):
        certified_radii(model, clean, labels, largest=0.1, tolerance=0)
    with pytest.raises(ValueError, match="raise largest"):
        certified_radii(model, clean, labels, largest=0.1, at=(0.2,))
