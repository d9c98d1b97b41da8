"""The systems that Memory Defense adds its slots to: an autoencoder before classifier-B, with and without a memory.

    target classifier   classifier-B on the image itself
    autoencoder         encoder, decoder, classifier-B
    MemAE               encoder, memory read over all its items, decoder, classifier-B (Gong et al. 2019)

Encoder, decoder, classifier-B and the presets are those of Memory Defense, so two rows of a table differ by the
added part alone. All are trained by

    reconstruction error + alpha * entropy of the read (MemAE only) + lambda * cross-entropy(B(x-hat), y)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Unpack

from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.checks import check_at_least
from memory_defense.contracts import Batch, Classifier, Images, Logits, PerImage
from memory_defense.defenses.flagging import FlaggingModule
from memory_defense.defenses.losses import LossTerms
from memory_defense.defenses.memory.autoencoder import AutoencoderPlan, Decoder, Encoder, plan_for
from memory_defense.defenses.memory.objective import entropy
from memory_defense.defenses.memory.presets import constants_of, new_classifier_b, reading
from memory_defense.defenses.memory.slots import SlotMemory, full_precision, hard_shrink
from memory_defense.defenses.memory.surrogates import TargetClassifierAlone
from memory_defense.defenses.undefended import Undefended
from memory_defense.networks.classifiers import TargetClassifier
from memory_defense.networks.layers import ImageShape, Normalize

LARGEST_SHRINK = 3
"""The shrink thresholds that Gong et al. 2019 recommend end at this times 1/N; they begin at 1/N."""


class Codes(NamedTuple):
    """The codes of a batch between encoder and decoder."""

    encoded: Tensor
    """(B, D) z of the encoder, in (0, 1)."""
    decoded: Tensor
    """(B, D) the decoder's input: the memory read, or `encoded` itself if there is no memory."""
    attention: Tensor | None
    """(B, N) the weights that the memory was read with, each row's sum 1; None without a memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AutoencoderLosses(LossTerms):
    """The terms of `AutoencoderObjective`."""

    reconstruction: Tensor
    """Squared error summed over pixels, mean over images."""
    cross_entropy: Tensor
    """Cross-entropy of classifier-B on reconstructions, before its factor."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MemAeLosses(AutoencoderLosses):
    """The terms of `MemAeObjective`."""

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
    """lambda, the factor of the cross-entropy."""
    noise_std: float = 1e-4
    """Standard deviation of the noise on training images, in pixel units; the clean image is the target."""

    def __post_init__(self) -> None:
        check_at_least(0, **vars(self))

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
        seen = batch.images
        if model.training and self.noise_std:
            seen = seen + self.noise_std * batch.draws.normal(*seen.shape[1:]).to(seen)
        codes = model.codes(seen)
        made = model.decoder(codes.decoded)
        error = (goal - made.to(goal.dtype)).square().flatten(1).sum(1).mean()
        return codes, error, F.cross_entropy(model.classifier_b(made).float(), batch.labels)


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


