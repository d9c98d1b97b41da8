"""Defense-VAE (Li & Ji 2019, arXiv 1812.06570): a variational autoencoder that maps attacked images to clean ones.

    answer = classifier(decoder(mu(x)))

Every step is differentiable, so that the white box needs no stand-in. There are two ways of training it: REC
trains the autoencoder before a frozen classifier, E2E fine-tunes both from there.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.checks import check_at_least
from memory_defense.contracts import Batch, Images, PerImage
from memory_defense.defenses.losses import LossTerms
from memory_defense.defenses.purification import Purification
from memory_defense.names import check_name
from memory_defense.networks.defense_vae import DefenseVaeNetwork, Latent, defense_vae_plan


@dataclass(frozen=True, kw_only=True, eq=False)
class DefenseVaeLosses(LossTerms):
    """The terms of both objectives, means over images."""

    reconstruction: Tensor
    """Binary cross-entropy against the clean image, summed over pixels."""
    kl: Tensor
    """Divergence from the standard normal, before its factor r."""
    cross_entropy: Tensor | None = None
    """Cross-entropy of the classifier on reconstructions, before its factor; None if it takes no part."""


def kl_divergence(latent: Latent) -> PerImage:
    """Return KL(N(mu, sigma^2) || N(0, I)), (B,), at least 0."""
    mean, log_variance = latent.mean.float(), latent.log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def _reconstruct(model: DefenseVae, batch: Batch, kl_weight: float | None) -> tuple[Images, DefenseVaeLosses]:
    """Return reconstructions (B, C, H, W) in (0, 1), and their losses without a classifier's."""
    latent = model.purifier.encoder(batch.images)
    codes = latent.mean
    if model.training:
        codes = latent.sample(batch.draws.child("latent").normal(codes.shape[1]).to(codes))
    pixels = model.purifier.decoder(codes)
    # From logits, in float32: the logarithm of a saturated sigmoid is minus infinity.
    error = F.binary_cross_entropy_with_logits(pixels.float(), batch.clean.float(), reduction="none")
    reconstruction, kl = error.flatten(1).sum(1).mean(), kl_divergence(latent).mean()
    weight = model.kl_weight if kl_weight is None else kl_weight
    total = reconstruction + weight * kl
    return torch.sigmoid(pixels), DefenseVaeLosses(total=total, reconstruction=reconstruction, kl=kl)


def _check_released(model: DefenseVae, what: str) -> None:
    if not model.trains_classifier:
        raise ValueError(
            f"{what} trains the classifier, but it is frozen; call release_classifier() on the defense"
        )


@dataclass(frozen=True, kw_only=True)
class DefenseVaeObjective:
    """REC: trains the `purifier` and, if asked to, a classifier whose loss does not reach the purifier.

    Raises
    ------
    ValueError
        For a negative weight; when called, if a classifier is to be retrained that was not released.
    """

    kl_weight: float | None = None
    """r; None is the defense's own."""
    retrain_classifier: bool = False
    """Also train the classifier, on reconstructions taken as given."""

    def __post_init__(self) -> None:
        check_at_least(0, kl_weight=self.kl_weight)

    def __call__(self, model: DefenseVae, batch: Batch) -> DefenseVaeLosses:
        """Return the losses of one batch of images and their clean counterparts."""
        made, losses = _reconstruct(model, batch, self.kl_weight)
        if not self.retrain_classifier:
            return losses
        _check_released(model, "retrain_classifier")
        cross_entropy = F.cross_entropy(model.classifier(made.detach()).float(), batch.labels)
        return replace(losses, total=losses.total + cross_entropy, cross_entropy=cross_entropy)


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
        check_at_least(0, kl_weight=self.kl_weight, cross_entropy=self.cross_entropy)

    def __call__(self, model: DefenseVae, batch: Batch) -> DefenseVaeLosses:
        """Return the losses of one batch of images and their clean counterparts."""
        _check_released(model, "end-to-end fine-tuning")
        made, losses = _reconstruct(model, batch, self.kl_weight)
        cross_entropy = F.cross_entropy(model.classifier(made).float(), batch.labels)
        total = losses.total + self.cross_entropy * cross_entropy
        return replace(losses, total=total, cross_entropy=cross_entropy)


class DefenseVae(Purification):
    """A classifier that sees what a variational autoencoder makes of an image, with ``z = mu``.

    Parameters
    ----------
    classifier
        See `Purification`; `release_classifier` lets a copy of it be trained.
    purifier
        Encoder and decoder, the part that REC trains.
    kl_weight
        r, the objectives' factor of the Kullback-Leibler term, at least 0.

    Raises
    ------
    ValueError
        For a negative weight.
    """

    def __init__(self, classifier: nn.Module, purifier: DefenseVaeNetwork, *, kl_weight: float = 1.0) -> None:
        super().__init__(classifier)
        if not kl_weight >= 0:
            raise ValueError(f"kl_weight is {kl_weight}, but it must be at least 0; 0 is the released code's")
        self.purifier = purifier
        self.kl_weight = kl_weight
        self.trains_classifier = False

    def purify(self, images: Images) -> Images:
        """Return reconstructions (B, C, H, W) in (0, 1) from ``z = mu``; nothing is drawn."""
        return self.purifier.reconstruct(images)

    differentiable_purify = purify

    def release_classifier(self) -> Self:
        """Let the classifier be trained with the autoencoder (E2E) or on its output; return self.

        The defense continues with a copy, so that the classifier it was given stays as it is. Call it before the
        optimiser is made.
        """
        if not self.trains_classifier:
            self.classifier = deepcopy(self.classifier).requires_grad_(True)
            self.trains_classifier = True
        return self.train(self.training)

    def freeze_classifier(self) -> Self:
        """Keep the classifier as it is from here on; return self."""
        self.trains_classifier = False
        self.classifier.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch every part's mode; the classifier stays in eval mode unless it was released."""
        super().train(mode)
        self.classifier.train(mode and self.trains_classifier)
        return self


@dataclass(frozen=True, kw_only=True)
class DefenseVaePreset:
    """One reading of the paper: the text's, or the released script's."""

    summary: str
    kl_weight: float = 1.0
    widths: str = "published"
    """Name in `networks.defense_vae.WIDTHS`."""


PRESETS: dict[str, DefenseVaePreset] = {
    "paper": DefenseVaePreset(summary="the text: reconstruction and KL term with equal weight"),
    "released": DefenseVaePreset(
        summary="the released script, whose KL weight is 0: a denoising autoencoder with latent noise",
        kl_weight=0.0,
    ),
    "small": DefenseVaePreset(summary="the text with narrow layers, for two processor cores", widths="small"),
}


def build_defense_vae(*, channels: int, size: int, classifier: nn.Module, preset: str = "paper") -> DefenseVae:
    """Return a freshly initialised Defense-VAE with a frozen classifier; draws from the global generator.

    Parameters
    ----------
    channels, size
        C and H = W of the images: multiples of 4 from 8 to 128.
    classifier
        See `Purification`.
    preset
        Name in `PRESETS`.

    Raises
    ------
    ValueError
        For an unknown preset or a size out of range.
    """
    check_name(preset, PRESETS, "preset of Defense-VAE")
    chosen = PRESETS[preset]
    network = DefenseVaeNetwork(defense_vae_plan(channels, size, chosen.widths))
    return DefenseVae(classifier, network, kl_weight=chosen.kl_weight)
