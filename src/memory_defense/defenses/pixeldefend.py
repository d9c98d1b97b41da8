"""PixelDefend (Song, Kim, Nowozin, Ermon & Kushman, ICLR 2018): images are moved towards more likely images.

Each pixel in turn takes the level that a PixelCNN finds most probable given the pixels purified before it, among
the levels within `epsilon_defend` of its own (algorithm 1). The same likelihood says how unusual an image is
(section 3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.checks import check_at_least, check_images
from memory_defense.contracts import Batch, Classifier, Images, PerImage
from memory_defense.defenses.flagging import FlaggingModule
from memory_defense.defenses.losses import LossTerms
from memory_defense.defenses.purification import Purification, Purified
from memory_defense.names import check_name
from memory_defense.networks.pixelcnn import PIXELCNN_PRESETS, PixelCnn
from memory_defense.networks.pixelcnn_greedy import purified_levels
from memory_defense.networks.pixelcnn_mixture import LEVELS, levels_of
from memory_defense.passes import granule
from memory_defense.wrappers import Bpda, replace_value


class StandIn(nn.Module):
    """Images (B, C, H, W) plus a learned change that depends on 9 x 9 pixels around each; the identity at first.

    Parameters
    ----------
    channels
        C.
    filters
        Channels of the three hidden layers.
    """

    def __init__(self, channels: int, filters: int = 32) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(channels, filters, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(filters, filters, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(filters, filters, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(filters, channels, 3, padding=1),
        )
        for parameter in self.change[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Images) -> Images:
        """Return (B, C, H, W); values may leave [0, 1] a little."""
        return images + self.change(images)


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelCnnLosses(LossTerms):
    """The negative log likelihood for each pixel and channel, mean over images: `total` is in nats."""

    def parts(self) -> Mapping[str, float]:
        """Return the likelihood in nats, and in bits per dimension."""
        nats = float(self.total.detach())
        return {"total": nats, "bits_per_dimension": nats / math.log(2)}


@dataclass(frozen=True, kw_only=True)
class PixelCnnObjective:
    """Maximum likelihood of clean images: trains a defense's `purifier` alone."""

    initial_images: int = 100
    """Images of the first batch by which the layers' gains and biases are initialised, at least 1."""

    def __post_init__(self) -> None:
        check_at_least(1, initial_images=self.initial_images)

    def __call__(self, model: PixelDefend, batch: Batch) -> PixelCnnLosses:
        """Return the losses of one batch; with dropout in train mode."""
        if not model.purifier.initialised:
            model.purifier.initialise(batch.images[: self.initial_images])
        nats = -model.purifier.log_likelihood(batch.images).mean()
        return PixelCnnLosses(total=nats / batch.images[0].numel())


@dataclass(frozen=True, kw_only=True)
class StandInObjective:
    """Imitation of `purify` near clean images: trains a defense's `stand_in` once the purifier is trained.

    Raises
    ------
    ValueError
        For an epsilon outside [0, 1]; when called, for a defense without a stand-in.
    """

    epsilon: float = 0.1
    """Radius of the uniform noise on the images, in pixel units; at least that of the attacks to come."""

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon is {self.epsilon}, but pixels lie in [0, 1]")

    def __call__(self, model: PixelDefend, batch: Batch) -> LossTerms:
        """Return the mean squared error of the imitation, in squared pixel units; all of the batch is purified."""
        if model.stand_in is None:
            raise ValueError("the defense has no stand-in; build it with stand_in=True")
        noise = (2 * batch.draws.uniform(*batch.images.shape[1:]) - 1).to(batch.images)
        seen = (batch.images + self.epsilon * noise).clamp(0, 1)
        return LossTerms(total=F.mse_loss(model.stand_in(seen).float(), model.purify(seen)))


REFERENCES = 10_000
"""Likelihoods of known images that a defense can store."""

_CHUNK, _GRANULE = 128, 16

_PURIFIED = 1024
"""Images purified at a time on an accelerator, which answers one pixel of 1024 as fast as of 128."""


