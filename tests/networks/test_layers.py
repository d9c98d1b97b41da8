import pytest
import torch
from torch import nn

from memory_defense.networks.layers import ACTIVATIONS, Normalize, Sum, activation_layer, check_network, features_of


def test_normalize_shifts_and_scales_each_channel_by_its_own_numbers():
    layer = Normalize((0.5, 0.25), (2.0, 0.5))
    images = torch.tensor([0.5, 1.0]).view(1, 2, 1, 1).expand(3, 2, 4, 4)

    normalised = layer(images)

    assert torch.equal(normalised[:, 0], torch.zeros(3, 4, 4))
    assert torch.equal(normalised[:, 1], torch.full((3, 4, 4), 1.5))


def test_normalize_invert_is_its_inverse_and_keeps_leading_axes():
    layer = Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    images = torch.rand(2, 3, 5, 5)

    assert torch.allclose(layer.invert(layer(images)), images, atol=1e-6)
    many = torch.stack([images, images], 1)
    assert torch.equal(layer.invert(many)[:, 1], layer.invert(images))


def test_normalize_publishes_the_affine_map_that_it_is():
    layer = Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    images = torch.rand(2, 3, 5, 5)
    scale, shift = layer.affine()

    assert scale.shape == shift.shape == (3,)
    assert torch.allclose(images * scale.view(3, 1, 1) + shift.view(3, 1, 1), layer(images), atol=1e-6)


def test_a_sum_adds_up_its_branches():
    branches = (nn.Identity(), nn.Linear(3, 3), nn.ReLU())
    features = torch.randn(2, 3)

    assert torch.equal(Sum(*branches)(features), features + branches[1](features) + branches[2](features))
    assert Sum(*branches).branches() == branches


def test_identity_changes_nothing_bit_for_bit():
    images = torch.rand(2, 3, 4, 4)

    assert torch.equal(Normalize.identity(3)(images), images)


def test_normalize_constants_travel_with_the_state_but_are_not_trained():
    layer = Normalize((0.5,), (0.25,))
    other = Normalize((0.0,), (1.0,))
    other.load_state_dict(layer.state_dict())

    assert torch.equal(other.mean, layer.mean)
    assert torch.equal(other.std, layer.std)
    assert list(layer.parameters()) == []


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [((0.5,), (0.5, 0.5), "one number each"), ((), (), "one number each"), ((0.5,), (0.0,), "above 0")],
)
def test_normalize_refuses_constants_that_make_no_sense(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Normalize(mean, std)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (8, 8), (1, 8, 8)])
def test_normalize_refuses_other_channels_and_missing_axes(shape):
    with pytest.raises(ValueError, match=r"takes \(B, 1, H, W\)"):
        Normalize((0.5,), (0.5,))(torch.zeros(shape))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_made_anew_and_vanish_at_zero(name):
    assert activation_layer(name) is not activation_layer(name)
    assert activation_layer(name)(torch.zeros(1)).item() == 0


def test_unknown_activation_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'relu'"):
        activation_layer("rellu")  # type: ignore[arg-type]


def test_features_are_counted_without_drawing_or_changing_the_trunk():
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2)).train()
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    state = torch.get_rng_state()

    assert features_of(trunk, 3, 6) == 4 * 3 * 3
    assert trunk.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in trunk.state_dict().items())


def test_features_of_a_trunk_that_leaves_nothing_is_an_error():
    with pytest.raises(ValueError, match="2 pixels are too small"):
        features_of(nn.Conv2d(1, 1, 5), 1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 28, 10, ()), "channels is 0"),
        ((3, 28, 10, (0.5,)), "mean has 1 numbers for 3 channels"),
        ((1, 129, 10, (0.5,)), "size is 129"),
        ((1, 4, 10, (0.5,), 5), "takes 5 to 128"),
        ((1, 28, 1, (0.5,)), "classes is 1"),
    ],
)
def test_check_network_names_the_value_and_the_limit(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_network(*arguments)
