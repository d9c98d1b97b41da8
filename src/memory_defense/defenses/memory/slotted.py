"""The memory-masking autoencoder of section 3.1: selector, encoder, slot memory, decoder and target classifier.

Eqs. 7 to 12 and nothing else; `defense` adds the flag and what an adversary differentiates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from memory_defense.checks import check_labels
from memory_defense.contracts import Images, Labels, Logits, PerImage
from memory_defense.defenses.memory.autoencoder import AutoencoderPlan, Decoder, Encoder
from memory_defense.defenses.memory.slots import SlotMemory, class_mask
from memory_defense.networks.layers import Normalize


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryTrace:
    """The intermediate results of the defense on a batch."""

    selector_logits: Logits
    """(B, K) the logits of classifier-A."""
    slots: Labels
    """(B,) the slot each image was sent to."""
    codes: Tensor
    """(B, D) z of Eq. 7, in (0, 1)."""
    raw_attention: Tensor
    """(B, M) Eq. 9, before shrinking and masking."""
    attention: Tensor
    """(B, M) the weights the memory was read with."""
    reconstruction: Images
    """(B, C, H, W) Eq. 12, in pixel units; the decoder's output is linear, so values may leave [0, 1]."""
    complement: Images
    """(B, C, H, W) in pixel units: the reconstruction from all other slots together."""
    reconstruction_error: PerImage
    """(B,) mean squared difference of image and reconstruction, in pixel units."""
    logits: Logits
    """(B, K) the logits of classifier-B: the defense's answer."""


class SlottedClassifier(nn.Module):
    """Images (B, C, H, W) in [0, 1] to logits (B, K), through the memory slot that the selector chooses.

    Parameters
    ----------
    plan
        The autoencoder's architecture; it fixes C, H = W and D.
    selector
        Classifier-A: any module from images in [0, 1] to logits. It is trained on its own, so it stays in eval
        mode when the defense is put in train mode.
    normalize
        Maps pixels in [0, 1] to the space in which the autoencoder works.
    memory
        Items of the plan's length D.
    classifier_b
        Normalised reconstructions (B, C, H, W) to logits (B, K).

    Raises
    ------
    ValueError
        If the parts do not fit together.
    """

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
            raise ValueError(
                f"normalize has {normalize.channels} channels, the autoencoder {plan.channels}; give both the same"
            )
        self.plan = plan
        self.selector = selector
        self.normalize = normalize
        self.encoder = Encoder(plan)
        self.memory = memory
        self.decoder = Decoder(plan)
        self.classifier_b = classifier_b

    @property
    def classes(self) -> int:
        """K, the number of classes and of slots."""
        return self.memory.classes

    def forward(self, images: Images) -> Logits:
        """Return the answer, logits (B, K), through the slot that the selector chooses."""
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
        """Return logits (B, K) with given slots: an oracle for the audit, never the defense.

        Raises ValueError unless slots are (B,) int64 in [0, K).
        """
        check_labels(slots, len(images), self.classes)
        return self.answer(images, slots)

    def reconstruct(self, images: Images, slots: Labels) -> Images:
        """Return reconstructions (B, C, H, W) from given slots, in pixel units; see `MemoryTrace`.

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
        """Return the intermediate results of `forward`, and the reconstruction from all other slots."""
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

    def train(self, mode: bool = True) -> SlottedClassifier:
        """Switch every part's mode, except that the selector stays in eval mode."""
        super().train(mode)
        self.selector.eval()
        return self
