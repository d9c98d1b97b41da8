import math

import pytest
import torch
from torch.nn import functional as F

from memory_defense.networks.magnet import DenoisingAutoencoder, autoencoder_one, autoencoder_two


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_published_forms_and_their_sizes():
    # 3x3 weights and a bias for each of: 1-3, 3-3 | 3-3, 3-3 | 3-1, and 1-3 | 3-3 | 3-1
    assert count(autoencoder_one(1)) == 9 * (3 + 9 + 9 + 9 + 3) + 3 * 4 + 1
    assert count(autoencoder_two(1)) == 9 * (3 + 9 + 3) + 3 * 2 + 1
    assert count(autoencoder_one(3)) == count(autoencoder_two(3)) == 9 * (9 + 9 + 9) + 3 * 3
    assert autoencoder_one(1).structure == (3, "average", 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("height", [4, 7, 28])
@pytest.mark.parametrize("width", [5, 32])
def test_any_size_comes_back_at_its_own_and_in_range(channels, height, width):
    for network in (autoencoder_one(channels), autoencoder_two(channels)):
        made = network(torch.rand(2, channels, height, width))
        assert made.shape == (2, channels, height, width)
        assert 0 < made.min() < made.max() < 1


def test_the_pooled_form_is_its_layers_in_order():
    network, images = autoencoder_one(1).double(), torch.rand(2, 1, 6, 6).double()
    layers = list(network.convolutions)

    features = torch.sigmoid(layers[0](images))
    pooled = features.reshape(2, 3, 3, 2, 3, 2).mean((3, 5))
    inner = torch.sigmoid(layers[2](torch.sigmoid(layers[1](pooled))))
    raised = inner.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = torch.sigmoid(layers[4](torch.sigmoid(layers[3](raised))))

    assert torch.allclose(network(images), expected, atol=1e-12)


def test_an_odd_border_is_averaged_by_itself():
    network = DenoisingAutoencoder(channels=1, structure=(1, "average"))
    with torch.no_grad():
        for layer in network.convolutions:
            layer.weight.zero_()
            layer.weight[:, :, 1, 1] = 1
            layer.bias.zero_()
    images = torch.rand(1, 1, 5, 5)

    made = network(images)

    corner = torch.sigmoid(images[0, 0, 4, 4])
    assert torch.allclose(made[0, 0, 4, 4], torch.sigmoid(torch.sigmoid(corner)))


def test_activity_is_the_sum_of_all_squared_outputs():
    network = autoencoder_two(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()  # every output is then one half

    made = network.reconstruct(torch.rand(3, 1, 8, 8))

    assert torch.equal(made.images, torch.full((3, 1, 8, 8), 0.5))
    assert made.activity.tolist() == [pytest.approx(0.25 * 64 * (3 + 3 + 1))] * 3


def test_activity_follows_each_image():
    network, images = autoencoder_one(3), torch.rand(4, 3, 8, 8)

    apart = torch.cat([network.reconstruct(images[row : row + 1]).activity for row in range(4)])

    assert torch.allclose(network.reconstruct(images).activity, apart)
    hidden = torch.sigmoid(network.convolutions[0](images))
    again = torch.sigmoid(network.convolutions[1](hidden))
    expected = sum(one.square().sum((1, 2, 3)) for one in (hidden, again, network(images)))
    assert torch.allclose(network.reconstruct(images).activity, expected)


def test_gradients_are_true():
    network = autoencoder_one(1).double()
    images = torch.rand(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x: F.mse_loss(network(x), x), (images,))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 3, 8, 8), r"takes \(B, 1, H, W\)"), ((2, 8, 8), "unsqueeze"), ((2, 1, 3, 8), "takes 4 to 128")],
)
def test_images_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        autoencoder_one(1)(torch.rand(shape))


@pytest.mark.parametrize("structure", [(), ("average",), (0,)])
def test_structures_without_convolutions_are_refused(structure):
    with pytest.raises(ValueError, match="at least one convolution"):
        DenoisingAutoencoder(channels=1, structure=structure)


def test_a_sigmoid_of_nothing_is_one_half():
    network = DenoisingAutoencoder(channels=1, structure=(2,))
    with torch.no_grad():
        for layer in network.convolutions:
            layer.weight.zero_()
            layer.bias.fill_(math.log(3))

    assert torch.allclose(network(torch.rand(1, 1, 4, 4)), torch.tensor(0.75))
