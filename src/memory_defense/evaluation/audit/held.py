"""Search of what a model holds for the images that it is judged on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.contracts import Images
from memory_defense.passes import regular
from memory_defense.wrappers import modules_of
from memory_defense.wrappers.untouched import reached

_SMALLEST = 16
"""Numbers of a view of an image below which two of them are alike by coincidence."""

_ALIKE = ((64, 0.999), (_SMALLEST, 0.99999))
"""Cosine, means taken away, above which a row is an image, for views of at least so many numbers."""

_MOST_NUMBERS = 1 << 26
_MOST_WIDTH = 1 << 16
_MOST_VIEWS = 64


@torch.no_grad()
def held_by(model: object, images: Images) -> float:
    """Return the share of images (N, C, H, W) that the model holds, as they are or as it sees them.

    It is shown black images before it is searched, as it may keep what it computed last.
    """
    regular(cast("nn.Module", model))(torch.zeros_like(images))
    held = list(_numbers(model))
    matrices = [one for one in held if one.dim() == 2 and images[0].numel() in one.shape][:_MOST_VIEWS]
    views = [*_views(images), *_seen_by_layers(model, images), *_seen_by_matrices(matrices, images)]
    found = torch.zeros(len(images), dtype=torch.bool)
    for view in views:
        width = view.shape[1]
        for one in held:
            if one.numel() % width == 0 and (one.dim() < 2 or one.shape[-1] <= width):
                found |= _among(view, one.reshape(-1, width))
    return float(found.float().mean())


def _numbers(model: object) -> Iterator[Tensor]:
    """Yield every tensor and array of numbers that calling the model can reach, as floats on the processor."""
    room, loose = _MOST_NUMBERS, dict[int, list[list[float]]]()
    for thing in reached(model):
        found: Any = thing
        if isinstance(thing, np.ndarray) and found.dtype.kind in "fiu":
            found = torch.from_numpy(np.ascontiguousarray(found).astype(np.float32))
        if isinstance(found, Tensor):
            if found.layout == torch.strided and not (found.is_meta or found.is_complex() or found.is_quantized):
                room -= found.numel()
                if found.numel() >= _SMALLEST and room > 0:
                    yield found.detach().cpu().float()
        elif isinstance(thing, (list, tuple)):
            values: list[Any] = list(cast("Any", thing))
            if len(values) >= _SMALLEST and all(type(one) in (int, float) for one in values):
                loose.setdefault(len(values), []).append([float(one) for one in values])
    for rows in loose.values():
        yield torch.tensor(rows)


def _views(images: Images) -> Iterator[Tensor]:
    """Yield images as rows (N, D): as they are, in grey, and smaller."""
    images = images.detach().cpu().float()
    for one in (images, images.mean(1, keepdim=True)) if images.shape[1] > 1 else (images,):
        height, width = one.shape[2:]
        for side in dict.fromkeys((height, height // 2, height // 4, 16, 14, 12, 10, 8, 7, 6, 5, 4)):
            if not 4 <= side <= height:
                continue
            small = one if side == height else F.adaptive_avg_pool2d(one, (side, max(1, side * width // height)))
            yield small.flatten(1)
            if side < height:
                size = (side, max(1, side * width // height))
                yield F.interpolate(one, size, mode="bilinear").flatten(1)
                yield F.interpolate(one, size, mode="nearest").flatten(1)


def _seen_by_layers(model: object, images: Images) -> Iterator[Tensor]:
    """Yield what each of the model's modules returns for the images, as rows."""
    seen: list[Tensor] = []

    def look(_module: nn.Module, _inputs: object, output: object) -> None:
        if not isinstance(output, Tensor) or output.dim() < 2 or len(output) < len(images):
            return
        if _SMALLEST <= output[0].numel() <= _MOST_WIDTH and len(seen) < _MOST_VIEWS:
            seen.append(output[: len(images)].detach().cpu().float().flatten(1))

    handles = [one.register_forward_hook(look) for one in modules_of(model)]
    try:
        regular(cast("nn.Module", model))(images)
    finally:
        for handle in handles:
            handle.remove()
    yield from seen


def _seen_by_matrices(matrices: list[Tensor], images: Images) -> Iterator[Tensor]:
    """Yield the images through every matrix that takes an image: projections, first layers."""
    flat = images.detach().cpu().float().flatten(1)
    for one in matrices:
        for matrix in (one, one.T):
            if matrix.shape[0] == flat.shape[1] and _SMALLEST <= matrix.shape[1] < flat.shape[1]:
                yield flat @ matrix


def _among(view: Tensor, rows: Tensor) -> Tensor:
    """Return (N,) bool: the image's view is one of these rows, up to brightness and contrast."""
    least = next(cosine for width, cosine in _ALIKE if view.shape[1] >= width)
    mine, found = _directions(view), torch.zeros(len(view), dtype=torch.bool)
    for part in torch.split(rows, 8192):
        found |= (mine @ _directions(part).T).amax(1) > least
    return found


def _directions(rows: Tensor) -> Tensor:
    found = torch.nan_to_num(rows.double(), 0, 0, 0)
    found -= found.mean(1, keepdim=True)
    return found / found.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
