"""Denoised smoothing (Salman et al. 2020, arXiv:2003.01908): a denoiser before a classifier that stays as it is.

    logits = classifier(clamp(x - noise(x)))

A classifier that never saw noise is lost under it, so that smoothing it (`certificates.smoothing`) proves little.
With a denoiser in front the two together know noise, and what is certified is the two together; no weight of the
classifier is touched. The denoiser is trained

    as a black box          the error that it leaves, their MSE: the classifier is never asked
    through the classifier  cross-entropy of the logits and the classifier's own answers to clean images, their
                            STAB, which takes no labels; or `training.noise.NoiseTraining`, which takes labels

A memory of K slots, one for each class, can stand in the denoiser's lowest level: the two systems here differ by it
alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.checks import check_at_least
from memory_defense.contracts import Batch, Images
from memory_defense.defenses.losses import LossTerms
from memory_defense.defenses.memory.slots import SlotMemory
from memory_defense.defenses.purification import Purification
from memory_defense.names import check_name
from memory_defense.networks.denoiser import Denoiser, DenoiserPlan
from memory_defense.networks.layers import check_side

ITEMS_PER_CLASS = 10
"""Memory items of each class, where nothing else is said."""
CELLS = 4
"""Positions a side that a memory item has, at most."""


class Estimate(NamedTuple):
    """What a denoiser makes of images."""

    images: Images
    """(B, C, H, W) the images without the noise that it sees, not yet clamped to [0, 1]."""
    slots: Tensor | None
    """(B, K) logits of the slots that its memory is read by; None without a memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DenoiserLosses(LossTerms):
    """The terms of `DenoiserObjective`, all scalars before their factors; those that take no part are None."""

    error: Tensor
    """Mean squared error over pixels and images, divided by sigma^2: the share of the noise that is left."""
    stability: Tensor | None
    """Cross-entropy of the logits and the classifier's own answers to the clean images."""
    slots: Tensor | None
    """Cross-entropy of the memory's slots and the labels."""


@dataclass(frozen=True, kw_only=True)
class DenoiserObjective:
    """Error, stability and the choice of slots under normal noise, as an objective on `Denoised`.

    Without stability the classifier is never called.

    Raises
    ------
    ValueError
        For a sigma that is not above 0, a negative factor, nothing to minimise, or no copy.
    """

    sigma: float
    """Standard deviation of the noise, in pixel units; that of the certificate."""
    error: float = 1.0
    """Factor of the error."""
    stability: float = 0.0
    """Factor of the cross-entropy through the classifier, which takes no labels."""
    slots: float = 0.0
    """Factor of the slots' cross-entropy; only for a denoiser with a memory."""
    copies: int = 1
    """Noisy copies of each image in a step."""

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise ValueError(f"sigma is {self.sigma}, but the noise needs a standard deviation above 0")
        check_at_least(0, error=self.error, stability=self.stability, slots=self.slots)
        check_at_least(1, copies=self.copies)
        if not self.error + self.stability > 0:
            raise ValueError("error and stability are both 0: nothing would teach the denoiser; set one above 0")

    def __call__(self, model: Denoised, batch: Batch) -> DenoiserLosses:
        """Return the losses of one batch; raise ValueError for slots without a memory."""
        clean = batch.images.repeat(self.copies, 1, 1, 1)  # (m B, C, H, W)
        noise = batch.draws.child("noise").normal(self.copies, *batch.images.shape[1:]).to(batch.images)
        made = model.denoise(clean + self.sigma * noise.transpose(0, 1).flatten(0, 1))
        error = (made.images.float() - clean).square().mean() / self.sigma**2
        total, stability, slots = self.error * error, None, None
        if self.stability:
            with torch.no_grad():
                own = model.classifier(batch.images).argmax(1)
            logits = model.classifier(made.images.clamp(0, 1)).float()
            stability = F.cross_entropy(logits, own.repeat(self.copies))
            total = total + self.stability * stability
        if self.slots:
            if made.slots is None:
                raise ValueError("this denoiser has no memory whose slots could be chosen; set slots to 0")
            slots = F.cross_entropy(made.slots.float(), batch.labels.repeat(self.copies))
            total = total + self.slots * slots
        return DenoiserLosses(total=total, error=error, stability=stability, slots=slots)


