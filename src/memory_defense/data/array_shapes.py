"""The names, layouts and types in which people save images and labels as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from memory_defense.contracts import Labels
from memory_defense.data.geometry import Framing, framed, framed_size
from memory_defense.data.limits import Limits

_IMAGES, _LABELS = ("images", "imgs", "data", "x"), ("labels", "targets", "label", "y")
_ALSO = {
    **dict.fromkeys(_IMAGES, "images"),
    **dict.fromkeys(_LABELS, "labels"),
    **{f"{split}_{name}": f"{split}_images" for split in ("train", "test") for name in _IMAGES},
    **{f"{split}_{name}": f"{split}_labels" for split in ("train", "test") for name in _LABELS},
    **{f"{name}_{split}": f"{split}_images" for split in ("train", "test") for name in _IMAGES},
    **{f"{name}_{split}": f"{split}_labels" for split in ("train", "test") for name in _LABELS},
}
"""Our name by each that others use, in lower case: Keras' ``x_test`` and ``y_test``, say."""
_VALIDATION = ("val", "valid", "validation")


def understood(path: Path, names: Iterable[str], ours: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the file's names by ours, and notes about those that were taken for ours or left out.

    Raises
    ------
    ValueError
        For a name that nobody here uses, or two that mean the same.
    """
    known: dict[str, str] = {}
    notes: list[str] = []
    unknown: list[str] = []
    left_out: list[str] = []
    for name in sorted(names, key=lambda one: (one not in ours, one)):
        meant = name if name in ours else _ALSO.get(name.casefold())
        if meant is None and set(name.casefold().split("_")) & {*_VALIDATION}:
            left_out.append(name)
        elif meant is None:
            unknown.append(name)
        elif meant in known:
            raise ValueError(f"{path} holds {known[meant]} and {name}, which mean the same; remove one of them")
        else:
            known[meant] = name
            if meant != name:
                notes.append(f"{path}: {name} is taken for {meant}")
    if unknown:
        raise ValueError(
            f"{path} holds {', '.join(unknown)}, but only {', '.join(ours)} and classes are read; "
            "rename or remove what is not one of them"
        )
    return known, [*notes, *([f"{path}: {', '.join(left_out)} not read"] if left_out else [])]


def check_layout(shape: tuple[int, ...], where: str) -> None:
    """Raise ValueError unless these are images (N, H, W), (N, C, H, W) or (N, H, W, C) with C = 1 or 3."""
    if len(shape) == 3 or (len(shape) == 4 and (shape[1] in (1, 3) or shape[3] in (1, 3))):
        return
    remedy = "; reshape them" if len(shape) == 2 else ""
    if len(shape) == 4 and shape[2] in (1, 3):
        remedy = "; use images.transpose(3, 2, 0, 1)"
    elif len(shape) == 4 and 4 in (shape[1], shape[3]):
        remedy = "; leave out the transparency, the last channel"
    raise ValueError(
        f"{where} has shape {shape}, expected (N, H, W), (N, C, H, W) or (N, H, W, C) with C = 1 or 3"
        f"{remedy or '; save them so'}"
    )


def channels_first(images: Tensor) -> Tensor:
    """Return (N, C, H, W) of what `check_layout` passed; sides have at least 4 pixels, so one axis at most is C."""
    if images.dim() == 3:
        return images[:, None]
    return images if images.shape[1] in (1, 3) else images.permute(0, 3, 1, 2)


def one_axis(labels: Tensor, images: int, where: str) -> Tensor:
    """Return labels (N,) of a column (N, 1) or a row (1, N).

    Raises
    ------
    ValueError
        For a class axis: one-hot labels, or several labels of an image.
    """
    if labels.shape[1] == 1:
        return labels.squeeze(1)
    if labels.shape[0] == 1 and labels.shape[1] == images:
        return labels.squeeze(0)
    shape = tuple(labels.shape)
    if bool(((labels == 0) | (labels == 1)).all()) and bool((labels.sum(1) == 1).all()):
        raise ValueError(f"{where}: labels have shape {shape}: one-hot? expected (B,); use labels.argmax(1)")
    raise ValueError(
        f"{where}: labels have shape {shape}, several for an image, expected (B,); choose one class for each image"
    )


def whole_numbers(labels: Tensor, where: str, *, torch_file: bool) -> Labels:
    """Return labels as int64; raise ValueError unless they are whole numbers by their type."""
    if not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool):
        return labels.long()
    kind, whole = f"{where}: labels are {labels.dtype}, expected whole numbers", not labels.is_complex()
    if labels.is_floating_point() and not bool((labels == labels.round()).all()):
        raise ValueError(f"{kind}, and {float(labels[labels != labels.round()][0]):g} is none; save class numbers")
    remedy = "labels.long()" if torch_file else "labels.astype('int64')"
    raise ValueError(f"{kind}; {f'use {remedy}' if whole else 'save class numbers'}")


def framed_all(where: str, images: Tensor, how: Framing, limits: Limits) -> Tensor:
    """Return images (N, C, H, W), on the CPU, as `framed` does, of the same type; themselves if nothing changes."""
    height, width = images.shape[2:]
    sides = framed_size(where, height, width, how, limits)
    if how is None or how == height == width:
        return images.contiguous()
    found = torch.empty((*images.shape[:2], *sides), dtype=images.dtype, device="meta")
    limits.check_memory(where, found.numel() * images.element_size(), len(images))
    found = torch.empty_like(found, device="cpu")
    for image, place in zip(images, found, strict=True):
        pixels = framed(where, np.ascontiguousarray(image.permute(1, 2, 0).numpy()), how, limits)
        place[:] = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    return found