class PixelDefend(Purification, FlaggingModule):
    """A classifier behind a PixelCNN that purifies greedily within a box.

    Parameters
    ----------
    classifier
        See `Purification`.
    purifier
        Trained on clean images.
    epsilon_defend
        Radius of the box in pixel units of [0, 1], a whole number of 255ths: 32/255 for Fashion-MNIST and 16/255
        for CIFAR-10 in the paper. It is taken around the nearest 8-bit image; 0 only rounds.
    adaptive_threshold
        Bits per dimension, or None: with a threshold, an image below it comes back exactly as it came in
        (Adaptive PixelDefend).
    stand_in
        Images to images, trained to imitate `purify` (see `StandInObjective`): the gradient of the knowledge
        ``learned``. It has no part in any answer.

    Raises
    ------
    ValueError
        For an `epsilon_defend` outside [0, 1] or off the grid, or a threshold that is not above 0.
    """

    references: Tensor

    def __init__(
        self,
        *,
        classifier: nn.Module,
        purifier: PixelCnn,
        epsilon_defend: float,
        adaptive_threshold: float | None = None,
        stand_in: nn.Module | None = None,
    ) -> None:
        super().__init__(classifier)
        if not 0 <= epsilon_defend <= 1:
            raise ValueError(f"epsilon_defend is {epsilon_defend}, but pixels lie in [0, 1]; divide levels by 255")
        radius = epsilon_defend * (LEVELS - 1)
        if abs(radius - round(radius)) > 1e-3:
            raise ValueError(
                f"epsilon_defend is {epsilon_defend:.6g}, but it must be a whole number of 255ths; "
                f"the nearest is {round(radius)} / 255"
            )
        if adaptive_threshold is not None and not adaptive_threshold > 0:
            raise ValueError(
                f"adaptive_threshold is {adaptive_threshold}, but bits per dimension are above 0; None turns it off"
            )
        self.purifier = purifier
        self.radius = round(radius)
        self.adaptive_threshold = adaptive_threshold
        self.stand_in = stand_in
        self.flag_score = "bits-per-dimension"
        self.register_buffer("references", torch.full((REFERENCES,), math.nan))

    @property
    def epsilon_defend(self) -> float:
        """Radius of the box in pixel units of [0, 1]."""
        return self.radius / (LEVELS - 1)

    @torch.no_grad()
    def purify(self, images: Images) -> Images:
        """Return the purified images (B, C, H, W): whole 255ths, within `epsilon_defend` of the rounded images.

        Raises
        ------
        ValueError
            For images of another shape than the purifier's, or outside [0, 1].
        """
        plan = self.purifier.plan
        check_images(images, channels=plan.channels, size=plan.size)
        images = images.detach()
        if self.adaptive_threshold is None:
            return self._purify_all(images)
        unlikely = (self.bits_per_dimension(images) >= self.adaptive_threshold).nonzero().squeeze(1)
        if not len(unlikely):
            return images.clone()
        return images.index_copy(0, unlikely, self._purify_all(images[unlikely]))

    def _purify_all(self, images: Images) -> Images:
        """Purify in chunks of a regular size, so that products round alike in as many batches as possible.

        Where a processor rounds by the batch all the same, an image may come out otherwise from the first pixel on
        at which two levels are as good as equally probable; `evaluation.invariance` finds that out.
        """
        levels = levels_of(images)
        if self.radius:
            missing = -len(levels) % max(_GRANULE, granule())
            padded = torch.cat([levels, levels[-1:].expand(missing, -1, -1, -1)])
            with torch.autocast(images.device.type, enabled=False):  # the cache holds float32
                size = _CHUNK if images.device.type == "cpu" else _PURIFIED
                chunks = [purified_levels(self.purifier, part, self.radius) for part in _chunks(padded, size)]
            levels = torch.cat(chunks)[: len(levels)]
        return levels.to(images.dtype) / (LEVELS - 1)

    def surrogates(self) -> Mapping[str, Classifier]:
        """Return ``oblivious``, ``end-to-end`` and, if there is a `stand_in`, ``learned``, with its gradient."""
        published = dict(super().surrogates())
        if self.stand_in is not None:
            published["learned"] = Purified(Bpda(self.purify, self.stand_in), self.classifier)
        return published

    def bits_per_dimension(self, images: Images) -> PerImage:
        """Return (B,) the images' negative log likelihood for each pixel and channel, in bits, with a gradient."""
        return torch.cat([self.purifier.bits_per_dimension(chunk) for chunk in _chunks(images)])

    def fit_likelihoods(self, images: Images) -> None:
        """Store the likelihoods of known clean images, at most 10 000, for `p_values`.

        They should be images that neither trained the purifier nor will be tested: it finds its training images
        more likely than new ones.

        Raises
        ------
        ValueError
            For more images than can be stored.
        """
        if len(images) > REFERENCES:
            raise ValueError(
                f"there are {len(images)} images, but {REFERENCES} can be stored; take images[:{REFERENCES}]"
            )
        fresh = torch.full_like(self.references, math.nan)
        fresh[: len(images)] = self.bits_per_dimension(images.detach())
        self.references.copy_(fresh)

    def p_values(self, images: Images) -> PerImage:
        """Return (B,) ``(T + 1) / (N + 1)``: T of the N stored images are no more likely than this one.

        The p-value of an image from the stored ones' distribution is uniform; a small one is evidence against
        that distribution (section 3.2 of the paper).

        Raises
        ------
        ValueError
            Before `fit_likelihoods`.
        """
        if not self._fitted:
            raise ValueError("no likelihoods are stored; call fit_likelihoods with held-out clean images first")
        return self._p_values(self.bits_per_dimension(images.detach()))

    @property
    def _fitted(self) -> bool:
        return bool(self.references.isfinite().any())

    def _p_values(self, bits: PerImage) -> PerImage:
        known = self.references[self.references.isfinite()]
        return ((known >= bits.detach()[:, None]).sum(1) + 1) / (len(known) + 1)

    def scores(self, images: Images) -> Mapping[str, PerImage]:
        """Return ``bits-per-dimension`` and, after `fit_likelihoods`, ``improbability``: 1 minus the p-value.

        Both (B,), in the same order. A p-value moves in steps; its gradient here is that of the bits.
        """
        bits = self.bits_per_dimension(images)
        if not self._fitted:
            return {"bits-per-dimension": bits}
        return {"bits-per-dimension": bits, "improbability": replace_value(1 - self._p_values(bits), bits)}


