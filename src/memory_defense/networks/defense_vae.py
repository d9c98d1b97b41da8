"""Defense-VAE's encoder and decoder (Li & Ji 2019, arXiv 1812.06570).

Three convolutions of stride 2 bring 28 pixels to 16, 8 and 4: the first pads by 3, since 28 is no multiple of 8.
For sides that are (32, say) it pads by 1, our extension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from memory_defense.checks import check_at_least, nearest
from memory_defense.contracts import Images
from memory_defense.networks.layers import MAX_SIZE, check_input

INITIAL_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class DefenseVaePlan:
    """Sizes of the encoder, mirrored by the decoder."""

    channels: int
    """C of the images."""
    size: int
    """H = W of the images: a multiple of 4 from 8 to 128."""
    widths: tuple[int, int, int, int] = (64, 64, 128, 256)
    """Output channels of the encoder's convolutions."""
    latent: int = 128
    """L, the length of z."""

    def __post_init__(self) -> None:
        if self.size % 4 or not 8 <= self.size <= MAX_SIZE:
            raise ValueError(
                f"size is {self.size}, but Defense-VAE takes multiples of 4 from 8 to {MAX_SIZE} pixels; resize "
                "or pad the images"
            )
        check_at_least(1, channels=self.channels, latent=self.latent)
        if min(self.widths) < 1:
            raise ValueError(f"widths is {self.widths}, but it must be at least 1")

    @property
    def first_padding(self) -> int:
        """Padding of the first convolution of stride 2."""
        return 1 if self.size % 8 == 0 else 3

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """Shape (F, h, w) of the last feature map."""
        side = (self.size + 2 * self.first_padding - 2) // 8
        return self.widths[3], side, side

    @property
    def features(self) -> int:
        """F h w, the length of the flattened feature map."""
        depth, height, width = self.code_shape
        return depth * height * width


WIDTHS: dict[str, tuple[tuple[int, int, int, int], int]] = {
    "published": ((64, 64, 128, 256), 128),
    "small": ((16, 16, 32, 64), 32),
}
"""Widths of the convolutions and length of z; ``small`` is ours, for two processor cores."""


def defense_vae_plan(channels: int, size: int, widths: str = "published") -> DefenseVaePlan:
    """Return the plan for these images; raise ValueError for an unknown name or a size out of range."""
    if widths not in WIDTHS:
        raise nearest(widths, WIDTHS, "widths of Defense-VAE")
    convolutions, latent = WIDTHS[widths]
    return DefenseVaePlan(channels=channels, size=size, widths=convolutions, latent=latent)


class Latent(NamedTuple):
    """The Gaussian that an image is encoded to."""

    mean: Tensor
    """(B, L) mu."""
    log_variance: Tensor
    """(B, L) log sigma^2."""

    def sample(self, noise: Tensor) -> Tensor:
        """Return ``mu + sigma * noise``, (B, L); `noise` is standard normal of that shape."""
        return self.mean + (0.5 * self.log_variance).exp() * noise


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]


class VaeEncoder(nn.Module):
    """Images (B, C, H, W) to the Gaussian of their codes."""

    def __init__(self, plan: DefenseVaePlan) -> None:
        super().__init__()
        one, two, three, four = plan.widths
        self.image_shape = (plan.channels, plan.size)
        self.layers = nn.Sequential(
            *_normalised(nn.Conv2d(plan.channels, one, 5, padding=2, bias=False)),
            *_normalised(nn.Conv2d(one, two, 4, stride=2, padding=plan.first_padding, bias=False)),
            *_normalised(nn.Conv2d(two, three, 4, stride=2, padding=1, bias=False)),
            *_normalised(nn.Conv2d(three, four, 4, stride=2, padding=1, bias=False)),
            nn.Flatten(),
        )
        self.mean = nn.Linear(plan.features, plan.latent)
        self.log_variance = nn.Linear(plan.features, plan.latent)

    def forward(self, images: Images) -> Latent:
        """Return mean and log-variance, (B, L) each; raise ValueError for images of another size."""
        check_input(images, "this Defense-VAE", *self.image_shape)
        features = self.layers(images)
        return Latent(self.mean(features), self.log_variance(features))


class VaeDecoder(nn.Module):
    """Codes (B, L) to the logits of pixels (B, C, H, W)."""

    def __init__(self, plan: DefenseVaePlan) -> None:
        super().__init__()
        one, two, three, four = plan.widths
        self.code_shape = plan.code_shape
        self.input = nn.Sequential(nn.Linear(plan.latent, plan.features), nn.ReLU())
        self.layers = nn.Sequential(
            *_normalised(nn.ConvTranspose2d(four, three, 4, stride=2, padding=1, bias=False)),
            *_normalised(nn.ConvTranspose2d(three, two, 4, stride=2, padding=1, bias=False)),
            *_normalised(nn.ConvTranspose2d(two, one, 4, stride=2, padding=plan.first_padding, bias=False)),
            nn.ConvTranspose2d(one, plan.channels, 5, padding=2, bias=False),
        )

    def forward(self, codes: Tensor) -> Tensor:
        """Return the pixels before their sigmoid."""
        return self.layers(self.input(codes).reshape(-1, *self.code_shape))  # (B, F, h, w) inside


class DefenseVaeNetwork(nn.Module):
    """Encoder and decoder together, the part of Defense-VAE that is trained; draws from the global generator."""

    def __init__(self, plan: DefenseVaePlan) -> None:
        super().__init__()
        self.plan = plan
        self.encoder = VaeEncoder(plan)
        self.decoder = VaeDecoder(plan)
        self.apply(_initialise)

    def reconstruct(self, images: Images) -> Images:
        """Return the reconstruction (B, C, H, W) in (0, 1) from ``z = mu``."""
        return torch.sigmoid(self.decoder(self.encoder(images).mean))


def _initialise(layer: nn.Module) -> None:
    """Draw convolutions from N(0, 0.02^2) and the scales of batch normalisation from N(1, 0.02^2)."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(layer.weight, 0.0, INITIAL_STD)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, INITIAL_STD)
        nn.init.zeros_(layer.bias)
