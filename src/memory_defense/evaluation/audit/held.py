"""The check that compares what a model holds with the images that it is judged on.

What it holds is every tensor, array and list of numbers that calling it can reach, and what it unpacks on the way
to an answer; the images are looked for as they are, smaller, in grey, and as the model's layers, matrices and steps
see them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from memory_defense.contracts import Images
from memory_defense.evaluation.audit.findings import Check, Findings, above
from memory_defense.evaluation.record import AuditLine
from memory_defense.passes import regular
from memory_defense.wrappers import modules_of
from memory_defense.wrappers.untouched import reached

_T = TypeVar("_T")

_HELD = 0.1
"""Share of the images that a model may hold by coincidence."""

_SMALLEST = 16
"""Numbers of a view of an image below which two of them are alike by coincidence."""

_ALIKE = ((64, 0.999), (_SMALLEST, 0.99999))
"""Cosine, means taken away, above which a row is an image, for views of at least so many numbers."""

_MOST_NUMBERS = 1 << 26
_MOST_WIDTH = 1 << 16
_MOST_VIEWS = 64
_MOST_UNPACKED = 1 << 22


def holds_no_judged_image(findings: Findings) -> AuditLine:
    """Whatever a model needs for an answer, it is not the images that it is asked about."""
    images, _ = findings.probe
    return above(
        "the model holds none of the images judged",
        held_by(findings.defense, images),
        _HELD,
        "share of the images that lie among the tensors, arrays and lists that calling the model can reach: as "
        "they are, smaller, in grey, or as the model's own layers and matrices see them",
        "take them away; a model that is judged on images that it holds is not judged",
    )


@torch.no_grad()
def held_by(model: object, images: Images) -> float:
    """Return the share of images (N, C, H, W) that the model holds, as they are or as it sees them.

    It is shown black images before it is searched, as it may keep what it computed last; what it makes of them
    that is no answer to them counts as held. Whoever looks for the nearest image makes a view of it on the way.
    """
    answer, black = regular(cast("nn.Module", model)), torch.zeros_like(images)
    _, unpacked = _steps(lambda: answer(black), _unpacked)
    held = [*_numbers(model), *unpacked]

    def wanted(made: Tensor) -> bool:
        return len(made) == len(images) and any(_fits(one, made) for one in held)

    seen, made = _steps(lambda: list(_seen_by_layers(model, images)), wanted)
    _, always = _steps(lambda: answer(black), wanted)  # a matrix with as many rows as there are images, say
    made = [one for one in made if not any(torch.equal(one, other) for other in always)]
    matrices = [one for one in held if one.dim() == 2 and images[0].numel() in one.shape][:_MOST_VIEWS]
    views = [*_views(images), *seen, *_seen_by_matrices(matrices, images)]
    found = torch.zeros(len(images), dtype=torch.bool)
    # What is the same for all images, such as places in them, is no view of one.
    for view, most in [*((one, len(images)) for one in views), *((one.flatten(1), 2) for one in made)]:
        for one in held:
            if _fits(one, view):
                found |= _among(view, one.reshape(-1, view.shape[1]), most)
    return float(found.float().mean())


def _fits(held: Tensor, view: Tensor) -> bool:
    width = view[0].numel()
    wide = _SMALLEST <= width <= _MOST_WIDTH and held.numel() % width == 0
    return wide and (held.dim() < 2 or held.shape[-1] <= width)


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


class _Steps(TorchDispatchMode):
    """Keeps what operations make, as far as it is wanted."""

    def __init__(self, wanted: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.wanted, self.seen = wanted, list[Tensor]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.layout == torch.strided and made.dim() > 1 and self.wanted(made):
            self.seen.append(made.detach().cpu().float())
        return made


def _steps(run: Callable[[], _T], wanted: Callable[[Tensor], bool]) -> tuple[_T, list[Tensor]]:
    """Return what this returns, and of what its operations make the first `_MOST_VIEWS` that are wanted."""
    steps = _Steps(lambda made: len(steps.seen) < _MOST_VIEWS and wanted(made))
    try:
        with steps:
            return run(), steps.seen
    except Exception:  # what was compiled may not be looked into
        return run(), []


def _unpacked(made: Tensor) -> bool:
    """Whether an operation on equal images made rows that differ: it was made of what the model holds."""
    return len(made) > 1 and _SMALLEST <= made.numel() <= _MOST_UNPACKED and not torch.equal(made[0], made[-1])


def _seen_by_matrices(matrices: list[Tensor], images: Images) -> Iterator[Tensor]:
    """Yield the images through every matrix that takes an image: projections, first layers."""
    flat = images.detach().cpu().float().flatten(1)
    for one in matrices:
        for matrix in (one, one.T):
            if matrix.shape[0] == flat.shape[1] and _SMALLEST <= matrix.shape[1] < flat.shape[1]:
                yield flat @ matrix


def _among(view: Tensor, rows: Tensor, most: int) -> Tensor:
    """Return (N,) bool: the image's view, as of `most` images, is a row, up to brightness and contrast."""
    least = next(cosine for width, cosine in _ALIKE if view.shape[1] >= width)
    mine, found = _directions(view), torch.zeros(len(view), dtype=torch.bool)
    for part in torch.split(rows, 8192):
        close = mine @ _directions(part).T > least
        found |= (close & (close.sum(0) <= most)).any(1)
    return found


def _directions(rows: Tensor) -> Tensor:
    found = torch.nan_to_num(rows.double(), 0, 0, 0)
    found -= found.mean(1, keepdim=True)
    return found / found.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)


HELD_CHECKS: dict[str, Check] = {"held": holds_no_judged_image}
"""The check of what the model holds."""
