"""Small Defense-VAEs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memory_defense.contracts import Batch
from memory_defense.defenses.defense_vae import DefenseVae, build_defense_vae
from memory_defense.networks.classifiers import Linear
from memory_defense.networks.defense_vae import INITIAL_STD, DefenseVaeNetwork, DefenseVaePlan
from memory_defense.randomness import ImageDraws, seeded


def build(channels: int = 1, size: int = 28, preset: str = "small", seed: int = 0) -> DefenseVae:
    with seeded(seed, "defense"):
        linear = Linear(channels=channels, size=size, classes=4, mean=(0.3,) * channels, std=(0.4,) * channels)
        defense = build_defense_vae(channels=channels, size=size, classifier=linear, preset=preset)
    return awake(defense).eval()


def build_double(size: int = 12) -> DefenseVae:
    """Return a tiny one in float64 and eval mode."""
    with seeded(0, "defense"):
        linear = Linear(channels=1, size=size, classes=4, mean=(0.3,), std=(0.4,))
        network = DefenseVaeNetwork(DefenseVaePlan(channels=1, size=size, widths=(3, 4, 5, 6), latent=7))
    return awake(DefenseVae(linear, network)).double().eval()


def awake(defense: DefenseVae) -> DefenseVae:
    """Widen the narrow initial weights to He's, so that the answer depends on the image visibly."""
    with torch.no_grad():
        for layer in defense.purifier.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                share = layer.stride[0] ** 2 if isinstance(layer, nn.ConvTranspose2d) else 1
                inputs = layer.in_channels * layer.kernel_size[0] ** 2 / share
                layer.weight.mul_((2 / inputs) ** 0.5 / INITIAL_STD)
    return defense


def pairs(count: int = 6, size: int = 28, dtype: torch.dtype = torch.float32, seed: int = 0) -> Batch:
    """Return attacked images with clean counterparts that differ from them."""
    chance = torch.Generator().manual_seed(seed)
    clean = torch.rand(count, 1, size, size, generator=chance).to(dtype)
    images = (clean + 0.3 * torch.randn(clean.shape, generator=chance).sign().to(dtype)).clamp(0, 1)
    ids = torch.arange(count)
    return _batch(images, clean, ids)


def _batch(images: Tensor, clean: Tensor, ids: Tensor) -> Batch:
    return Batch(images, ids % 4, ids, ImageDraws.of(0, "test", ids), 0.0, clean)
