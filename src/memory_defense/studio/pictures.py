"""Tensors to the pictures of the page, as small PNG in ``data:`` addresses."""

from __future__ import annotations

from torch import Tensor

from memory_defense.reporting.thumbnails import perturbation, picture

MAGNIFICATION = 10


def uri(image: Tensor) -> str:
    """Return an image (C, H, W), clamped to [0, 1], as a PNG in a ``data:`` address."""
    return picture(image, "").uri


def magnified(offset: Tensor, by: float = MAGNIFICATION) -> str:
    """Return a change (C, H, W) shown so much larger: full colour from a change of ``1 / by`` on.

    The colours are those of the report: grey images turn blue where they got darker and red-brown where they
    got brighter; colour images are shown around middle grey.
    """
    return uri(_on_the_report_s_scale((offset * by).clamp(-1, 1)))


def signs(offset: Tensor) -> str:
    """Return only the direction of a change (C, H, W): full colour wherever anything changed."""
    return uri(_on_the_report_s_scale(offset.sign()))


def _on_the_report_s_scale(scaled: Tensor) -> Tensor:
    """Return values in [-1, 1] as colours (3, H, W) in [0, 1]; 1 has full colour whatever the largest is."""
    largest = float(scaled.abs().max())
    shown, _ = perturbation(scaled)
    if largest == 0:
        return shown
    unchanged, _ = perturbation(scaled * 0)
    return unchanged + largest * (shown - unchanged)
