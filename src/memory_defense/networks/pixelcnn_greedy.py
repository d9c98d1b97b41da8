"""Greedy purification (PixelDefend, Song et al., ICLR 2018, algorithm 1) by a PixelCNN, one pixel after another."""

from __future__ import annotations

import torch
from torch import Tensor

from memory_defense.networks.pixelcnn import PixelCnn
from memory_defense.networks.pixelcnn_cache import PixelCnnCache
from memory_defense.networks.pixelcnn_mixture import Mixture, scaled


def purified_levels(net: PixelCnn, levels: Tensor, radius: int) -> Tensor:
    """Return the levels that the network finds most probable near these.

    In raster order and from red to blue, each becomes the most probable level, given those already chosen, among
    the levels at most `radius` from its own. Of equally probable ones the lowest is taken. The weights' own
    precision is used, also under autocast. In float64 an image's levels are the same in any batch; in float32 its
    batch may decide between two levels whose probabilities differ by no more than rounding, and so what follows.

    Parameters
    ----------
    net
        The model of images.
    levels
        (B, C, H, W) int64 in [0, 255].
    radius
        Whole levels, at least 0.

    Returns
    -------
    (B, C, H, W) int64 in [0, 255].
    """
    with torch.no_grad(), torch.autocast(levels.device.type, enabled=False):
        return _purified(net, levels, radius)


def _purified(net: PixelCnn, levels: Tensor, radius: int) -> Tensor:
    given = levels.permute(2, 3, 1, 0).contiguous()  # (H, W, C, B)
    chosen = torch.empty_like(given)
    cache = PixelCnnCache(net, len(levels))
    for y in range(net.plan.size):
        cache.start_row(y)
        for x in range(net.plan.size):
            mixture = Mixture.split(cache.parameters_at(y, x), net.plan.channels)
            values = torch.empty_like(mixture.means[:, 0])  # (C, B)
            for channel in range(net.plan.channels):
                lowest = given[y, x, channel] - radius
                scores = mixture.log_probabilities(channel, values, lowest, 2 * radius + 1)  # (V, B)
                best = scores.argmax(0) + lowest
                chosen[y, x, channel] = best
                values[channel] = scaled(best, values.dtype)
            cache.write(y, x, values)
    return chosen.permute(3, 2, 0, 1).contiguous()
