"""Parts of several networks: normalisation, activations, and the shape of the images they are built for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import torch
from torch import Tensor, nn

from memory_defense.checks import nearest
from memory_defense.contracts import Images, Logits

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
        If the lengths differ or are 0, or a standard deviation is not positive.
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
        check_input(images, "the network", self.channels)
        return (images - self.mean) / self.std

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return the factor (C,) of each channel and what is added to it (C,); see `published.ChannelAffine`."""
        scale = self.std.flatten().reciprocal()
        return scale, -self.mean.flatten() * scale

    def invert(self, normalised: Tensor) -> Images:
        """Return ``normalised * std + mean``, back in pixel units; leading axes are free."""
        return normalised * self.std + self.mean


class Sum(nn.Module):
    """The sum of what its branches make of the same input (`published.Branching`).

    Parameters
    ----------
    branches
        Modules whose outputs have one shape.
    """

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(branches)

    def forward(self, features: Tensor) -> Tensor:
        """Return the sum (B, ...)."""
        first, *others = self.parts
        total = first(features)
        for branch in others:
            total = total + branch(features)
        return total

    def branches(self) -> Sequence[nn.Module]:
        """Return what is added up."""
        return tuple(self.parts)


def features_of(trunk: nn.Module, channels: int, size: int) -> int:
    """Return how many numbers `trunk` makes of one image, (1, C, size, size) to a product of axes.

    The trunk is asked in eval mode, without gradients, and left in the mode it was in. Nothing is drawn.

    Raises
    ------
    ValueError
        If the image is too small for the trunk.
    """
    training = trunk.training
    trunk.eval()
    try:
        with torch.no_grad():
            features = trunk(torch.zeros(1, channels, size, size)).numel()
    except RuntimeError as error:
        raise ValueError(
            f"images of {size} pixels are too small for this network ({error}); resize them to more pixels"
        ) from error
    finally:
        trunk.train(training)
    return features


MAX_SIZE = 128
"""Largest image side the networks are built for."""


def check_network(
    channels: int, size: int, classes: int, mean: Sequence[float], smallest: int = 1, largest: int = MAX_SIZE
) -> None:
    """Raise ValueError for numbers that no network can be built with, or a `mean` for other channels."""
    if channels < 1:
        raise ValueError(f"channels is {channels}, but an image has at least 1")
    if len(mean) != channels:
        raise ValueError(f"mean has {len(mean)} numbers for {channels} channels; give one for each")
    check_side(size, "this network", smallest, largest)
    if classes < 2:
        raise ValueError(f"classes is {classes}, but a classifier needs at least 2")


def check_side(size: int, network: str, smallest: int = 1, largest: int = MAX_SIZE) -> None:
    """Raise ValueError unless a network that takes sides from `smallest` to `largest` can be built for `size`."""
    if not smallest <= size <= largest:
        raise ValueError(f"size is {size}, but {network} takes {smallest} to {largest} pixels; resize the images")


def check_input(images: Images, network: str, channels: int, size: int | None = None) -> None:
    """Raise ValueError unless images are (B, channels, H, W), and H = W = `size` if one is given."""
    expected = (channels,) if size is None else (channels, size, size)
    if images.dim() == 4 and tuple(images.shape[1 : 1 + len(expected)]) == expected:
        return
    if images.dim() != 4:
        remedy = "add a missing axis with images.unsqueeze(1) (grey) or images.unsqueeze(0) (one image)"
    elif images.shape[1] != channels:
        remedy = f"build it for {images.shape[1]} channels, or give images of {channels}"
    else:
        remedy = f"resize them, or build it for images of {images.shape[2]} pixels a side"
    axes = f"{channels}, H, W" if size is None else f"{channels}, {size}, {size}"
    raise ValueError(f"images have shape {tuple(images.shape)}, {network} takes (B, {axes}); {remedy}")


class ImageShape(TypedDict):
    """The keyword arguments that every classifier's constructor shares; they follow from the dataset."""

    channels: int
    """C."""
    size: int
    """H = W, from the network's smallest to `MAX_SIZE` pixels."""
    classes: int
    """K, at least 2."""
    mean: Sequence[float]
    """Per channel, in pixel units of [0, 1], for `Normalize`; 0 if the input is normalised already."""
    std: Sequence[float]
    """Per channel, in pixel units of [0, 1], for `Normalize`; 1 if the input is normalised already."""


class ImageClassifier(nn.Module):
    """Base of the classifiers: images (B, C, H, W) in [0, 1], normalised, through a trunk and a head to logits.

    Subclasses set `trunk` and `head`, or override `forward`.

    Parameters
    ----------
    smallest, largest
        Smallest and largest H = W that the trunk takes.
    channels, size, classes, mean, std
        See `ImageShape`.

    Raises
    ------
    ValueError
        For a number out of range, or a mean or std for other channels.
    """

    trunk: nn.Module
    """Normalised images (B, C, H, W) to features (B, F)."""
    head: nn.Module
    """Features (B, F) to logits (B, K)."""

    def __init__(
        self,
        *,
        smallest: int = 1,
        largest: int = MAX_SIZE,
        channels: int,
        size: int,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        check_network(channels, size, classes, mean, smallest, largest)
        self.normalize = Normalize(mean, std)

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        return self.head(self.trunk(self.normalize(images)))

    def layers(self) -> Sequence[nn.Module]:
        """Return what `forward` calls in turn (`published.Layered`); who has another forward says so anew."""
        return self.normalize, self.trunk, self.head
