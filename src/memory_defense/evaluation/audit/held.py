"""Search of what a model holds for the images that it is judged on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

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
    """Return the share of images (N, C, H, W) that the model holds, as they are or as it sees them."""
    rows: dict[int, list[Tensor]] = {}
    matrices: list[Tensor] = []
    views = list(_views(images))
    for one in _numbers(model):
        if one.dim() == 2 and images[0].numel() in one.shape and len(matrices) < _MOST_VIEWS:
            matrices.append(one)
    views += list(_seen_by_layers(model, images)) + list(_seen_by_matrices(matrices, images))
    widths = {view.shape[1] for view in views}
    for one in _numbers(model):
        for width in widths:
            if one.numel() and one.numel() % width == 0 and (one.dim() < 2 or one.shape[-1] <= width):
                rows.setdefault(width, []).append(one.reshape(-1, width))
    found = torch.zeros(len(images), dtype=torch.bool)
    for view in views:
        for part in rows.get(view.shape[1], ()):
            found |= _among(view, part)
    return float(found.float().mean())


def _numbers(model: object) -> Iterator[Tensor]:
    """Yield every tensor and array of numbers that calling the model can reach, as floats on the processor."""
    room, loose = _MOST_NUMBERS, dict[int, list[list[float]]]()
    for thing in reached(model):
        if isinstance(thing, np.ndarray) and thing.dtype.kind in "fiu":
            thing = torch.from_numpy(np.ascontiguousarray(thing).astype(np.float32))
        if isinstance(thing, Tensor) and thing.layout == torch.strided and not thing.is_meta:
            if thing.numel() >= _SMALLEST and not thing.is_complex() and (room := room - thing.numel()) > 0:
                yield thing.detach().cpu().float()
        elif isinstance(thing, (list, tuple)):
            values = cast("list[object]", thing)
            if len(values) >= _SMALLEST and all(type(one) in (int, float) for one in values):
                loose.setdefault(len(values), []).append([float(cast("float", one)) for one in values])
    for values in loose.values():
        yield torch.tensor(values)


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
        fits = isinstance(output, Tensor) and output.dim() >= 2 and len(output) >= len(images)
        if fits and _SMALLEST <= output[0].numel() <= _MOST_WIDTH and len(seen) < _MOST_VIEWS:
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
    rows = rows.nan_to_num(0, 0, 0).double()
    rows = rows - rows.mean(1, keepdim=True)
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
