import pytest
import torch
from torch import nn

from memory_defense.networks.classifiers import CLASSIFIERS
from memory_defense.networks.resnet import Block, ResNet, resnet18, resnet50

COLOUR = {"channels": 3, "size": 32, "classes": 10, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_resnet50_is_the_papers_selector():
    network = CLASSIFIERS["resnet50"](**COLOUR).eval()

    assert parameters(network) == 23_520_842
    assert sum(isinstance(layer, nn.Conv2d) for layer in network.modules()) == 1 + 3 * 16 + 4
    assert isinstance(network.stem[-1], nn.MaxPool2d)
    with torch.no_grad():
        assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_resnet18_keeps_the_full_size_after_its_stem():
    network = resnet18(**COLOUR)

    assert parameters(network) == 11_173_962
    assert network.stem(torch.rand(1, 3, 32, 32)).shape == (1, 64, 32, 32)


def test_the_pooled_stem_halves_the_image():
    network = resnet18(**COLOUR, stem_pool=True)

    assert network.stem(torch.rand(1, 3, 32, 32)).shape == (1, 64, 16, 16)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_block_adds_its_branch_to_its_shortcut(bottleneck):
    block = Block(8, 8, stride=2, bottleneck=bottleneck, activation="relu").eval()
    features = torch.randn(2, 8, 7, 7)

    expected = (block.branch(features) + block.shortcut(features)).relu()

    assert torch.equal(block(features), expected)
    assert expected.shape == (2, 8 * (4 if bottleneck else 1), 4, 4)


def test_the_identity_shortcut_is_the_input():
    block = Block(16, 16, stride=1, bottleneck=False, activation="relu")
    features = torch.randn(2, 16, 5, 5)

    assert block.shortcut(features) is features


def test_the_bottlenecks_stride_is_on_the_three_by_three():
    block = Block(8, 4, stride=2, bottleneck=True, activation="relu")
    convolutions = [layer for layer in block.branch if isinstance(layer, nn.Conv2d)]

    assert [(layer.kernel_size[0], layer.stride[0]) for layer in convolutions] == [(1, 1), (3, 2), (1, 1)]


def test_convolutions_have_the_fan_out_deviation():
    network = resnet18(**COLOUR)
    convolution = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)][-1]
    fan_out = convolution.out_channels * convolution.kernel_size[0] ** 2

    assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)


def test_the_activation_is_everywhere_the_chosen_one():
    network = resnet18(**COLOUR, activation="silu")

    assert not any(isinstance(layer, nn.ReLU) for layer in network.modules())
    assert any(isinstance(layer, nn.SiLU) for layer in network.modules())


def test_unknown_depths_are_refused():
    with pytest.raises(ValueError, match="no ResNet of 34 layers"):
        ResNet(**COLOUR, layers=34, stem_pool=False)  # type: ignore[arg-type]


def test_the_named_networks_differ_in_depth_and_stem():
    assert resnet18.keywords == {"layers": 18, "stem_pool": False}
    assert resnet50.keywords == {"layers": 50, "stem_pool": True}
