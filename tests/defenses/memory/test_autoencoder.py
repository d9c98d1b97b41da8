import pytest
import torch
from torch import nn

from memory_defense.defenses.memory.autoencoder import Decoder, Encoder, plan_for


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def sizes(layers: nn.Sequential, features: torch.Tensor, kind: type[nn.Module]) -> list[tuple[int, int]]:
    """Return (channels, side) after every layer of this kind."""
    seen = []
    for layer in layers:
        features = layer(features)
        if isinstance(layer, kind):
            seen.append((features.shape[1], features.shape[2]))
    return seen


@pytest.mark.parametrize(("stem", "sides"), [(1, [15, 8, 4]), (3, [14, 7, 4])])
def test_the_fashion_mnist_column_of_table_4(stem, sides):
    plan = plan_for(1, 28, stem)
    encoder, decoder = Encoder(plan), Decoder(plan)
    images = torch.rand(2, 1, 28, 28)

    assert plan.code_size == 1024
    assert encoder(images).shape == (2, 1024)
    assert sizes(encoder.layers, images, nn.Conv2d) == list(zip((16, 32, 64), sides, strict=True))
    code = torch.rand(2, 64, 4, 4)
    assert sizes(decoder.layers, code, nn.ConvTranspose2d) == [(32, 7), (16, 14), (1, 28)]
    assert parameters(encoder) == 16 * stem**2 + 16 * 32 * 9 + 32 * 64 * 9 + 2 * (16 + 32 + 64)
    assert parameters(decoder) == 64 * 32 * 9 + 32 * 16 * 9 + 16 * 9 + 1 + 2 * (32 + 16)


def test_the_cifar10_column_of_table_4():
    plan = plan_for(3, 32, 1)
    encoder, decoder = Encoder(plan), Decoder(plan)
    images = torch.rand(2, 3, 32, 32)

    assert plan.code_size == 1024
    assert sizes(encoder.layers, images, nn.Conv2d) == [(64, 16), (128, 8), (128, 4), (256, 2)]
    code = torch.rand(2, 256, 2, 2)
    assert sizes(decoder.layers, code, nn.ConvTranspose2d) == [(256, 4), (128, 8), (128, 16), (3, 32)]
    weights = 3 * 64 + 64 * 128 + 128 * 128 + 128 * 256
    assert parameters(encoder) == 9 * weights + 2 * (64 + 128 + 128 + 256)


@pytest.mark.parametrize("size", [4, 5, 16, 27, 47, 64, 97, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_comes_back_at_its_own(channels, size):
    plan = plan_for(channels, size)
    images = torch.rand(1, channels, size, size)

    codes = Encoder(plan).eval()(images)

    assert codes.shape == (1, plan.code_size)
    assert Decoder(plan).eval()(codes).shape == images.shape


def test_activations_are_those_of_the_table():
    plan = plan_for(1, 28)
    encoder, decoder = Encoder(plan), Decoder(plan)
    leaky = [layer for layer in [*encoder.layers, *decoder.layers] if isinstance(layer, nn.LeakyReLU)]

    assert [layer.negative_slope for layer in leaky] == [0.25] * 4
    assert isinstance(encoder.layers[-1], nn.Sigmoid)
    assert isinstance(decoder.layers[-1], nn.ConvTranspose2d)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in [*encoder.layers, *decoder.layers]) == 5


@pytest.mark.parametrize(("stem", "blind"), [(1, 0.75), (3, 0.0)])
def test_the_printed_stem_is_blind_to_three_quarters_of_the_pixels(stem, blind):
    images = torch.rand(4, 1, 28, 28, requires_grad=True)

    codes = Encoder(plan_for(1, 28, stem)).double().eval()(images.double())
    (gradient,) = torch.autograd.grad((codes * torch.randn_like(codes)).sum(), images)

    assert (gradient == 0).double().mean().item() == blind


def test_codes_lie_between_zero_and_one():
    codes = Encoder(plan_for(3, 32))(torch.randn(4, 3, 32, 32) * 10)

    assert 0 <= codes.min() < codes.max() <= 1


@pytest.mark.parametrize("size", [3, 1025])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(ValueError, match=f"size is {size}, but the autoencoder takes 4 to 1024"):
        plan_for(3, size)


def test_images_of_another_size_are_refused_even_where_the_code_would_fit():
    encoder = Encoder(plan_for(1, 28))

    with pytest.raises(ValueError, match=r"takes \(B, 1, 28, 28\)"):
        encoder(torch.rand(2, 1, 32, 32))


@pytest.mark.parametrize(
    ("size", "side", "layers"), [(128, 8, 4), (129, 5, 5), (224, 7, 5), (257, 5, 6), (1024, 8, 7)]
)
def test_a_larger_image_has_more_layers_and_no_larger_code(size, side, layers) -> None:
    plan = plan_for(3, size)
    assert plan.code_shape == (256, side, side)
    assert len(plan.encoder) == layers == len(plan.decoder) + 1
    assert plan.sides[-1] == size


def test_an_image_of_224_pixels_becomes_a_code_and_an_image_again() -> None:
    plan = plan_for(1, 224)
    images = torch.rand(1, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    codes = Encoder(plan).eval()(images)
    assert codes.shape == (1, plan.code_size)
    assert Decoder(plan).eval()(codes).shape == images.shape
