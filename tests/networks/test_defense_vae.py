"""Defense-VAE's encoder and decoder: shapes at 28 and 32 pixels, parameters counted on paper."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memory_defense.networks.defense_vae import DefenseVaeNetwork, DefenseVaePlan, Latent, defense_vae_plan
from memory_defense.randomness import seeded

CONVOLUTIONS = 16 * (64 * 64 + 64 * 128 + 128 * 256)
NORMS = 2 * (64 + 64 + 128 + 256)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("channels", "size", "sides"), [(1, 28, [28, 16, 8, 4]), (3, 32, [32, 16, 8, 4])])
def test_the_feature_maps_have_the_published_sides(channels: int, size: int, sides: list[int]) -> None:
    network = DefenseVaeNetwork(defense_vae_plan(channels, size))
    images, seen, made = torch.rand(2, channels, size, size), [], []
    for layers, found in ((network.encoder.layers, seen), (network.decoder.layers, made)):
        for layer in layers:
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                layer.register_forward_hook(lambda _, __, out, found=found: found.append(out.shape[-1]))

    latent = network.encoder(images)
    pixels = network.decoder(latent.mean)

    assert seen == sides
    assert made == [*sides[-2::-1], size]
    assert latent.mean.shape == latent.log_variance.shape == (2, 128)
    assert pixels.shape == images.shape
    assert pixels.min() < 0  # logits, not pixels


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_parameters_are_as_many_as_on_paper(channels: int, size: int) -> None:
    network = DefenseVaeNetwork(defense_vae_plan(channels, size))

    ends = 25 * channels * 64
    assert parameters(network.encoder) == ends + CONVOLUTIONS + NORMS + 2 * (4096 + 1) * 128
    assert parameters(network.decoder) == ends + CONVOLUTIONS + NORMS - 2 * 256 + (128 + 1) * 4096


@pytest.mark.parametrize("size", [8, 12, 20, 28, 32, 36, 64])
def test_every_multiple_of_four_comes_back_in_its_own_size(size: int) -> None:
    network = DefenseVaeNetwork(DefenseVaePlan(channels=2, size=size, widths=(2, 3, 4, 5), latent=6))
    images = torch.rand(2, 2, size, size)

    made = network.reconstruct(images)

    assert made.shape == images.shape
    assert 0 < made.min() < made.max() < 1


def test_initial_weights_are_narrow_gaussians() -> None:
    with seeded(0, "network"):
        network = DefenseVaeNetwork(defense_vae_plan(1, 28))
    weights = torch.cat([m.weight.detach().flatten() for m in network.modules() if isinstance(m, nn.Conv2d)])
    scales = torch.cat([m.weight.detach().flatten() for m in network.modules() if isinstance(m, nn.BatchNorm2d)])

    assert float(weights.std()) == pytest.approx(0.02, rel=0.02)
    assert abs(float(weights.mean())) < 2e-4
    assert float(scales.std()) == pytest.approx(0.02, rel=0.1)
    assert float(scales.mean()) == pytest.approx(1, abs=4e-3)
    assert all(m.bias is None for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)))


def test_a_sample_is_mean_plus_deviation_times_noise() -> None:
    latent = Latent(torch.tensor([[1.0, -2.0]]), torch.tensor([[4.0, 0.25]]).log())

    assert torch.allclose(latent.sample(torch.tensor([[3.0, -1.0]])), torch.tensor([[7.0, -2.5]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: defense_vae_plan(1, 30), "size is 30, but Defense-VAE takes multiples of 4"),
        (lambda: defense_vae_plan(1, 4), "size is 4,"),
        (lambda: defense_vae_plan(1, 28, "tiny"), "unknown widths of Defense-VAE 'tiny'"),
        (lambda: DefenseVaePlan(channels=1, size=28, latent=0), "latent is 0"),
        (lambda: DefenseVaePlan(channels=1, size=28, widths=(1, 2, 0, 3)), r"widths is \(1, 2, 0, 3\)"),
        (
            lambda: DefenseVaeNetwork(defense_vae_plan(1, 28, "small")).reconstruct(torch.rand(2, 1, 32, 32)),
            r"takes \(B, 1, 28, 28\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
