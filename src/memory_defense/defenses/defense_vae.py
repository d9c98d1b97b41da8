"""Defense-VAE (Li & Ji 2019, arXiv 1812.06570): a variational autoencoder that maps attacked images to clean ones.

    answer = classifier(decoder(mu(x)))

Every step is differentiable, so that the white box needs no stand-in. There are two ways of training it, in
`defense_vae_objective`: REC trains the autoencoder before a frozen classifier, E2E fine-tunes both from there.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Self

from torch import nn

from memory_defense.checks import nearest
from memory_defense.contracts import Images
from memory_defense.defenses.purification import Purification
from memory_defense.networks.defense_vae import DefenseVaeNetwork, defense_vae_plan


class DefenseVae(Purification):
    """A classifier that sees what a variational autoencoder makes of an image, with ``z = mu``.

    Parameters
    ----------
    classifier
        See `Purification`; `release_classifier` lets a copy of it be trained.
    purifier
        Encoder and decoder, the part that REC trains.
    kl_weight
        r, what the objectives multiply the Kullback-Leibler term with, at least 0.

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

    def differentiable_purify(self, images: Images) -> Images:
        """Return `purify`, which has its own gradient."""
        return self.purifier.reconstruct(images)

    def release_classifier(self) -> Self:
        """Let the classifier be trained with the autoencoder (E2E) or on its output; return self.

        The defense goes on with a copy, so that the classifier it was given stays as it is. Call it before the
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
    """The choices in which the readings differ."""

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
        Answers for the reconstructions; see `Purification`.
    preset
        Name in `PRESETS`.

    Raises
    ------
    ValueError
        For an unknown preset or a size out of range.
    """
    if preset not in PRESETS:
        raise nearest(preset, PRESETS, "preset of Defense-VAE")
    chosen = PRESETS[preset]
    network = DefenseVaeNetwork(defense_vae_plan(channels, size, chosen.widths))
    return DefenseVae(classifier, network, kl_weight=chosen.kl_weight)
