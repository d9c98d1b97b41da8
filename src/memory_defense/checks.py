"""Checks of images, labels and numbers: every message names the value, the limit and the remedy.

A remedy is an expression of the caller's own names, so that it can be copied: ``use images.float() / 255``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memory_defense.contracts import Images, Labels
from memory_defense.names import check_path, nearest, shown
from memory_defense.pixels import Pixels

__all__ = [
    "NoGradientError",
    "check_at_least",
    "check_class_count",
    "check_images",
    "check_labels",
    "check_path",
    "nearest",
    "real_number",
    "shown",
    "vouched",
    "vouched_for",
    "whole_number",
]

_ROUNDING = 1e-6
_LOOKED_AT = 64
"""Images whose values are looked at together, where not all are floats at once."""
_OVERSHOOT = (-0.3, 1.3)
"""Bicubic and Lanczos resizing go beyond [0, 1] so far at most, on both sides; subtracting a mean moves to one."""
_LITTLE = -0.05
"""On one side alone they go so far."""


class NoGradientError(ValueError):
    """A gradient attack met a model whose logits do not depend on the images differentiably."""


_vouching: ContextVar[bool] = ContextVar("vouching", default=False)


@contextmanager
def vouched(known: bool) -> Generator[None]:
    """Run a block whose images and labels are known to be good, as in all steps of training but the first.

    On an accelerator nobody looks at their values then, for whom it would have to be waited; shapes and types are
    checked as ever.
    """
    token = _vouching.set(known)
    try:
        yield
    finally:
        _vouching.reset(token)


def vouched_for(values: Tensor) -> bool:
    """Return whether somebody has vouched for these values, and a look at them would be a wait."""
    return _vouching.get() and values.device.type != "cpu"


def check_images(
    images: Images, *, channels: int | None = None, size: int | None = None, called: str = "images"
) -> None:
    """Raise ValueError unless these are non-empty float32 images (B, C, H, W) in [0, 1].

    Parameters
    ----------
    images
        What to check.
    channels, size
        Expected C and expected H = W; None leaves them free.
    called
        Expression that gives this tensor in the caller's words; remedies build on it.
    """
    _check_tensor(images, called, "images", "float32 (B, C, H, W) in [0, 1]")
    if images.dim() != 4:
        hint = f"; {_missing_axis(images, called)}" if images.dim() == 3 else ""
        if images.dim() == 2:
            hint = f"; give channels, height and width back with {called}.reshape(-1, C, H, W)"
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (B, C, H, W){hint}")
    if images.numel() == 0:
        if images.shape[0] == 0:
            raise ValueError("there are no images: the batch axis has length 0; give at least 1")
        raise ValueError(f"images have shape {tuple(images.shape)}, so no pixels; give at least 1 of each axis")
    if images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3) and images.shape[1] > images.shape[-1]:
        raise ValueError(
            f"images have shape {tuple(images.shape)}, channels last? "
            f"use {called}.permute(0, 3, 1, 2){_to_pixels(images)}"
        )
    if channels is not None and images.shape[1] != channels:
        raise ValueError(f"images have {images.shape[1]} channels, the model takes {channels}")
    if size is not None and tuple(images.shape[2:]) != (size, size):
        raise ValueError(f"images are {tuple(images.shape[2:])} pixels, the model takes ({size}, {size})")
    if images.dtype == torch.uint8:
        raise ValueError(f"images are uint8 in [0, 255], expected float32 in [0, 1]; use {called}.float() / 255")
    if images.dtype != torch.float32:
        raise ValueError(f"images are {images.dtype}, expected torch.float32; use {called}{_to_pixels(images)}")
    if vouched_for(images):
        return
    low, high = _span(images.detach())
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int((~torch.isfinite(images)).sum())
        raise ValueError(
            f"{bad} pixels are NaN or infinite; remove or repair those images: with "
            f"keep = {called}.isfinite().flatten(1).all(1), the others are {called}[keep]"
        )
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(
            f"images span [{low:.4g}, {high:.4g}], expected [0, 1]; {_range_remedy(low, high, called)}"
        )


def _span(images: Images) -> tuple[float, float]:
    """Return the smallest and the largest value, NaN where there is one; images kept as levels go part by part."""
    parts = torch.split(images, _LOOKED_AT) if isinstance(images, Pixels) else (images,)
    ends = torch.stack([torch.stack(torch.aminmax(part)) for part in parts])  # (parts, 2)
    low, high = cast("list[float]", torch.stack([ends[:, 0].min(), ends[:, 1].max()]).tolist())
    return low, high


def _check_tensor(given: object, called: str, what: str, expected: str) -> None:
    """Raise ValueError unless this is a dense tensor with values."""
    if not isinstance(given, Tensor):
        maker = {"ndarray": "from_numpy", "list": "tensor", "tuple": "tensor"}.get(type(given).__name__)
        remedy = "" if maker is None else f"; use torch.{maker}({called})"
        raise ValueError(f"{what} are {_kind(given)}, expected a tensor, {expected}{remedy}")
    if given.is_meta:
        raise ValueError(f"{what} are on the meta device, which holds no values; make them on a real one, as cpu")
    if given.is_quantized:
        raise ValueError(f"{what} are quantized ({given.dtype}), expected {expected}; use {called}.dequantize()")
    if given.is_nested:
        raise ValueError(
            f"{what} are a nested tensor, expected a dense one, {expected}; use {called}.to_padded_tensor(0)"
        )
    if given.layout != torch.strided:
        raise ValueError(f"{what} are {given.layout}, expected dense ones, {expected}; use {called}.to_dense()")


def _kind(given: object) -> str:
    """Return what something is, with the article that a sentence needs."""
    if given is None:
        return "None"
    return f"a {type(given).__name__}"


def _missing_axis(images: Tensor, called: str) -> str:
    if images.shape[-1] in (1, 3) and images.shape[0] not in (1, 3):
        return f"one image with channels last? use {called}.permute(2, 0, 1).unsqueeze(0){_to_pixels(images)}"
    more = _to_pixels(images)
    return (
        f"add the missing axis with {called}.unsqueeze(1){more} (grey) or {called}.unsqueeze(0){more} (one image)"
    )


def _to_pixels(images: Tensor) -> str:
    """Return what has to be written after images for float32 in [0, 1], as far as that can be told."""
    if images.is_complex():
        return ".real.float()"
    if images.dtype == torch.uint8:
        return ".float() / 255"
    cast_ = "" if images.dtype == torch.float32 else ".float()"
    low, high = (float(bound) for bound in torch.aminmax(images.detach().float()))
    return f"{cast_} / 255" if low >= 0 and 2 < high <= 255 else cast_


def _range_remedy(low: float, high: float, called: str) -> str:
    if low >= 0 and high <= 255 and high > 2:
        return f"they look like grey levels: use x / 255 ({called} / 255)"
    beyond_both = _OVERSHOOT[0] < low < 0 and 1 < high < _OVERSHOOT[1]
    if beyond_both or (_LITTLE < low < 0 and high <= 1):
        return f"as bicubic resizing leaves them? use {called}.clamp(0, 1)"
    if low < 0:
        return "they look normalised: undo it (x * std + mean) and make normalisation the model's first layer"
    return f"clip or rescale them to [0, 1], as by {called}.clamp(0, 1)"


def check_labels(labels: Labels, count: int, classes: int | None = None, *, called: str = "labels") -> None:
    """Raise ValueError unless labels are (count,) int64 in [0, classes).

    Parameters
    ----------
    labels
        What to check.
    count
        Number of images.
    classes
        K; None leaves it free.
    called
        Expression that gives this tensor in the caller's words; remedies build on it.
    """
    _check_tensor(labels, called, "labels", "int64 (B,)")
    if labels.dim() != 1 or labels.shape[0] != count:
        raise ValueError(_wrong_shape(labels, count, called))
    if labels.is_complex():
        raise ValueError(f"labels are {labels.dtype}, expected torch.int64; use {called}.real.long()")
    if labels.is_floating_point():
        _check_whole(labels)
    if labels.dtype != torch.int64:
        raise ValueError(f"labels are {labels.dtype}, expected torch.int64; use {called}.long()")
    if count == 0:
        raise ValueError("there are no labels: the batch axis has length 0; give one for each image")
    if vouched_for(labels):
        return
    low, high = cast("list[int]", torch.stack(torch.aminmax(labels)).tolist())
    limit = "" if classes is None else f" and below {classes}, the number of classes"
    if low < 0 or (classes is not None and high >= classes):
        span = high - low
        shift = classes is not None and low > 0 and span < classes
        hint = f"they count from {low}? use {called} - {low}" if shift else "number them as the model's answers are"
        raise ValueError(f"labels span {low}..{high}, expected at least 0{limit}; {hint}")


def _wrong_shape(labels: Tensor, count: int, called: str) -> str:
    """Return the message for labels that are not (count,); only (B, K) with K above 1 is called one-hot."""
    shape = tuple(labels.shape)
    said = f"labels have shape {shape}"
    if labels.dim() == 2 and shape[0] == count and _one_hot(labels):
        plain = ".long()" if labels.dtype == torch.bool else ""
        return f"{said}: one-hot? expected (B,); use {called}{plain}.argmax(1)"
    whole = "" if labels.dtype == torch.int64 else ".long()"
    if labels.dim() == 2 and shape[0] == 1:
        return f"{said}, a row: expected (B,); use {called}.squeeze(0){whole}"
    if labels.dim() == 2 and shape[1] == 1:
        return f"{said}, a column: expected (B,); use {called}.squeeze(1){whole}"
    if labels.dim() == 2 and shape[0] == count:
        return f"{said}, expected ({count},), one for each image; choose the column of classes, as {called}[:, 0]"
    if labels.dim() > 1 and labels.numel() == count:
        return f"{said}, expected ({count},), one for each image; use {called}.reshape(-1)"
    return f"{said}, expected ({count},), one for each image; give as many labels as images"


def _one_hot(labels: Tensor) -> bool:
    """Whether every row marks classes by shares that sum to 1, of more than one class."""
    if labels.shape[1] < 2 or labels.is_complex():
        return False
    rows = labels.float()
    return bool((rows >= 0).all() and ((rows.sum(1) - 1).abs() < 1e-3).all())


def _check_whole(labels: Tensor) -> None:
    """Raise ValueError for floats that are no class numbers, which a conversion would round away."""
    broken = labels[labels != labels.round()]
    if len(broken):
        raise ValueError(
            f"labels are {labels.dtype} and not whole, such as {float(broken[0]):.4g}, expected class numbers, "
            "torch.int64; give for each image the number of its class"
        )


def check_class_count(classes: int, called: str = "the model") -> None:
    """Raise ValueError for a model, `called` so, that answers with fewer than 2 logits for each image."""
    if classes < 2:
        raise ValueError(
            f"{called} answers with {classes} logit for each image, but a class is the largest of at least 2; "
            "if its sign decides between two classes, let z = z.reshape(-1, 1) be that logit and answer with "
            "torch.cat([torch.zeros_like(z), z], 1), whose softmax is the sigmoid"
        )


def check_at_least(least: float, **values: float | None) -> None:
    """Raise ValueError for the first of these named values that is below `least` or NaN; None passes."""
    for name, value in values.items():
        if value is not None and not value >= least:
            raise ValueError(f"{name} is {value}, but it must be at least {least:g}")


def whole_number(value: object, name: str, like: int = 1) -> int:
    """Return an integer of Python, numpy or torch as Python's.

    Raises ValueError for anything else, truth values and whole floats included; the message gives `like` as an
    example.
    """
    if not _is_truth(value):
        try:
            return operator.index(cast("Any", value))
        except (TypeError, RuntimeError, ValueError):  # what torch raises for tensors that are no integer scalars
            pass
    raise ValueError(f"{name} is {shown(value)}, expected a whole number, such as {like}")


def real_number(value: object) -> float | None:
    """Return a number of Python, numpy or torch as Python's; None for what is none, truth values included.

    A number of less than double precision counts as the shortest decimal that it stands for: ``np.float32(0.1)``
    is 0.1, and not 0.10000000149.
    """
    if _is_truth(value):
        return None
    if isinstance(value, Tensor):
        return _of_tensor(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return _of_array(np.asarray(cast("Any", value)))
    if isinstance(value, int):
        return int(value)
    return float(value) if isinstance(value, (float, Fraction, Decimal)) else None


def _of_tensor(value: Tensor) -> float | None:
    if value.dim() or value.is_complex() or value.is_meta or value.is_quantized:
        return None
    number = value.item()
    return _shortest(number, value.dtype) if isinstance(number, float) else number


def _of_array(value: NDArray[Any]) -> float | None:
    if value.ndim or value.dtype.kind not in "iuf":
        return None
    if value.dtype.kind == "f" and value.dtype.itemsize < 8:
        return _shortest(float(value), torch.float16 if value.dtype.itemsize == 2 else torch.float32)
    return float(value) if value.dtype.kind == "f" else int(value)


def _is_truth(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.dtype == torch.bool
    return isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", "") == "b"


def _shortest(number: float, dtype: torch.dtype) -> float:
    """Return the shortest decimal that this precision rounds to `number`."""
    if dtype == torch.float64 or not math.isfinite(number):
        return number
    for digits in range(1, 10):
        candidate = float(f"{number:.{digits}g}")
        if float(torch.tensor(candidate, dtype=dtype, device="cpu")) == number:
            return candidate
    return number
