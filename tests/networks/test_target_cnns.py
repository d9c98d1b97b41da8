"""Defense-GAN's four target networks: shapes and parameter counts worked out on paper."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from memory_defense.networks.classifiers import CLASSIFIERS

GREY = {"channels": 1, "size": 28, "classes": 10, "mean": (0.286,), "std": (0.353,)}
COLOUR = {"channels": 3, "size": 32, "classes": 10, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}

COUNTS = {
    # A: 28 stays 28, then (28 - 5) // 2 + 1 = 12; 32 gives 14.
    ("cnn-a", 28): (25 + 1) * 64 + (25 * 64 + 1) * 64 + (64 * 12 * 12 + 1) * 128 + 129 * 10,
    ("cnn-a", 32): (75 + 1) * 64 + (25 * 64 + 1) * 64 + (64 * 14 * 14 + 1) * 128 + 129 * 10,
    # B: 28 to 14 (same), (14 - 6) // 2 + 1 = 5, 1; 32 to 16, 6, 2.
    ("cnn-b", 28): (64 + 1) * 64 + (36 * 64 + 1) * 128 + (25 * 128 + 1) * 128 + 129 * 10,
    ("cnn-b", 32): (192 + 1) * 64 + (36 * 64 + 1) * 128 + (25 * 128 + 1) * 128 + (128 * 4 + 1) * 10,
    # C: as A with another first layer.
    ("cnn-c", 28): (9 + 1) * 128 + (25 * 128 + 1) * 64 + (64 * 12 * 12 + 1) * 128 + 129 * 10,
    ("cnn-c", 32): (27 + 1) * 128 + (25 * 128 + 1) * 64 + (64 * 14 * 14 + 1) * 128 + 129 * 10,
    ("mlp-d", 28): (784 + 1) * 200 + 201 * 200 + 201 * 10,
    ("mlp-d", 32): (3072 + 1) * 200 + 201 * 200 + 201 * 10,
}


@pytest.mark.parametrize(("name", "size"), COUNTS)
def test_parameters_are_as_many_as_on_paper(name: str, size: int) -> None:
    shape = GREY if size == 28 else COLOUR
    network = CLASSIFIERS[name](**shape)

    assert sum(parameter.numel() for parameter in network.parameters()) == COUNTS[name, size]
    assert network(torch.rand(2, shape["channels"], size, size)).shape == (2, 10)


def test_a_is_the_documented_stack() -> None:
    network, images = CLASSIFIERS["cnn-a"](**GREY).eval(), torch.rand(3, 1, 28, 28)
    (one, two), (hidden, output) = _layers(network)

    features = F.relu(F.conv2d((images - 0.286) / 0.353, one.weight, one.bias, padding=2))
    features = F.relu(F.conv2d(features, two.weight, two.bias, stride=2)).flatten(1)
    features = F.relu(F.linear(features, hidden.weight, hidden.bias))

    assert torch.allclose(network(images), F.linear(features, output.weight, output.bias), atol=1e-5)


def test_b_pads_as_tensorflow_does() -> None:
    """``same`` with stride 2 and kernel 8 on 28 pixels: 14 outputs, (14 - 1) * 2 + 8 - 28 = 6 zeros, 3 a side."""
    network, images = CLASSIFIERS["cnn-b"](**GREY).eval(), torch.rand(3, 1, 28, 28)
    (one, two, three), (output,) = _layers(network)

    features = F.pad((images - 0.286) / 0.353, (3, 3, 3, 3))
    features = F.relu(F.conv2d(features, one.weight, one.bias, stride=2))
    assert features.shape == (3, 64, 14, 14)
    features = F.relu(F.conv2d(features, two.weight, two.bias, stride=2))
    features = F.relu(F.conv2d(features, three.weight, three.bias)).flatten(1)

    assert torch.allclose(network(images), F.linear(features, output.weight, output.bias), atol=1e-5)


def test_c_and_d_are_the_documented_stacks() -> None:
    images = torch.rand(3, 1, 28, 28)
    seen = (images - 0.286) / 0.353
    network = CLASSIFIERS["cnn-c"](**GREY).eval()
    (one, two), (hidden, output) = _layers(network)
    features = F.relu(F.conv2d(seen, one.weight, one.bias, padding=1))
    features = F.relu(F.conv2d(features, two.weight, two.bias, stride=2)).flatten(1)
    features = F.relu(F.linear(features, hidden.weight, hidden.bias))
    assert torch.allclose(network(images), F.linear(features, output.weight, output.bias), atol=1e-5)

    network = CLASSIFIERS["mlp-d"](**GREY).eval()
    _, (one, two, output) = _layers(network)
    features = F.relu(F.linear(seen.flatten(1), one.weight, one.bias))
    features = F.relu(F.linear(features, two.weight, two.bias))
    assert torch.allclose(network(images), F.linear(features, output.weight, output.bias), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shares"), [("cnn-a", [0.25, 0.5]), ("cnn-b", [0.2, 0.5]), ("cnn-c", [0.25, 0.5]), ("mlp-d", [0.5])]
)
def test_dropout_is_where_it_was_published_and_off_in_eval_mode(name: str, shares: list[float]) -> None:
    network, images = CLASSIFIERS[name](**GREY), torch.rand(4, 1, 28, 28)

    assert [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)] == shares
    assert not torch.equal(network.train()(images), network(images))
    assert torch.equal(network.eval()(images), network(images))


@pytest.mark.parametrize(("name", "size"), [("cnn-a", 4), ("cnn-b", 27), ("cnn-c", 4), ("mlp-d", 129)])
def test_sizes_out_of_range_are_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=rf"size is {size}, but this network takes"):
        CLASSIFIERS[name](**{**GREY, "size": size})


def _layers(network: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    modules = list(network.modules())
    convolutions = [layer for layer in modules if isinstance(layer, nn.Conv2d)]
    return convolutions, [layer for layer in modules if isinstance(layer, nn.Linear)]
