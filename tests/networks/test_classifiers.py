import pytest
import torch
from torch import nn
from torch.nn import functional as F

from memory_defense.networks.classifiers import CLASSIFIERS, LeNet, LeNetSmall, Linear, SmallCNN, TargetClassifier
from memory_defense.randomness import seeded

GREY = {"channels": 1, "size": 28, "classes": 10, "mean": (0.286,), "std": (0.353,)}
COLOUR = {"channels": 3, "size": 32, "classes": 10, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
LIGHT = [name for name in CLASSIFIERS if name != "resnet50"]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("shape", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("name", LIGHT)
def test_every_classifier_takes_unit_images_and_gives_differentiable_logits(name, shape):
    network = CLASSIFIERS[name](**shape).eval()
    images = torch.rand(2, shape["channels"], shape["size"], shape["size"], requires_grad=True)

    logits = network(images)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), images)

    assert logits.shape == (2, 10)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", LIGHT)
def test_every_classifier_normalises_first(name):
    with seeded(0, "network"):
        network = CLASSIFIERS[name](**GREY).eval()
    with seeded(0, "network"):
        plain = CLASSIFIERS[name](**{**GREY, "mean": (0.0,), "std": (1.0,)}).eval()
    images = torch.rand(2, 1, 28, 28)

    with torch.no_grad():
        assert torch.allclose(network(images), plain((images - 0.286) / 0.353), atol=1e-4)


@pytest.mark.parametrize("name", LIGHT)
def test_initialisation_follows_the_seed(name):
    def build(seed):
        with seeded(seed, "network"):
            return torch.cat([p.flatten() for p in CLASSIFIERS[name](**GREY).parameters()])

    assert torch.equal(build(1), build(1))
    assert not torch.equal(build(1), build(2))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_mean_for_other_channels_is_refused(name):
    with pytest.raises(ValueError, match="mean has 3 numbers for 1 channels"):
        CLASSIFIERS[name](**{**GREY, "mean": COLOUR["mean"], "std": COLOUR["std"]})


def test_small_cnn_is_the_documented_stack():
    network = SmallCNN(**GREY).eval()
    first, second, third = (layer for layer in network.trunk if isinstance(layer, nn.Conv2d))
    hidden, output = network.head[0], network.head[2]
    images = torch.rand(3, 1, 28, 28)

    features = (images - 0.286) / 0.353
    features = F.relu(F.conv2d(features, first.weight, first.bias, stride=2, padding=2))
    features = F.relu(F.conv2d(features, second.weight, second.bias, padding=1))
    features = F.relu(F.conv2d(features, third.weight, third.bias, stride=2, padding=1))
    features = F.relu(F.linear(F.max_pool2d(features, 2).flatten(1), hidden.weight, hidden.bias))

    assert torch.allclose(network(images), F.linear(features, output.weight, output.bias), atol=1e-5)
    assert hidden.in_features == 64 * 3 * 3
    assert parameters(network) == 832 + 9_248 + 18_496 + 73_856 + 1_290


def test_lenet_small_is_the_documented_stack():
    network = LeNetSmall(**GREY).eval()
    first, second = (layer for layer in network.trunk if isinstance(layer, nn.Conv2d))
    hidden, output = network.head[0], network.head[2]
    images = torch.rand(3, 1, 28, 28)

    features = (images - 0.286) / 0.353
    features = F.relu(F.conv2d(features, first.weight, first.bias, stride=2, padding=1))
    features = F.relu(F.conv2d(features, second.weight, second.bias, stride=2, padding=1))
    features = F.relu(F.linear(features.flatten(1), hidden.weight, hidden.bias))

    assert torch.allclose(network(images), F.linear(features, output.weight, output.bias), atol=1e-5)
    assert hidden.in_features == 32 * 7 * 7
    assert parameters(network) == 272 + 8_224 + 156_900 + 1_010


def test_lenet_is_the_documented_stack():
    network = LeNet(**GREY).eval()
    first, second = (layer for layer in network.trunk if isinstance(layer, nn.Conv2d))
    hidden, output = network.head[0], network.head[2]
    images = torch.rand(3, 1, 28, 28)

    features = (images - 0.286) / 0.353
    features = F.relu(F.max_pool2d(F.conv2d(features, first.weight, first.bias), 2))
    features = F.relu(F.max_pool2d(F.conv2d(features, second.weight, second.bias), 2))
    features = F.relu(F.linear(features.flatten(1), hidden.weight, hidden.bias))

    assert torch.allclose(network(images), F.linear(features, output.weight, output.bias), atol=1e-5)
    assert hidden.in_features == 64 * 4 * 4
    assert parameters(network) == 832 + 51_264 + 524_800 + 5_130


@pytest.mark.parametrize("size", [4, 7, 28, 128])
def test_lenet_small_fits_any_size(size):
    network = LeNetSmall(**{**COLOUR, "size": size}, widths=(4, 8), hidden=16)

    assert network(torch.rand(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize("size", [5, 8, 31, 64, 128])
def test_small_cnn_fits_any_size(size):
    network = SmallCNN(**{**COLOUR, "size": size}, widths=(4, 4, 8), hidden=16)

    assert network(torch.rand(2, 3, size, size)).shape == (2, 10)


def test_small_cnn_with_silu_has_no_relu():
    kinds = {type(layer) for layer in CLASSIFIERS["small-cnn-silu"](**GREY).modules()}

    assert nn.SiLU in kinds
    assert nn.ReLU not in kinds


@pytest.mark.parametrize(("shape", "features", "count"), [(GREY, 256, 102_550), (COLOUR, 400, 139_714)])
def test_target_classifier_is_table_4(shape, features, count):
    network = TargetClassifier(**shape)
    linear = [layer for layer in network.head if isinstance(layer, nn.Linear)]
    convolutions = [layer for layer in network.trunk if isinstance(layer, nn.Conv2d)]

    assert [(layer.out_channels, layer.kernel_size, layer.stride) for layer in convolutions] == [
        (6, (5, 5), (1, 1)),
        (16, (5, 5), (1, 1)),
    ]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(features, 256), (256, 128), (128, 10)]
    assert parameters(network) == count


def test_target_classifier_drops_out_in_training_only():
    network = TargetClassifier(**GREY)
    images = torch.rand(4, 1, 28, 28)

    assert not torch.equal(network.train()(images), network(images))
    assert torch.equal(network.eval()(images), network(images))


def test_target_classifier_refuses_images_too_small_for_two_convolutions():
    assert TargetClassifier(**{**GREY, "size": 16})(torch.rand(1, 1, 16, 16)).shape == (1, 10)
    with pytest.raises(ValueError, match="takes 16 to 1024"):
        TargetClassifier(**{**GREY, "size": 15})


def test_linear_has_the_closed_form_gradient():
    network = Linear(**COLOUR)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)

    (gradient,) = torch.autograd.grad(network(images)[:, 4].sum(), images)

    expected = network.output.weight[4].view(3, 32, 32) / torch.tensor(COLOUR["std"]).view(3, 1, 1)
    assert torch.allclose(gradient, expected.expand(2, 3, 32, 32))
