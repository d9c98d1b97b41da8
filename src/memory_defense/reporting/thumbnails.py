"""A gallery as small inline PNG pictures and words, one view for each image."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from memory_defense.evaluation.metrics import NO_ANSWER
from memory_defense.reporting.gallery import Gallery
from memory_defense.reporting.wording import epsilon_text, norm_label, plain

_LESS = torch.tensor([0.13, 0.40, 0.67])
_SAME = torch.tensor([0.97, 0.97, 0.97])
_MORE = torch.tensor([0.70, 0.23, 0.08])


@dataclass(frozen=True)
class Picture:
    """One inline picture with its text for screen readers and its size in pixels."""

    uri: str
    text: str
    width: int
    height: int


@dataclass(frozen=True)
class Answer:
    """The defense's answer to one picture."""

    picture: Picture
    label: str
    right: bool


@dataclass(frozen=True)
class SlotView:
    """One memory slot: its class, what it rebuilds, and who chose it; shares are of the total attention."""

    label: str
    picture: Picture | None
    share_clean: float | None
    share_adversarial: float | None
    chosen_clean: bool
    chosen_adversarial: bool


@dataclass(frozen=True)
class ExampleView:
    """One image of the gallery with everything the page says about it."""

    truth: str
    clean: Answer
    adversarial: Answer
    perturbation: Picture
    change: str
    slots: tuple[SlotView, ...]
    slot_clean: str
    slot_adversarial: str


def png(image: Tensor) -> bytes:
    """Return an image (C, H, W), C = 1 or 3, as PNG at its own resolution; values are clamped to [0, 1]."""
    levels = (image.float().clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = (levels[0] if levels.shape[0] == 1 else levels.permute(1, 2, 0)).contiguous()  # (H, W) or (H, W, 3)
    written = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(written, format="PNG", optimize=True)
    return written.getvalue()


def picture(image: Tensor, text: str) -> Picture:
    """Return an image (C, H, W) as an inline picture."""
    uri = "data:image/png;base64," + base64.b64encode(png(image)).decode("ascii")
    return Picture(uri, text, image.shape[2], image.shape[1])


def perturbation(offset: Tensor) -> tuple[Tensor, float]:
    """Return a signed change (C, H, W) as a picture (3, H, W) in [0, 1], and its magnification.

    The largest change gets full colour. Grey images: blue is darker, near-white unchanged, red-brown brighter.
    Colour images: each channel is shown around middle grey. No change at all is magnified 0 times.
    """
    largest = float(offset.abs().max())
    scaled = offset / largest if largest > 0 else torch.zeros_like(offset)
    if offset.shape[0] == 3:
        shown = 0.5 + scaled / 2
    else:
        toward = torch.where(scaled >= 0, _MORE.view(3, 1, 1), _LESS.view(3, 1, 1))  # (3, H, W)
        shown = _SAME.view(3, 1, 1) + scaled.abs() * (toward - _SAME.view(3, 1, 1))  # (3, H, W)
    return shown, 1 / largest if largest > 0 else 0.0


def _change(offset: Tensor, norm: str, magnification: float) -> str:
    if magnification == 0:
        return "not changed"
    length = float(offset.square().sum().sqrt()) if norm == "l2" else float(offset.abs().max())
    return f"{norm_label(norm)} change {epsilon_text(length)}, shown ×{magnification:.3g}"


def _shares(attention: Tensor | None, row: int, slots: int) -> list[float] | None:
    """Return each slot's part of one image's attention; all zero stays zero."""
    if attention is None:
        return None
    blocks = attention[row].float().view(slots, -1).sum(1)  # (K,)
    return [float(share) for share in blocks / blocks.sum().clamp(min=1e-12)]


def examples(gallery: Gallery, limit: int) -> tuple[ExampleView, ...]:
    """Return the views of the first `limit` images."""
    return tuple(_example(gallery, row) for row in range(min(limit, len(gallery))))


def _example(gallery: Gallery, row: int) -> ExampleView:
    names = [plain(name) for name in gallery.classes]
    truth = int(gallery.labels[row])
    offset = gallery.adversarial[row] - gallery.images[row]
    shown, magnification = perturbation(offset)
    change = _change(offset, gallery.norm, magnification)

    def answer(image: Tensor, prediction: Tensor, kind: str) -> Answer:
        said = int(prediction[row])
        called = names[said] if said != NO_ANSWER else "no answer"
        return Answer(picture(image[row], f"{kind} image of {names[truth]}"), called, said == truth)

    def slot(chosen: Tensor | None) -> int | None:
        return None if chosen is None else int(chosen[row])

    slot_clean, slot_adversarial = slot(gallery.slots_clean), slot(gallery.slots_adversarial)
    return ExampleView(
        truth=names[truth],
        clean=answer(gallery.images, gallery.predictions_clean, "clean"),
        adversarial=answer(gallery.adversarial, gallery.predictions_adversarial, "adversarial"),
        perturbation=picture(shown, f"perturbation, {change}"),
        change=change,
        slots=_slots(gallery, row, slot_clean, slot_adversarial),
        slot_clean="" if slot_clean is None else names[slot_clean],
        slot_adversarial="" if slot_adversarial is None else names[slot_adversarial],
    )


def _slots(gallery: Gallery, row: int, clean: int | None, adversarial: int | None) -> tuple[SlotView, ...]:
    count, rebuilt = len(gallery.classes), gallery.reconstructions
    shares_clean = _shares(gallery.attention_clean, row, count)
    shares_adversarial = _shares(gallery.attention_adversarial, row, count)
    if rebuilt is None and shares_clean is None:
        return ()
    which = (
        range(count) if gallery.reconstructed is None else cast("list[int]", gallery.reconstructed[row].tolist())
    )
    return tuple(
        SlotView(
            label=plain(name),
            picture=None if rebuilt is None else picture(rebuilt[row, at], f"rebuilt from the slot {plain(name)}"),
            share_clean=shares_clean[k] if shares_clean else None,
            share_adversarial=shares_adversarial[k] if shares_adversarial else None,
            chosen_clean=k == clean,
            chosen_adversarial=k == adversarial,
        )
        for at, k in enumerate(which)
        for name in (gallery.classes[k],)
    )