class AutoencoderDefense(FlaggingModule):
    """Images (B, C, H, W) in [0, 1] to logits (B, K) of classifier-B on the autoencoder's reconstruction.

    Every step is differentiable, so the plain gradient is the white box's.

    Parameters
    ----------
    plan
        The autoencoder's architecture; it fixes C, H = W and D.
    normalize
        Maps pixels in [0, 1] to the space in which the autoencoder works.
    classifier_b
        Normalised reconstructions (B, C, H, W) to logits (B, K).

    Raises
    ------
    ValueError
        If the parts do not fit together.
    """

    transfer_knowledge = frozenset({"target-classifier"})
    """Knowledge whose surrogate decides otherwise than the defense."""

    def __init__(self, *, plan: AutoencoderPlan, normalize: Normalize, classifier_b: nn.Module) -> None:
        super().__init__()
        if normalize.channels != plan.channels:
            raise ValueError(
                f"normalize has {normalize.channels} channels, the autoencoder {plan.channels}; give both the same"
            )
        self.plan = plan
        self.normalize = normalize
        self.encoder = Encoder(plan)
        self.decoder = Decoder(plan)
        self.classifier_b = classifier_b
        self.flag_score = "reconstruction"

    def codes(self, images: Images) -> Codes:
        """Return the codes before and after the memory, with gradients."""
        return self.recall(self.encoder(self.normalize(images)))

    def recall(self, encoded: Tensor) -> Codes:
        """Return the decoder's input for codes (B, D): here the codes themselves."""
        return Codes(encoded, encoded, None)

    def forward(self, images: Images) -> Logits:
        """Return the defense's answer, logits (B, K)."""
        return self.classifier_b(self.decoder(self.codes(images).decoded))

    def reconstruct(self, images: Images) -> Images:
        """Return reconstructions (B, C, H, W) in pixel units; the decoder is linear, so they may leave [0, 1]."""
        return self.normalize.invert(self.decoder(self.codes(images).decoded))

    def reconstruction_error(self, images: Images) -> PerImage:
        """Return (B,) the mean squared difference of image and reconstruction, in squared pixel units."""
        return (images - self.reconstruct(images)).square().flatten(1).mean(1)

    def scores(self, images: Images) -> Mapping[str, PerImage]:
        """Return ``reconstruction``, the `reconstruction_error` (B,), with gradients."""
        return {"reconstruction": self.reconstruction_error(images)}

    def surrogates(self) -> Mapping[str, Classifier]:
        """Return ``end-to-end`` and ``target-classifier``: classifier-B on the image itself."""
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
        lambda of the hard shrink, from 1/N to 3/N; 0 turns it off.

    Raises
    ------
    ValueError
        If the parts do not fit together, or a number is out of range.
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
                f"shrink_threshold is {shrink_threshold}, but with {items} items it lies between 1/{items} and "
                f"{LARGEST_SHRINK}/{items}; 0 turns shrinking off"
            )
        # As many slots as items: masking by slot is not used here.
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


def build_target_classifier(*, preset: str = "sound", **shape: Unpack[ImageShape]) -> Undefended:
    """Return classifier-B alone, on normalised images; draws from the global generator.

    Parameters
    ----------
    preset
        Name in `memory.presets.PRESETS`; here it only decides what grey images are normalised with.
    shape
        See `ImageShape`; at least 16 pixels.

    Raises
    ------
    ValueError
        For an unknown preset or a size out of range.
    """
    mean, std = constants_of(reading(preset, shape), shape)
    return Undefended(TargetClassifier(**{**shape, "mean": mean, "std": std}))


def build_autoencoder_defense(*, preset: str = "sound", **shape: Unpack[ImageShape]) -> AutoencoderDefense:
    """Return Memory Defense without selector and memory: encoder, decoder, classifier-B.

    Parameters and errors are those of `build_target_classifier`; the preset decides the encoder's stem too.
    """
    chosen = reading(preset, shape)
    return AutoencoderDefense(
        plan=plan_for(shape["channels"], shape["size"], chosen.stem),
        normalize=Normalize(*constants_of(chosen, shape)),
        classifier_b=new_classifier_b(shape),
    )


def build_memae_defense(
    *,
    preset: str = "sound",
    memory_size: int | None = None,
    shrink_threshold: float | None = None,
    **shape: Unpack[ImageShape],
) -> MemAeDefense:
    """Return Memory Defense without selector and mask: encoder, memory, decoder, classifier-B.

    Parameters and errors are those of `build_target_classifier`, and:

    Parameters
    ----------
    memory_size
        N; None is the preset's. It need not be a multiple of the number of classes.
    shrink_threshold
        lambda, see `MemAeDefense`; None is 1/N, since a preset's threshold belongs to a masked memory.
    """
    chosen = reading(preset, shape)
    items = chosen.items(shape) if memory_size is None else memory_size
    return MemAeDefense(
        plan=plan_for(shape["channels"], shape["size"], chosen.stem),
        normalize=Normalize(*constants_of(chosen, shape)),
        classifier_b=new_classifier_b(shape),
        items=items,
        shrink_threshold=1 / max(items, 1) if shrink_threshold is None else shrink_threshold,
    )
