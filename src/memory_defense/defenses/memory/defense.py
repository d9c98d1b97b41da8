"""Memory Defense (section 3.1): selector, memory-masking autoencoder and target classifier as one classifier.

``forward`` takes images and nothing else. The slot is chosen by the selector, never by the caller: whoever
hands in a label hands in the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memory_defense.checks import check_labels
from memory_defense.contracts import Adaptation, Binding, Classifier, Images, Labels, Logits, PerImage
from memory_defense.defenses.memory.adaptive import adaptive_set
from memory_defense.defenses.memory.autoencoder import AutoencoderPlan, Decoder, Encoder
from memory_defense.defenses.memory.evidence import evidence, score
from memory_defense.defenses.memory.objective import nontarget_gradient_share
from memory_defense.defenses.memory.slots import SlotMemory, class_mask, removed_share
from memory_defense.defenses.memory.surrogates import TRANSFER_KNOWLEDGE, EndToEnd, published_surrogates
from memory_defense.networks.layers import Normalize


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryTrace:
    """What the defense did with a batch, step by step."""

    selector_logits: Logits
    """(B, K) of classifier-A."""
    slots: Labels
    """(B,) the slot each image was sent to."""
    codes: Tensor
    """(B, D) z of Eq. 7, in (0, 1)."""
    raw_attention: Tensor
    """(B, M) Eq. 9, before shrinking and masking."""
    attention: Tensor
    """(B, M) the weights the memory was read with."""
    reconstruction: Images
    """(B, C, H, W) of Eq. 12 in pixel units; the decoder is linear, so values may leave [0, 1]."""
    complement: Images
    """(B, C, H, W) in pixel units: the reconstruction from all other slots together."""
    reconstruction_error: PerImage
    """(B,) mean squared difference of image and reconstruction, in pixel units."""
    logits: Logits
    """(B, K) of classifier-B: the defense's answer."""


