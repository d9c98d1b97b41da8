"""What a model that cannot be called, or answers something else than logits, is told, and what would mend it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from memory_defense.contracts import Images
from memory_defense.wrappers.modes import places_of, precision_of

_WRAP = "lambda images: model(images)"
_OF_TYPES = re.compile(r"dtype|scalar type|same type|Half|Double|BFloat16|torch.FloatTensor")
"""What torch says where two types do not go together."""


def check_answer(answer: object, count: int) -> None:
    """Raise ValueError unless a model's answer to `count` images is float logits (B, K)."""
    if not isinstance(answer, Tensor):
        raise ValueError(
            f"the model returned {type(answer).__name__}, expected a tensor of float logits (B, K); "
            f"{_inside(answer, count)}"
        )
    if not answer.is_floating_point():
        remedy = f"give {_WRAP}.real" if answer.is_complex() else "return the scores that the classes are chosen by"
        if not (answer.is_complex() or answer.dtype == torch.bool):
            remedy += f"; scores that are whole numbers: {_WRAP}.float()"
        raise ValueError(f"the model returned {answer.dtype}, expected a tensor of float logits (B, K); {remedy}")
    if answer.dim() != 2 or len(answer) != count:
        raise ValueError(
            f"the model returned shape {tuple(answer.shape)} for a batch of {count} images, expected logits "
            f"(B, K); {_reshaped(answer, count)}"
        )


def _fits(answer: object, count: int) -> bool:
    return isinstance(answer, Tensor) and answer.is_floating_point() and answer.dim() == 2 and len(answer) == count


def _inside(answer: object, count: int) -> str:
    """Return how to get at the logits inside an answer."""
    if isinstance(answer, Mapping):
        known = cast("Mapping[object, object]", answer)
        fitting = [key for key, one in known.items() if _fits(one, count)]
        best = "logits" if "logits" in fitting else fitting[0] if fitting else None
        if best is not None:
            return f"give {_WRAP}[{best!r}]"
    elif isinstance(answer, (tuple, list)):
        for place, one in enumerate(cast("list[object]", answer)):
            if _fits(one, count):
                return f"give {_WRAP}[{place}]"
    elif _fits(getattr(answer, "logits", None), count):
        return f"give {_WRAP}.logits"
    return "return the tensor from the model's forward"


def _reshaped(answer: Tensor, count: int) -> str:
    if answer.dim() > 2 and len(answer) == count and answer[0].numel() == max(answer.shape[1:]):
        return f"give {_WRAP}.flatten(1)"
    if answer.dim() == 1 and len(answer) == count:
        return f"one score for two classes becomes logits by {_WRAP}[:, None] * torch.tensor([-0.5, 0.5])"
    return "one row of logits for each image"


def misfit(model: object, images: Images, error: Exception) -> str | None:
    """Return what to say of a model that raised `error` when it was given these images; None if unknown."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, torch.OutOfMemoryError) or "memory" in said:
        return None
    places, precision = places_of(model), precision_of(model)
    if places and images.device not in places:
        remedy = "load its weights" if places[0].type == "meta" else f"use images.to('{places[0]}')"
        return f"the model's weights are on {places[0]}, the images on {images.device}: {said}; {remedy}"
    if precision != torch.float32 and _OF_TYPES.search(said):
        return (
            f"the model's weights are {precision}, the images {images.dtype}: {said}; use model.float(), or "
            f"wrappers.OwnPrecision(model, {precision}) to keep it as it is"
        )
    if isinstance(error, AssertionError) and "Guard failed" in said:
        return (
            f"the model does not take images {tuple(images.shape)}: exported for others ({said}); {_exported(said)}"
        )
    if "inference" in said.lower():
        return f"the model uses tensors that were made in torch.inference_mode(): {said}; make them outside of it"
    return None


def _exported(said: str) -> str:
    """Return what mends a program whose guard failed with these words."""
    place = re.search(r"size\(\)\[(\d)\]", said)
    if place is not None and place[1] != "0":
        return "give images of the size that it was exported for, or export it for these"
    return "export it with dynamic_shapes=({0: torch.export.Dim('batch')},)"
