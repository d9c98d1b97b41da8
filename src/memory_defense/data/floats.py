"""Grey levels as floats in [0, 1], without a copy of the levels where images are large."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from memory_defense.contracts import Images, Rows

_LARGE = 1 << 14
"""Numbers of an image from which on its levels become floats one image at a time. Levels that are gathered first
are a block of some megabytes, which the C library keeps for later; small results that stay end up in it, and the
next batch takes a new one: thousands of images were kept so."""


def floats_of(images: Tensor, index: Rows | None) -> Images:
    """Return a copy of all images (N, C, H, W), or of those at these positions (n,), as float32 in [0, 1].

    Parameters
    ----------
    images
        uint8 grey levels, which are divided by 255, or float32 in [0, 1], which stay as they are.
    index
        Positions, on any device; None for all.
    """
    levels = images.dtype == torch.uint8
    if index is not None and levels and images.device.type == "cpu" and images[:1].numel() >= _LARGE:
        chosen = torch.empty((len(index), *images.shape[1:]))
        for place, row in enumerate(cast("list[int]", index.tolist())):
            chosen[place] = images[row]
        return chosen.div_(255)
    chosen = images if index is None else images[index.to(images.device)]
    if levels:
        return chosen.float().div_(255)
    return chosen.clone() if index is None else chosen
