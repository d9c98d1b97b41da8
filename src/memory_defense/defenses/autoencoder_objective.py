"""Training an autoencoder together with classifier-B, by the conventions of Memory Defense's objective.

    L = |x - x-hat|^2 + alpha * H(w) + lambda * cross-entropy(B(x-hat), y)

The squared error is summed over pixels in normalised space, everything is the mean over images, and only clean
images are used. The entropy is MemAE's alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from memory_defense.contracts import Batch, Images
from memory_defense.defenses.autoencoder import AutoencoderDefense, Codes, MemAeDefense
from memory_defense.defenses.memory.objective import entropy


@dataclass(frozen=True, kw_only=True, eq=False)
class AutoencoderLosses:
    """The terms of the objective, all scalars."""

    total: Tensor
    """What is minimised."""
    reconstruction: Tensor
    """Squared error summed over pixels, mean over images."""
    cross_entropy: Tensor
    """Of classifier-B on reconstructions, before its factor."""

    def parts(self) -> Mapping[str, float]:
        """Return every term as a number."""
        return {name: float(value.detach()) for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class MemAeLosses(AutoencoderLosses):
    """The terms of MemAE's objective, all scalars."""

    entropy: Tensor
    """H(w) of the shrunk weights, mean over images, before its factor."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderObjective:
    """Reconstruction and cross-entropy, as an objective on an `AutoencoderDefense`.

    Raises
    ------
    ValueError
        For a negative factor.
    """

    cross_entropy: float = 1.0
    """lambda."""
    noise_std: float = 1e-4
    """Deviation of the Gaussian noise on training images, in pixel units; the clean image is the goal."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f"{name} is {value}, but it must be at least 0")

    def __call__(self, model: AutoencoderDefense, batch: Batch) -> AutoencoderLosses:
        """Return the losses of one batch; noise is drawn in train mode only."""
        if isinstance(model, MemAeDefense):
            raise ValueError("AutoencoderObjective has no entropy for a memory's weights; use MemAeObjective")
        _, error, cross_entropy = self._terms(model, batch)
        return AutoencoderLosses(
            total=error + self.cross_entropy * cross_entropy,
            reconstruction=error,
            cross_entropy=cross_entropy,
        )

    def _terms(self, model: AutoencoderDefense, batch: Batch) -> tuple[Codes, Tensor, Tensor]:
        """Return the codes, the reconstruction error and the cross-entropy, both scalars before their factors."""
        goal = model.normalize(batch.images)
        codes = model.codes(self._seen(model, batch))
        made = model.decoder(codes.decoded)
        error = (goal - made.to(goal.dtype)).square().flatten(1).sum(1).mean()
        return codes, error, F.cross_entropy(model.classifier_b(made).float(), batch.labels)

    def _seen(self, model: AutoencoderDefense, batch: Batch) -> Images:
        if model.training and self.noise_std:
            return batch.images + self.noise_std * batch.draws.normal(*batch.images.shape[1:]).to(batch.images)
        return batch.images


@dataclass(frozen=True, kw_only=True)
class MemAeObjective(AutoencoderObjective):
    """Reconstruction, sparsity of the read and cross-entropy, as an objective on a `MemAeDefense`.

    Raises
    ------
    ValueError
        For a negative factor.
    """

    alpha: float = 2e-4
    """Factor of the entropy (Gong et al. 2019)."""

    def __call__(self, model: AutoencoderDefense, batch: Batch) -> MemAeLosses:
        """Return the losses of one batch; raise ValueError for a defense without a memory."""
        codes, error, cross_entropy = self._terms(model, batch)
        if codes.attention is None:
            raise ValueError("this autoencoder has no memory whose read could be sparse; use AutoencoderObjective")
        sparsity = entropy(codes.attention).mean()
        return MemAeLosses(
            total=error + self.alpha * sparsity + self.cross_entropy * cross_entropy,
            reconstruction=error,
            entropy=sparsity,
            cross_entropy=cross_entropy,
        )
