"""The discretised mixture of logistics that a PixelCNN answers with: a distribution over 256 grey levels.

[-1, 1] is cut into 256 bins of equal width, the outer two reaching to infinity; a level's probability is the
mixture's mass in its bin (Salimans et al., ICLR 2017, in the form with 256 logits that PixelDefend, Song et al.,
ICLR 2018, trains by cross-entropy). The mass is computed by an identity that holds everywhere,

    log(s(b) - s(a)) = log s(b) + log s(-a) + log(1 - exp(a - b)),    s the logistic function,

so no approximation of narrow or distant components is needed, and the probabilities sum to 1 by themselves.

Axes: C channels, K components, V levels, S any trailing axes (positions, images).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from memory_defense.contracts import Images

LEVELS = 256
"""Grey levels of a channel."""

_LOG_SCALE = 7.0
"""Bound of a component's log scale; at e^7 it is flat over all levels."""


def levels_of(images: Images) -> Tensor:
    """Return the nearest grey levels, int64 in [0, 255]; an adversary's pixels are rounded, never truncated."""
    return (images.detach() * (LEVELS - 1)).round().clamp(0, LEVELS - 1).long()


def scaled(levels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return levels in [-1, 1], as the network sees them."""
    return (levels.to(dtype) - 127.5) / 127.5


def parameter_count(channels: int, mixtures: int) -> int:
    """Return how many numbers describe the mixture of one pixel."""
    return mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)


class Mixture(NamedTuple):
    """The components of every pixel; channels of a pixel share the component, and each sees those before it."""

    log_weights: Tensor
    """(K, S), log of the components' probabilities."""
    means: Tensor
    """(C, K, S) in the scale of [-1, 1], before earlier channels shift them."""
    log_scales: Tensor
    """(C, K, S) in [-7, 7]."""
    coefficients: Tensor
    """(C (C - 1) / 2, K, S) in (-1, 1): how channel c follows channel e < c, at position c (c - 1) / 2 + e."""

    @classmethod
    def split(cls, parameters: Tensor, channels: int) -> Mixture:
        """Return the mixture that a network's outputs (P, S) describe, in float32 or better."""
        if parameters.dtype in (torch.bfloat16, torch.float16):
            parameters = parameters.float()
        mixtures = len(parameters) // parameter_count(channels, 1)
        parts = parameters.reshape(-1, mixtures, *parameters.shape[1:])  # (1 + 2C + C (C - 1) / 2, K, S)
        return cls(
            log_weights=parts[0].log_softmax(0),
            means=parts[1 : 1 + channels],
            log_scales=parts[1 + channels : 1 + 2 * channels].clamp(-_LOG_SCALE, _LOG_SCALE),
            coefficients=parts[1 + 2 * channels :].tanh(),
        )

    def log_probabilities(self, channel: int, earlier: Tensor, first: Tensor, count: int) -> Tensor:
        """Return the log probabilities (count, S) of consecutive levels of one channel.

        Parameters
        ----------
        channel
            c, in [0, C).
        earlier
            (c, S) or more: the values of the channels before it, in [-1, 1].
        first
            S, whole numbers: the lowest level asked for, in each place. Levels outside [0, 255] are impossible
            and get minus infinity.
        count
            Number of levels from `first` on.
        """
        means = self.means[channel]
        for other in range(channel):
            means = means + self.coefficients[channel * (channel - 1) // 2 + other] * earlier[other]
        sharpness = (-self.log_scales[channel]).exp()  # (K, S)
        first = first.to(means.dtype)
        edges = torch.arange(count + 1, dtype=means.dtype, device=means.device)
        edges = edges.view(-1, *(1,) * first.dim()) + first  # (V + 1, S), in levels
        reach = (edges / (LEVELS / 2) - 1 - means[:, None]) * sharpness[:, None]  # (K, V + 1, S)
        below = F.logsigmoid(reach)
        above = below[:, :-1] - reach[:, :-1]  # log s(-a)
        below = below[:, 1:]  # log s(b)
        narrow = torch.log(-torch.expm1(-sharpness * (2 / LEVELS)))[:, None]  # log(1 - exp(a - b))
        levels = edges[:-1]
        masses = torch.where(levels <= 0, below, torch.where(levels >= LEVELS - 1, above, below + above + narrow))
        total = (masses + self.log_weights[:, None]).logsumexp(0)
        return total.masked_fill((levels < 0) | (levels > LEVELS - 1), -torch.inf)