def _chunks(tensor: Tensor, size: int = _CHUNK) -> list[Tensor]:
    """Return pieces of at most `size` rows."""
    return [tensor[start : start + size] for start in range(0, len(tensor), size)]


def build_pixeldefend(
    *,
    channels: int,
    size: int,
    classifier: nn.Module,
    preset: str = "small",
    epsilon_defend: float | None = None,
    adaptive_threshold: float | None = None,
    stand_in: bool = False,
) -> PixelDefend:
    """Return a freshly initialised PixelDefend around a trained classifier; draws from the global generator.

    Parameters
    ----------
    channels, size
        C and H = W, a multiple of 4.
    classifier, adaptive_threshold
        See `PixelDefend`.
    preset
        Name in `PIXELCNN_PRESETS`.
    epsilon_defend
        See `PixelDefend`; None is 32/255 for grey and 16/255 for colour images, as in the paper.
    stand_in
        Make a network for the knowledge ``learned``; train it with `StandInObjective`.

    Raises
    ------
    ValueError
        For an unknown preset, or numbers that no network can be built with.
    """
    check_name(preset, PIXELCNN_PRESETS, "preset")
    default = 32 / 255 if channels == 1 else 16 / 255
    return PixelDefend(
        classifier=classifier,
        purifier=PixelCnn(PIXELCNN_PRESETS[preset].plan(channels, size)),
        epsilon_defend=default if epsilon_defend is None else epsilon_defend,
        adaptive_threshold=adaptive_threshold,
        stand_in=StandIn(channels) if stand_in else None,
    )
