import pytest
import torch
from torch import nn
from torch.nn import functional as F

from memory_defense.certificates.intervals import logit_bounds
from memory_defense.certificates.reading import steps_of
from memory_defense.networks.classifiers import CLASSIFIERS
from memory_defense.networks.interval_cnn import SEVEN, IntervalCnn
from memory_defense.randomness import seeded

GREY = {"channels": 1, "size": 28, "classes": 10, "mean": (0.286,), "std": (0.353,)}
COLOUR = {"channels": 3, "size": 32, "classes": 10, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
BOUNDED = ("linear", "lenet-small", "small-cnn", "target-classifier", "cnn-a", "mlp-d", "interval-cnn",
           "interval-cnn7-narrow", "resnet18")  # fmt: skip


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_small_one_is_the_documented_stack():
    network = IntervalCnn(**GREY).eval()
    convolutions = [layer for layer in network.trunk if isinstance(layer, nn.Conv2d)]
    images = torch.rand(3, 1, 28, 28)

    features = (images - 0.286) / 0.353
    for layer, stride in zip(convolutions, (1, 2, 1, 2), strict=True):
        features = F.relu(F.conv2d(features, layer.weight, layer.bias, stride=stride, padding=1))
    hidden, output = network.head[0], network.head[2]
    features = F.relu(F.linear(features.flatten(1), hidden.weight, hidden.bias))

    assert torch.allclose(network(images), F.linear(features, output.weight, output.bias), atol=1e-5)
    assert hidden.in_features == 64 * 7 * 7
    assert parameters(network) == 320 + 16_416 + 18_496 + 65_600 + 1_606_144 + 5_130


def test_cnn7_has_its_published_sizes_and_the_narrow_one_a_quarter_of_the_channels():
    wide, narrow = CLASSIFIERS["interval-cnn7"](**COLOUR), CLASSIFIERS["interval-cnn7-narrow"](**GREY)

    def sizes(network):
        layers = [layer for layer in network.trunk if isinstance(layer, nn.Conv2d)]
        return [(one.out_channels, one.kernel_size[0], one.stride[0]) for one in layers]

    assert sizes(wide) == list(SEVEN) == [(64, 3, 1), (64, 3, 1), (128, 3, 2), (128, 3, 1), (128, 3, 1)]
    assert sizes(narrow) == [(width // 4, kernel, stride) for width, kernel, stride in SEVEN]
    assert (wide.head[0].in_features, wide.head[0].out_features) == (128 * 16 * 16, 512)
    assert (narrow.head[0].in_features, narrow.head[0].out_features) == (32 * 14 * 14, 256)
    assert sum(isinstance(one, (nn.BatchNorm1d, nn.BatchNorm2d)) for one in wide.modules()) == 6


@pytest.mark.parametrize("size", [4, 7, 28, 33])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_it_fits_any_size(size, batch_norm):
    network = IntervalCnn(**{**COLOUR, "size": size}, plan=((4, 3, 1), (8, 4, 2)), hidden=9, batch_norm=batch_norm)

    assert network(torch.rand(2, 3, size, size)).shape == (2, 10)
    with pytest.raises(ValueError, match="takes 4 to 128"):
        IntervalCnn(**{**COLOUR, "size": 3})


@pytest.mark.parametrize("name", BOUNDED)
def test_our_classifiers_of_relu_have_bounds_around_their_answers(name):
    with seeded(0, "network"):
        network = CLASSIFIERS[name](**GREY).eval()
    images = torch.rand(2, 1, 28, 28)
    epsilon = 1e-4 if name == "resnet18" else 0.01
    lower, upper = logit_bounds(network, images, epsilon)
    with torch.no_grad():
        for _ in range(3):
            logits = network((images + epsilon * (2 * torch.rand_like(images) - 1)).clamp(0, 1))
            assert bool(((lower <= logits) & (logits <= upper)).all())


@pytest.mark.parametrize("name", ["small-cnn-silu", "residual-cnn", "resnet18-silu"])
def test_those_of_silu_have_none(name):
    with pytest.raises(ValueError, match=r"SiLU .* has no interval bounds"):
        steps_of(CLASSIFIERS[name](**GREY).eval())
