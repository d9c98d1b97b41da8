"""The systems that Memory Defense adds its slots to: an autoencoder before classifier-B, with and without a memory.

    target classifier   classifier-B on the image itself
    autoencoder         encoder, decoder, classifier-B
    MemAE               encoder, memory read over all its items, decoder, classifier-B (Gong et al. 2019)

Encoder, decoder, classifier-B and the presets are those of Memory Defense, so a difference between two rows of a
table is the part that differs and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.contracts import Batch, Classifier, Images, Logits, PerImage
from memory_defense.defenses.flagging import FlaggingModule
from memory_defense.defenses.memory.autoencoder import AutoencoderPlan, Decoder, Encoder
from memory_defense.defenses.memory.objective import entropy
from memory_defense.defenses.memory.slots import SlotMemory, full_precision, hard_shrink
from memory_defense.networks.layers import Normalize


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


LARGEST_SHRINK = 3
"""Times 1/N: the upper end of the thresholds that Gong et al. 2019 recommend; the lower end is 1/N."""


class Codes(NamedTuple):
    """What lies between encoder and decoder."""

    encoded: Tensor
    """(B, D) z of the encoder, in (0, 1)."""
    decoded: Tensor
    """(B, D) what the decoder is given: the memory read, or `encoded` itself where there is no memory."""
    attention: Tensor | None
    """(B, N) the weights that the memory was read with, each row's sum 1; None without a memory."""


@dataclass(frozen=True, eq=False)
class TargetClassifierAlone:
    """The knowledge ``target-classifier``: classifier-B on the image itself, without the autoencoder."""

    defense: AutoencoderDefense

    def __call__(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        return self.defense.classifier_b(self.defense.normalize(images))


class AutoencoderDefense(FlaggingModule):
    """Images (B, C, H, W) in [0, 1] to logits (B, K) of classifier-B on the autoencoder's reconstruction.

    Every step is differentiable, so that plain gradients are the white box's.

    Parameters
    ----------
    plan
        The autoencoder's architecture; it fixes C, H = W and D.
    normalize
        Into the space in which the autoencoder works.
    classifier_b
        Sees reconstructions in normalised space.

    Raises
    ------
    ValueError
        When the parts do not fit together.
    """

    transfer_knowledge = frozenset({"target-classifier"})
    """Knowledge whose surrogate decides otherwise than the defense."""

    def __init__(self, *, plan: AutoencoderPlan, normalize: Normalize, classifier_b: nn.Module) -> None:
        super().__init__()
        if normalize.channels != plan.channels:
            raise ValueError(f"normalize has {normalize.channels} channels, the autoencoder {plan.channels}")
        self.plan = plan
        self.normalize = normalize
        self.encoder = Encoder(plan)
        self.decoder = Decoder(plan)
        self.classifier_b = classifier_b
        self.flag_score = "reconstruction"

    def codes(self, images: Images) -> Codes:
        """Return the encoder's codes and what becomes of them, with gradients."""
        return self.recall(self.encoder(self.normalize(images)))

    def recall(self, encoded: Tensor) -> Codes:
        """Return what the decoder is given for codes (B, D): here the codes themselves."""
        return Codes(encoded, encoded, None)

    def forward(self, images: Images) -> Logits:
        """Return the defense's answer, logits (B, K)."""
        return self.classifier_b(self.decoder(self.codes(images).decoded))

    def reconstruct(self, images: Images) -> Images:
        """Return reconstructions (B, C, H, W) in pixel units; the decoder is linear, so they may leave [0, 1]."""
        return self.normalize.invert(self.decoder(self.codes(images).decoded))

    def reconstruction_error(self, images: Images) -> PerImage:
        """Return (B,) the anomaly score: mean squared difference of image and reconstruction, in pixel units."""
        return (images - self.reconstruct(images)).square().flatten(1).mean(1)

    def scores(self, images: Images) -> Mapping[str, PerImage]:
        """Return ``reconstruction``, the `reconstruction_error` (B,), with gradients."""
        return {"reconstruction": self.reconstruction_error(images)}

    def surrogates(self) -> Mapping[str, Classifier]:
        """Return what an adversary with each knowledge differentiates."""
        return {"end-to-end": self, "target-classifier": TargetClassifierAlone(self)}


class MemAeDefense(AutoencoderDefense):
    """The memory-augmented autoencoder of Gong et al. 2019 with classifier-B on the reconstruction.

    Every item may be read for every image: there are no slots, no mask and no selector.

    Parameters
    ----------
    plan, normalize, classifier_b
        See `AutoencoderDefense`.
    items
        N, at least 2.
    shrink_threshold
        lambda of the hard shrink, from 1/N to 3/N; or 0, where nothing is shrunk.

    Raises
    ------
    ValueError
        When the parts do not fit together, or a number is out of range.
    """

    def __init__(
        self,
        *,
        plan: AutoencoderPlan,
        normalize: Normalize,
        classifier_b: nn.Module,
        items: int,
        shrink_threshold: float,
    ) -> None:
        super().__init__(plan=plan, normalize=normalize, classifier_b=classifier_b)
        if items < 2:
            raise ValueError(f"the memory has {items} items, but a weighted read needs at least 2")
        least, most = 1 / items, LARGEST_SHRINK / items
        if shrink_threshold != 0 and not least * (1 - 1e-6) <= shrink_threshold <= most * (1 + 1e-6):
            raise ValueError(
                f"shrink_threshold is {shrink_threshold}, but with {items} items it lies between 1/N = {least:.3g} "
                f"and {LARGEST_SHRINK}/N = {most:.3g}; 0 turns shrinking off"
            )
        # As many slots as items: what masks by slot has nothing to group, and is not used.
        self.memory = SlotMemory(
            items=items,
            code_size=plan.code_size,
            classes=items,
            shrink_threshold=shrink_threshold,
            keep_one=False,
        )

    def address(self, codes: Tensor) -> Tensor:
        """Return the weights (B, N) for codes (B, D): cosine softmax, hard shrink, division by the sum.

        The largest weight always survives, also above 1/N, so that no read is empty.
        """
        with full_precision(codes):
            raw = self.memory.raw_attention(codes)
            shrunk = hard_shrink(raw, self.memory.shrink_threshold, classes=1, keep_one=True)
            return shrunk / shrunk.sum(1, keepdim=True)

    def recall(self, encoded: Tensor) -> Codes:
        """Return the memory read of codes (B, D), and its weights."""
        weights = self.address(encoded)
        return Codes(encoded, self.memory.read(weights), weights)
