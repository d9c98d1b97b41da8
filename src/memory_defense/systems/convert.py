"""Weights that torch pickled, as a safetensors file: read as weights only, so that nothing in them runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from memory_defense.files import check_tensor_file, is_pickle
from memory_defense.tensorfiles import read_tensors, write_tensors

NESTS = ("state_dict", "model_state_dict", "model", "net", "ema_state_dict")
"""Entries of a checkpoint that hold its weights; the first that is there is taken."""
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and DistributedDataParallel, and torch.compile, put before every name."""
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Weights as a model's own ``state_dict()`` has them."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]
    """What was peeled off and what was left out, a line each."""


def convert(source: Path, out: Path, *, keep: bool = False) -> Converted:
    """Write the weights of a checkpoint as a safetensors file, and return what they are.

    Parameters
    ----------
    source
        A file of ``torch.save`` (``.pth``, ``.pt``, ``.bin``, ``.ckpt``), read with ``weights_only=True``; or a
        safetensors file, for its prefixes.
    out
        The ``.safetensors`` file.
    keep
        Leave every name as it is.

    Raises
    ------
    ValueError
        For a file that is none of these, holds more than weights, or no tensor at all. Nothing is then written.
    """
    check_tensor_file(source)
    found = peeled(_read(source), keep=keep)
    if not found.tensors:
        raise ValueError(
            f"{source} holds no tensor ({_listed(found.notes) or 'it is empty'}); save model.state_dict() with "
            "torch.save"
        )
    write_tensors(out, {name: one.detach().clone() for name, one in found.tensors.items()}, {"format": "pt"})
    return found


def peeled(content: object, *, keep: bool = False) -> Converted:
    """Return the weights in what a checkpoint holds, without what was put around them.

    Parameters
    ----------
    content
        A state dict, or a mapping that has one under a name in `NESTS`.
    keep
        Leave every name as it is.
    """
    notes: list[str] = []
    while isinstance(content, Mapping):
        held = cast("Mapping[Any, Any]", content)
        nest = next((one for one in NESTS if isinstance(held.get(one), Mapping)), None)
        if nest is None or any(isinstance(one, Tensor) for one in held.values()):
            break
        others = [str(name) for name in held if name != nest]
        notes.append(f"the weights are those of {nest!r}" + (f"; left out: {_listed(others)}" if others else ""))
        content = held[nest]
    if not isinstance(content, Mapping):
        return Converted(tensors={}, notes=(*notes, f"a {type(content).__name__}"))
    state = cast("Mapping[Any, Any]", content)
    tensors = {str(name): one for name, one in state.items() if isinstance(one, Tensor)}
    rest = [str(name) for name, one in state.items() if not isinstance(one, Tensor)]
    if rest:
        notes.append(f"left out, since it is not a tensor: {_listed(rest)}")
    while not keep and (prefix := next((one for one in PREFIXES if _every(tensors, one)), None)):
        tensors = {name.removeprefix(prefix): one for name, one in tensors.items()}
        notes.append(f"{prefix!r} is taken off every name")
    return Converted(tensors=tensors, notes=tuple(notes))


def _every(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return bool(tensors) and all(name.startswith(prefix) and name != prefix for name in tensors)


def _read(source: Path) -> object:
    if not is_pickle(source):
        return read_tensors(source)[0]
    try:
        return cast("object", torch.load(source, map_location="cpu", weights_only=True))
    except Exception as error:  # what torch raises for damaged files, scripts and others has many types
        if type(error).__name__ != "UnpicklingError":
            said = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{source} is not a checkpoint that torch {torch.__version__} reads as weights only "
                f"({type(error).__name__}: {said}); save model.state_dict() with torch.save, or a "
                "whole program with torch.export.save"
            ) from error
        named = str(error).partition("GLOBAL ")[2].split(" ")[0] or "more than weights"
        raise ValueError(
            f"{source} holds {named}, which would run code when it is read, so it is not; where you trust it, save "
            "its weights alone in the program that made it: torch.save(model.state_dict(), FILE)"
        ) from error


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN)