class Denoised(Purification):
    """A frozen classifier that sees images from which a denoiser took the noise; to be smoothed.

    Every step is differentiable, so that the plain gradient is the white box's.

    Parameters
    ----------
    classifier
        See `Purification`: neither its parameters nor its statistics change when the denoiser is trained.
    denoiser
        The part that is trained.
    """

    def __init__(self, classifier: nn.Module, denoiser: Denoiser) -> None:
        super().__init__(classifier)
        self.denoiser = denoiser

    def denoise(self, images: Images) -> Estimate:
        """Return images (B, C, H, W) without their noise, with gradients."""
        *skipped, lowest = self.denoiser.encode(images)
        features, slots = self.recall(lowest)
        noise = self.denoiser.decode((*skipped, features), *images.shape[2:])
        return Estimate(images - noise.to(images.dtype), slots)

    def recall(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the lowest level's features (B, F, h, w) that are decoded, and the slots' logits: none here."""
        return features, None

    def purify(self, images: Images) -> Images:
        """Return the denoised images, clamped to [0, 1]."""
        return self.denoise(images).images.clamp(0, 1)

    def differentiable_purify(self, images: Images) -> Images:
        """Return `purify`'s value with its true gradient."""
        return self.purify(images)


class LevelMemory(nn.Module):
    """A memory of K slots in the lowest level of a denoiser: features in, features and what was read out.

    The code of an image is its features, averaged over at most `CELLS` x `CELLS` cells. A linear layer chooses
    slots from it; their softmax is the mask of Eq. 10, as real numbers, since under noise no choice is sure. What
    is read (Eqs. 8 to 11) is added to the features through a 1x1 convolution, which begins at 0.

    Parameters
    ----------
    width
        F, channels of the level.
    side
        Its h = w.
    classes
        K.
    items
        M, a multiple of K.
    """

    def __init__(self, *, width: int, side: int, classes: int, items: int) -> None:
        super().__init__()
        self.kernel = math.ceil(side / CELLS)
        cells = math.ceil(side / self.kernel)
        code_size = width * cells**2
        self.chooser = nn.Linear(code_size, classes)
        self.memory = SlotMemory(
            items=items,
            code_size=code_size,
            classes=classes,
            shrink_threshold=1 / max(items, 1),
            keep_one=True,
        )
        self.mix = nn.Conv2d(width, width, 1)
        for parameter in self.mix.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, F, h, w) with what was read added, and the slots' logits (B, K)."""
        pooled = F.avg_pool2d(features, self.kernel, ceil_mode=True, count_include_pad=False)
        code = pooled.flatten(1)  # (B, D)
        slots = self.chooser(code)
        weights = self.memory.address(code, slots.float().softmax(1)).target
        read = self.memory.read(weights).to(features.dtype).view_as(pooled)
        return features + self.mix(F.interpolate(read, size=features.shape[2:])), slots


class MemoryDenoised(Denoised):
    """`Denoised` with a memory of slots in the denoiser's lowest level.

    Parameters
    ----------
    classifier, denoiser
        See `Denoised`.
    size
        H = W of the images.
    classes
        K.
    items
        M, a multiple of K.

    Raises
    ------
    ValueError
        For a size out of range, or a memory that does not divide into K slots.
    """

    def __init__(self, classifier: nn.Module, denoiser: Denoiser, *, size: int, classes: int, items: int) -> None:
        super().__init__(classifier, denoiser)
        check_side(size, "a denoiser with a memory")
        plan = denoiser.plan
        side = math.ceil(size / plan.stride)
        self.memory = LevelMemory(width=plan.widths[-1], side=side, classes=classes, items=items)

    def recall(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the features with what the memory made of them, and the slots' logits (B, K)."""
        return self.memory(features)


@dataclass(frozen=True, kw_only=True)
class DenoiserPreset:
    """One size of denoiser."""

    summary: str
    widths: tuple[int, ...]
    blocks: int


PRESETS: dict[str, DenoiserPreset] = {
    "small": DenoiserPreset(
        summary="for images of 28 or 32 pixels: 0.05 GFLOP an image", widths=(32, 64, 128), blocks=1
    ),
    "wide": DenoiserPreset(summary="the same, wider: 0.2 GFLOP an image", widths=(64, 128, 256), blocks=1),
    "tiny": DenoiserPreset(summary="to try the machinery", widths=(8, 16), blocks=1),
}


def new_denoiser(channels: int, preset: str) -> Denoiser:
    """Return a freshly initialised denoiser for images of C channels; draws from the global generator.

    Raises ValueError for an unknown preset or no channels.
    """
    check_name(preset, PRESETS, "preset of a denoiser")
    chosen = PRESETS[preset]
    return Denoiser(DenoiserPlan(channels=channels, widths=chosen.widths, blocks=chosen.blocks))


def build_denoised(*, channels: int, classifier: nn.Module, preset: str = "small") -> Denoised:
    """Return a fresh denoiser in front of a classifier; draws from the global generator.

    Parameters
    ----------
    channels
        C of the images.
    classifier
        See `Denoised`.
    preset
        Name in `PRESETS`.

    Raises
    ------
    ValueError
        For an unknown preset or no channels.
    """
    return Denoised(classifier, new_denoiser(channels, preset))


def build_memory_denoised(
    *,
    channels: int,
    size: int,
    classes: int,
    classifier: nn.Module,
    preset: str = "small",
    memory_size: int | None = None,
) -> MemoryDenoised:
    """Return `build_denoised` with a memory; the denoiser beside it begins with the same weights.

    Parameters and errors are those of `build_denoised`, and:

    Parameters
    ----------
    size, classes
        H = W of the images, and K.
    memory_size
        M, a multiple of K; None is `ITEMS_PER_CLASS` for each class.
    """
    items = ITEMS_PER_CLASS * classes if memory_size is None else memory_size
    denoiser = new_denoiser(channels, preset)
    return MemoryDenoised(classifier, denoiser, size=size, classes=classes, items=items)
