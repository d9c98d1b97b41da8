"""Defense-VAE's training objectives (Li & Ji 2019): from attacked images to their clean counterparts.

    REC   L = BCE(x-hat, clean) + r * KL(N(mu, sigma^2) || N(0, I))
    E2E   L = REC's + lambda * cross-entropy(classifier(x-hat), y)

Reconstruction error and KL are sums over pixels and over latent numbers, and means over images. In train mode
``z = mu + sigma * n`` with n from the batch's draws; in eval mode ``z = mu``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from memory_defense.contracts import Batch, Images, PerImage
from memory_defense.defenses.defense_vae import DefenseVae
from memory_defense.networks.defense_vae import Latent


@dataclass(frozen=True, kw_only=True, eq=False)
class DefenseVaeLosses:
    """The terms of an objective, all scalars and means over images."""

    total: Tensor
    """What is minimised."""
    reconstruction: Tensor
    """Binary cross-entropy against the clean image, summed over pixels."""
    kl: Tensor
    """Divergence from the standard normal, before its factor r."""
    cross_entropy: Tensor | None = None
    """Of the classifier on reconstructions, before its factor; None where it takes no part."""

    def parts(self) -> Mapping[str, float]:
        """Return every term that takes part as a number."""
        return {name: float(value.detach()) for name, value in vars(self).items() if value is not None}


def kl_divergence(latent: Latent) -> PerImage:
    """Return KL(N(mu, sigma^2) || N(0, I)), (B,), at least 0."""
    mean, log_variance = latent.mean.float(), latent.log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


class _Terms(NamedTuple):
    made: Images
    """(B, C, H, W) the reconstruction, in (0, 1)."""
    reconstruction: Tensor
    kl: Tensor


def _autoencoder_terms(model: DefenseVae, batch: Batch) -> _Terms:
    latent = model.purifier.encoder(batch.images)
    codes = latent.mean
    if model.training:
        codes = latent.sample(batch.draws.child("latent").normal(codes.shape[1]).to(codes))
    pixels = model.purifier.decoder(codes)
    # From logits, in float32: the logarithm of a saturated sigmoid is minus infinity.
    error = F.binary_cross_entropy_with_logits(pixels.float(), batch.clean.float(), reduction="none")
    return _Terms(torch.sigmoid(pixels), error.flatten(1).sum(1).mean(), kl_divergence(latent).mean())


def _weight_of(model: DefenseVae, kl_weight: float | None) -> float:
    return model.kl_weight if kl_weight is None else kl_weight


def _check_factors(**factors: float | None) -> None:
    for name, factor in factors.items():
        if factor is not None and not factor >= 0:
            raise ValueError(f"{name} is {factor}, but it must be at least 0")


def _check_released(model: DefenseVae, what: str) -> None:
    if not model.trains_classifier:
        raise ValueError(
            f"{what} trains the classifier, but it is frozen; call release_classifier() on the defense"
        )


@dataclass(frozen=True, kw_only=True)
class DefenseVaeObjective:
    """REC: trains `purifier`; the classifier is frozen, or learns from reconstructions that learn nothing from it.

    Raises
    ------
    ValueError
        For a negative weight; when called, if a classifier is to be retrained that was not released.
    """

    kl_weight: float | None = None
    """r; None is the defense's own."""
    retrain_classifier: bool = False
    """Also train the classifier, on reconstructions taken as given: its loss does not reach the autoencoder."""

    def __post_init__(self) -> None:
        _check_factors(kl_weight=self.kl_weight)

    def __call__(self, model: DefenseVae, batch: Batch) -> DefenseVaeLosses:
        """Return the losses of one batch of images and their clean counterparts."""
        terms = _autoencoder_terms(model, batch)
        total = terms.reconstruction + _weight_of(model, self.kl_weight) * terms.kl
        cross_entropy = None
        if self.retrain_classifier:
            _check_released(model, "retrain_classifier")
            cross_entropy = F.cross_entropy(model.classifier(terms.made.detach()).float(), batch.labels)
            total = total + cross_entropy
        return DefenseVaeLosses(
            total=total, reconstruction=terms.reconstruction, kl=terms.kl, cross_entropy=cross_entropy
        )


@dataclass(frozen=True, kw_only=True)
class DefenseVaeEndToEnd:
    """E2E: fine-tunes `purifier` and the released classifier together, from where REC ended.

    Raises
    ------
    ValueError
        For a negative factor; when called, if the classifier was not released.
    """

    kl_weight: float | None = None
    """r; None is the defense's own."""
    cross_entropy: float = 1.0
    """lambda, the factor of the classifier's loss."""

    def __post_init__(self) -> None:
        _check_factors(kl_weight=self.kl_weight, cross_entropy=self.cross_entropy)

    def __call__(self, model: DefenseVae, batch: Batch) -> DefenseVaeLosses:
        """Return the losses of one batch of images and their clean counterparts."""
        _check_released(model, "end-to-end fine-tuning")
        terms = _autoencoder_terms(model, batch)
        cross_entropy = F.cross_entropy(model.classifier(terms.made).float(), batch.labels)
        autoencoder = terms.reconstruction + _weight_of(model, self.kl_weight) * terms.kl
        return DefenseVaeLosses(
            total=autoencoder + self.cross_entropy * cross_entropy,
            reconstruction=terms.reconstruction,
            kl=terms.kl,
            cross_entropy=cross_entropy,
        )
