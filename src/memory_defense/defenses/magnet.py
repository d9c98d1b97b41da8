"""MagNet (Meng & Chen, CCS 2017): a reformer before the classifier, and detectors that reject.

The reformer is autoencoder I. An image is suspicious if one detector's score exceeds its threshold:

    error-1   mean of |x - AE_I(x)|^2
    error-2   mean of |x - AE_II(x)|
    jsd-T     Jensen-Shannon divergence of softmax(f(x) / T) and softmax(f(AE_I(x)) / T), for each temperature T

The released script for MNIST has the first two, the paper's CIFAR-10 system the divergences as well; here all are
on unless `temperatures` is empty. `suspicious` says which images are rejected; the answer is always the
classifier's on the reformed image.

Everything is differentiable. The paper claims no robustness to a white box, and Carlini & Wagner (2017,
arXiv:1711.08478) evaded MagNet; the adaptation ``silent`` is that adversary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from memory_defense.checks import check_at_least
from memory_defense.contracts import Batch, Images, Logits, PerImage
from memory_defense.defenses.flagging import FlaggingModule, scores_of, thresholds_at
from memory_defense.defenses.losses import LossTerms
from memory_defense.defenses.purification import Purification
from memory_defense.networks.magnet import DenoisingAutoencoder, autoencoder_one, autoencoder_two
from memory_defense.randomness import ImageDraws

DROP_RATE = 0.001
"""Share of clean images that each detector may flag."""

TEMPERATURES = (10.0, 40.0)
"""Temperatures of the divergence detectors."""

LOUDEST = "loudest"
"""The score that the flag looks at: all detectors together."""

SMALLEST_THRESHOLD = 1e-12
"""Smallest threshold that `loudest` divides a score by."""


def jensen_shannon(first: Logits, second: Logits, temperature: float) -> PerImage:
    """Return (B,) the divergence of two softened answers, in nats: 0 for equal ones, at most log 2.

    Parameters
    ----------
    first, second
        (B, K) logits.
    temperature
        Divides both, above 0.
    """
    one = (first.double() / temperature).log_softmax(1)  # in float32 the differences at T = 40 drown
    other = (second.double() / temperature).log_softmax(1)
    middle = torch.logaddexp(one, other) - math.log(2)
    divergence = (one.exp() * (one - middle) + other.exp() * (other - middle)).sum(1) / 2
    return divergence.clamp_min(0).to(first.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class MagNetLosses(LossTerms):
    """The terms of both autoencoders, all scalars."""

    reformer: Tensor
    """Mean squared error over pixels and images of autoencoder I, in pixel units."""
    detector: Tensor
    """Mean squared error of autoencoder II, likewise."""
    activity: Tensor
    """Squared outputs of all convolutions of both, summed for each image, mean over images, before its factor."""


@dataclass(frozen=True, kw_only=True)
class MagNetObjective:
    """Mean squared error from noisy to clean images, as an objective on a `MagNet`.

    The noise of an image follows from its id alone, so it is the same in every epoch, as in the released code,
    which draws it once before training.

    Raises
    ------
    ValueError
        For a negative factor.
    """

    noise_std: float = 0.1
    """Standard deviation of the Gaussian noise, in pixel units; the sum is clipped to [0, 1]. CIFAR-10: 0.025."""
    activity: float = 1e-9
    """Factor of the squared activations."""
    seed: int = 0
    """Seed of the noise."""

    def __post_init__(self) -> None:
        check_at_least(0, noise_std=self.noise_std, activity=self.activity)

    def __call__(self, model: MagNet, batch: Batch) -> MagNetLosses:
        """Return the losses of one batch; noise is added in train mode only."""
        clean = seen = batch.images
        if model.training and self.noise_std:
            draws = ImageDraws.of(self.seed, "magnet noise", batch.ids, clean.device)
            seen = (clean + self.noise_std * draws.normal(*clean.shape[1:]).to(clean)).clamp(0, 1)
        first, second = model.reformer.reconstruct(seen), model.detector.reconstruct(seen)
        errors = [(clean - made.images.to(clean.dtype)).square().mean() for made in (first, second)]
        activity = (first.activity + second.activity).mean()
        return MagNetLosses(
            total=errors[0] + errors[1] + self.activity * activity,
            reformer=errors[0],
            detector=errors[1],
            activity=activity,
        )


class MagNet(Purification, FlaggingModule):
    """A frozen classifier behind a reformer, and the detectors around it.

    Parameters
    ----------
    classifier
        See `Purification`.
    reformer
        Autoencoder I; the detector ``error-1`` uses it too.
    detector
        Autoencoder II.
    temperatures
        Temperatures of the divergence detectors, above 0; an empty sequence turns these detectors off.

    Raises
    ------
    ValueError
        For a temperature that is not positive or appears twice, or autoencoders for different channels.
    """

    thresholds: Tensor
    """(S,) one for each detector, in the order of `detectors`; infinite while none is chosen. Part of the state."""

    def __init__(
        self,
        *,
        classifier: nn.Module,
        reformer: DenoisingAutoencoder,
        detector: DenoisingAutoencoder,
        temperatures: Sequence[float] = TEMPERATURES,
    ) -> None:
        super().__init__(classifier)
        if reformer.channels != detector.channels:
            raise ValueError(
                f"the reformer takes {reformer.channels} channels, the detector {detector.channels}; "
                "give both the same"
            )
        if any(not 0 < one < math.inf for one in temperatures) or len(set(temperatures)) < len(temperatures):
            raise ValueError(
                f"temperatures are {tuple(temperatures)}, but each must be above 0, finite and its own"
            )
        self.reformer = reformer
        self.detector = detector
        self.temperatures = tuple(temperatures)
        self.flag_score = LOUDEST
        self.register_buffer("thresholds", torch.full((len(self.detectors),), torch.inf))

    @property
    def detectors(self) -> tuple[str, ...]:
        """The detectors' names, in order."""
        return "error-1", "error-2", *(f"jsd-{temperature:g}" for temperature in self.temperatures)

    def purify(self, images: Images) -> Images:
        """Return the reformed images (B, C, H, W) in (0, 1)."""
        return self.reformer(images)

    differentiable_purify = purify

    def scores(self, images: Images) -> Mapping[str, PerImage]:
        """Return each detector's score (B,) by its name, with gradients; ``loudest`` too once there are thresholds.

        ``loudest`` is the largest score of an image in units of the detector's own threshold, so above 1 exactly
        where one of them is exceeded.
        """
        scores = dict(zip(self.detectors, self._detect(images), strict=True))
        if self._fitted:
            units = self.thresholds.clamp_min(SMALLEST_THRESHOLD)
            scores[LOUDEST] = (torch.stack(list(scores.values()), dim=1) / units).amax(1)
        return scores

    def fit_thresholds(self, images: Images, drop_rate: float = DROP_RATE) -> None:
        """Choose each detector's threshold so that it flags a share `drop_rate` of clean images.

        Parameters
        ----------
        images
            (N, C, H, W) held-out clean images, neither trained on nor used in the evaluation.
        drop_rate
            Share of clean images that each detector may flag, in (0, 1); all together flag at most the sum.

        Raises
        ------
        ValueError
            For a rate outside (0, 1), too few images for it (999 for the default), or scores that are not finite.
        """
        scores = scores_of(images, lambda part: torch.stack(self._detect(part), dim=1))  # (N, S)
        self.thresholds.copy_(thresholds_at(scores, drop_rate))
        self.flag_threshold = 1.0

    def excess(self, images: Images) -> PerImage:
        """Return what `ThresholdFlag.excess` returns; raise ValueError before `fit_thresholds`."""
        if self.flag_score == LOUDEST and not self._fitted:
            raise ValueError(
                "no image can be flagged before the detectors have thresholds; call "
                "fit_thresholds(images, drop_rate) with held-out clean images"
            )
        return super().excess(images)

    @property
    def _fitted(self) -> bool:
        return not bool(self.thresholds.isinf().any())

    def _detect(self, images: Images) -> list[PerImage]:
        """Return each detector's score (B,), in the order of `detectors`."""
        reformed = self.purify(images)
        scores = [
            (images - reformed).square().flatten(1).mean(1),
            (images - self.detector(images)).abs().flatten(1).mean(1),
        ]
        if self.temperatures:
            before, after = self.classifier(images), self.classifier(reformed)
            scores += [jensen_shannon(before, after, temperature) for temperature in self.temperatures]
        return scores


def build_magnet(*, classifier: nn.Module, channels: int, temperatures: Sequence[float] = TEMPERATURES) -> MagNet:
    """Return a freshly initialised MagNet around a trained classifier; draws from the global generator.

    Parameters
    ----------
    classifier, temperatures
        See `MagNet`.
    channels
        C; decides the structure of the autoencoders, see `networks.magnet`.
    """
    return MagNet(
        classifier=classifier,
        reformer=autoencoder_one(channels),
        detector=autoencoder_two(channels),
        temperatures=temperatures,
    )
