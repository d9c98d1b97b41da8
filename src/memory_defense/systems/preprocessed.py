"""A network behind its preprocessing, so that it takes images in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memory_defense.contracts import Images, Logits
from memory_defense.systems.preprocessing import Preprocessing


class Preprocessed(nn.Module):
    """Images (B, C, H, W) in [0, 1] to the network's logits (B, K), through ``(scale * x - mean) / std``.

    Parameters
    ----------
    network
        Takes pixels as `preprocessing` makes them.
    preprocessing
        What it wants.
    channels
        C.

    Raises
    ------
    ValueError
        If mean or std have neither one number nor one for each channel, or blue is to come first of anything but
        three channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, channels: int) -> None:
        super().__init__()
        for name, numbers in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            if len(numbers) not in (0, 1, channels):
                raise ValueError(
                    f"{name} has {len(numbers)} numbers, but the images have {channels} channels; give one number, "
                    f"or {channels}, separated by /"
                )
        if preprocessing.bgr and channels != 3:
            raise ValueError(f"bgr is for images of 3 channels, and these have {channels}; leave it out")
        self.network = network
        self.preprocessing = preprocessing
        self.register_buffer("mean", _column(preprocessing.mean or (0.0,)), persistent=False)
        self.register_buffer("std", _column(preprocessing.std or (1.0,)), persistent=False)

    def forward(self, images: Images) -> Logits:
        """Return the network's logits (B, K)."""
        pixels = images.flip(1) if self.preprocessing.bgr else images
        if self.preprocessing.scale != 1:
            pixels = pixels * self.preprocessing.scale
        if self.preprocessing.mean or self.preprocessing.std:
            pixels = (pixels - self.mean) / self.std
        return self.network(pixels)


def _column(numbers: tuple[float, ...]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1)  # (C, 1, 1) or (1, 1, 1)
