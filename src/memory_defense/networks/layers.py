"""Small layers that several networks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from memory_defense.checks import nearest
from memory_defense.contracts import Images

Activation = Literal["relu", "silu"]

ACTIVATIONS: dict[str, type[nn.ReLU] | type[nn.SiLU]] = {"relu": nn.ReLU, "silu": nn.SiLU}
"""Activations by name; SiLU is smooth, which gives an attack and adversarial training smoother gradients."""


def activation_layer(name: Activation) -> nn.Module:
    """Return a new activation layer; raise ValueError for an unknown name."""
    if name not in ACTIVATIONS:
        raise nearest(name, ACTIVATIONS, "activation")
    return ACTIVATIONS[name]()


class Normalize(nn.Module):
    """Shift and scale each channel: the first layer of a network that takes images in [0, 1].

    Parameters
    ----------
    mean, std
        One number for each channel, in pixel units of [0, 1]. They are buffers, so a checkpoint carries them.

    Raises
    ------
    ValueError
        When the lengths differ or are 0, or a standard deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean:
            raise ValueError(f"mean has {len(mean)} channels and std {len(std)}; give one number each per channel")
        if min(std) <= 0:
            raise ValueError(f"std is {tuple(std)}, but every channel's must be above 0")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))  # (C, 1, 1)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))  # (C, 1, 1)

    @classmethod
    def identity(cls, channels: int) -> Normalize:
        """Return the layer that changes nothing, for a network whose input is normalised already."""
        return cls((0.0,) * channels, (1.0,) * channels)

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.mean.shape[0]

    def forward(self, images: Images) -> Tensor:
        """Return ``(images - mean) / std``, (B, C, H, W); raise ValueError for another number of channels."""
        if images.dim() != 4 or images.shape[1] != self.channels:
            raise ValueError(
                f"images have shape {tuple(images.shape)}, the network takes (B, {self.channels}, H, W); "
                "add a missing axis with unsqueeze, or build the network for these channels"
            )
        return (images - self.mean) / self.std

    def invert(self, normalised: Tensor) -> Images:
        """Return ``normalised * std + mean``, back in pixel units; leading axes are free."""
        return normalised * self.std + self.mean


def features_of(trunk: nn.Module, channels: int, size: int) -> int:
    """Return how many numbers `trunk` makes of one image, (1, C, size, size) to a product of axes.

    The trunk is asked in eval mode, without gradients, and left in the mode it was in. Nothing is drawn.

    Raises
    ------
    ValueError
        When the image is too small for the trunk.
    """
    training = trunk.training
    trunk.eval()
    try:
        with torch.no_grad():
            features = trunk(torch.zeros(1, channels, size, size)).numel()
    except RuntimeError as error:
        raise ValueError(f"images of {size} pixels are too small for this network: {error}") from error
    finally:
        trunk.train(training)
    return features


MAX_SIZE = 128
"""Largest image side the networks are built for."""


def check_network(channels: int, size: int, classes: int, mean: Sequence[float], smallest: int = 1) -> None:
    """Raise ValueError for numbers no network can be built with, or a `mean` for other channels."""
    if channels < 1:
        raise ValueError(f"channels is {channels}, but an image has at least 1")
    if len(mean) != channels:
        raise ValueError(f"mean has {len(mean)} numbers for {channels} channels; give one for each")
    if not smallest <= size <= MAX_SIZE:
        raise ValueError(
            f"size is {size}, but this network takes {smallest} to {MAX_SIZE} pixels; resize the images"
        )
    if classes < 2:
        raise ValueError(f"classes is {classes}, but a classifier needs at least 2")
