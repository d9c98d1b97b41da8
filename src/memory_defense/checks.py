"""Checks of images and labels: every message names the value, the limit and the remedy."""

from __future__ import annotations

import math

import torch

from memory_defense.contracts import Images, Labels
from memory_defense.names import nearest

__all__ = ["NoGradientError", "check_at_least", "check_images", "check_labels", "nearest"]

_ROUNDING = 1e-6


class NoGradientError(ValueError):
    """A gradient attack met a model whose logits do not depend on the images differentiably."""


def check_images(images: Images, *, channels: int | None = None, size: int | None = None) -> None:
    """Raise ValueError unless these are non-empty float images (B, C, H, W) in [0, 1].

    Parameters
    ----------
    images
        What to check.
    channels, size
        Expected C and expected H = W; None leaves them free.
    """
    if images.dim() != 4:
        hint = ""
        if images.dim() == 3:
            hint = "; add the missing axis with images.unsqueeze(1) (grey) or images.unsqueeze(0) (one image)"
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (B, C, H, W){hint}")
    if images.shape[0] == 0:
        raise ValueError("there are no images: the batch axis has length 0")
    if images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        raise ValueError(f"images have shape {tuple(images.shape)}, channels last? use images.permute(0, 3, 1, 2)")
    if channels is not None and images.shape[1] != channels:
        raise ValueError(f"images have {images.shape[1]} channels, the model takes {channels}")
    if size is not None and tuple(images.shape[2:]) != (size, size):
        raise ValueError(f"images are {tuple(images.shape[2:])} pixels, the model takes ({size}, {size})")
    if images.dtype == torch.uint8:
        raise ValueError("images are uint8 in [0, 255], expected float32 in [0, 1]; use images.float() / 255")
    if images.dtype != torch.float32:
        raise ValueError(f"images are {images.dtype}, expected torch.float32; use images.float()")
    low, high = (float(bound) for bound in torch.aminmax(images.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int((~torch.isfinite(images)).sum())
        raise ValueError(f"{bad} pixels are NaN or infinite; remove or repair those images")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(f"images span [{low:.4g}, {high:.4g}], expected [0, 1]; {_range_remedy(low, high)}")


def _range_remedy(low: float, high: float) -> str:
    if low >= 0 and high <= 255 and high > 2:
        return "they look like grey levels: use x / 255"
    if low < 0:
        return "they look normalised: undo it (x * std + mean) and make normalisation the model's first layer"
    return "clip or rescale them to [0, 1]"


def check_labels(labels: Labels, count: int, classes: int | None = None) -> None:
    """Raise ValueError unless labels are (count,) int64 in [0, classes)."""
    if labels.dim() == 2:
        raise ValueError(f"labels have shape {tuple(labels.shape)}: one-hot? expected (B,); use labels.argmax(1)")
    if labels.dim() != 1 or labels.shape[0] != count:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected ({count},), one for each image")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels are {labels.dtype}, expected torch.int64; use labels.long()")
    low, high = int(labels.min()), int(labels.max())
    limit = "" if classes is None else f" and below {classes}, the number of classes"
    if low < 0 or (classes is not None and high >= classes):
        raise ValueError(f"labels span {low}..{high}, expected at least 0{limit}")


def check_at_least(least: float, **values: float | None) -> None:
    """Raise ValueError for the first of these named values that is below `least` or NaN; None passes."""
    for name, value in values.items():
        if value is not None and not value >= least:
            raise ValueError(f"{name} is {value}, but it must be at least {least:g}")