class MemoryDefense(nn.Module):
    """Images (B, C, H, W) in [0, 1] to logits (B, K), through the memory slot that the selector chooses.

    Parameters
    ----------
    plan
        The autoencoder's architecture; it fixes C, H = W and D.
    selector
        Classifier-A: any module from images in [0, 1] to logits. It is trained on its own, so it stays in eval
        mode when the defense is put in train mode.
    normalize
        Into the space in which the autoencoder works.
    memory
        With the plan's D.
    classifier_b
        Sees reconstructions in normalised space.

    Raises
    ------
    ValueError
        When the parts do not fit together.
    """

    transfer_knowledge = TRANSFER_KNOWLEDGE
    """Knowledge whose surrogate decides otherwise than the defense, so that an attack that stops at the
    surrogate's first error may stop too early."""

    _transfer_source: nn.Module | None

    def __init__(
        self,
        *,
        plan: AutoencoderPlan,
        selector: nn.Module,
        normalize: Normalize,
        memory: SlotMemory,
        classifier_b: nn.Module,
    ) -> None:
        super().__init__()
        if memory.items.shape[1] != plan.code_size:
            raise ValueError(
                f"the memory's items have length {memory.items.shape[1]}, the encoder's codes "
                f"{plan.code_size}; build the memory with plan.code_size"
            )
        if normalize.channels != plan.channels:
            raise ValueError(f"normalize has {normalize.channels} channels, the autoencoder {plan.channels}")
        self.plan = plan
        self.selector = selector
        self.normalize = normalize
        self.encoder = Encoder(plan)
        self.memory = memory
        self.decoder = Decoder(plan)
        self.classifier_b = classifier_b
        self.transfer_source = None
        self.flag_score: str = "reconstruction"
        self.flag_threshold: float | None = None

    @property
    def classes(self) -> int:
        """K, the number of classes and of slots."""
        return self.memory.classes

    @property
    def transfer_source(self) -> nn.Module | None:
        """An independently trained plain classifier for the knowledge ``undefended``.

        It is no part of the defense: neither in its parameters nor in its state, but it moves with it to
        another device.
        """
        return self._transfer_source

    @transfer_source.setter
    def transfer_source(self, network: nn.Module | None) -> None:
        object.__setattr__(self, "_transfer_source", network)

    def forward(self, images: Images) -> Logits:
        """Return the defense's answer, logits (B, K).

        Where a gradient to the images is wanted it is the one of `EndToEnd`: an attack that knows nothing of
        slots must not be fooled by the argmax that chooses them.
        """
        if torch.is_grad_enabled() and images.requires_grad:
            return EndToEnd(self)(images)
        return self.answer(images, self.choose_slots(images))

    @torch.no_grad()
    def choose_slots(self, images: Images) -> Labels:
        """Return the slots (B,) that classifier-A chooses: its most probable classes."""
        return self.selector(images).argmax(1)

    def answer(self, images: Images, slots: Labels) -> Logits:
        """Return Eqs. 7 to 12 with these slots, and classifier-B on top: logits (B, K)."""
        return self.classifier_b(self._decode_slot(images, slots))

    def _decode_slot(self, images: Images, slots: Labels) -> Tensor:
        """Return the reconstruction (B, C, H, W) in normalised space."""
        codes = self.encoder(self.normalize(images))  # Eq. 7
        return self.decoder(self.memory.read_slot(codes, slots))  # Eqs. 8 to 11, Eq. 12

    def classify_with_slots(self, images: Images, slots: Labels) -> Logits:
        """Return logits (B, K) when the slots are dictated: an oracle for the audit, never the defense.

        Raises ValueError unless slots are (B,) int64 in [0, K).
        """
        check_labels(slots, len(images), self.classes)
        return self.answer(images, slots)

    def reconstruct(self, images: Images, slots: Labels) -> Images:
        """Return reconstructions (B, C, H, W) from dictated slots, in pixel units; see `MemoryTrace`.

        Raises ValueError unless slots are (B,) int64 in [0, K).
        """
        check_labels(slots, len(images), self.classes)
        return self.normalize.invert(self._decode_slot(images, slots))

    def reconstruct_all(self, images: Images) -> Tensor:
        """Return (B, K, C, H, W) in pixel units: every slot's reconstruction."""
        codes = self.memory.read_every_slot(self.encoder(self.normalize(images)))  # (B, K, D)
        decoded = self.decoder(codes.flatten(0, 1))  # (B K, C, H, W)
        return self.normalize.invert(decoded).reshape(len(images), self.classes, *images.shape[1:])

    def trace(self, images: Images) -> MemoryTrace:
        """Return what `forward` does with these images, and what the other slots would have given."""
        scores = self.selector(images)
        slots = scores.argmax(1)
        codes = self.encoder(self.normalize(images))
        weights = self.memory.address(codes, class_mask(slots, self.classes))
        decoded = self.decoder(self.memory.read_slot(codes, slots))
        reconstruction = self.normalize.invert(decoded)
        return MemoryTrace(
            selector_logits=scores,
            slots=slots,
            codes=codes,
            raw_attention=weights.raw,
            attention=weights.target,
            reconstruction=reconstruction,
            complement=self.normalize.invert(self.decoder(self.memory.read(weights.complement))),
            reconstruction_error=(images - reconstruction).square().flatten(1).mean(1),
            logits=self.classifier_b(decoded),
        )

    def surrogates(self) -> Mapping[str, Classifier | Binding]:
        """Return what an adversary with each knowledge differentiates; see `surrogates`."""
        return published_surrogates(self)

    def adaptive(self) -> Mapping[str, Adaptation]:
        """Return the attacks' surrogates that were made for this defense; see `adaptive`."""
        return adaptive_set(self)

    def scores(self, images: Images) -> Mapping[str, PerImage]:
        """Return ``reconstruction`` and ``disagreement``, (B,), higher where more suspicious; see `evidence`."""
        return evidence(self, images)

    @torch.no_grad()
    def suspicious(self, images: Images) -> PerImage:
        """Return (B,) bool: `flag_score` exceeds `flag_threshold`.

        Raises ValueError while there is no threshold, and for a score that there is not.
        """
        if self.flag_threshold is None:
            raise ValueError(
                "no image can be flagged before flag_threshold is set; choose it on held-out clean images, "
                "with evaluation.flag.calibrate or 'memdef evaluate RUN --detection'"
            )
        return score(self, self.flag_score, images) > self.flag_threshold

    def diagnostics(self, images: Images, labels: Labels) -> Mapping[str, float]:
        """Return what hard shrink removes from the chosen slots, and what the non-target loss weighs."""
        with torch.no_grad():
            slots = self.choose_slots(images)
            codes = self.encoder(self.normalize(images))
            weights = self.memory.address(codes, class_mask(slots, self.classes))
        return {
            "shrink sparsity": removed_share(weights.target, slots, self.classes),
            "non-target gradient share": nontarget_gradient_share(self, images, labels),
        }

    def train(self, mode: bool = True) -> MemoryDefense:
        """Switch every part's mode, except that the selector stays in eval mode."""
        super().train(mode)
        self.selector.eval()
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "transfer_source":  # nn.Module would register the network as a part before asking the property
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if self._transfer_source is not None:
            self._transfer_source._apply(fn)  # pyright: ignore[reportPrivateUsage]
        return super()._apply(fn, recurse)  # pyright: ignore[reportUnknownVariableType]
