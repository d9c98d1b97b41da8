"""A module's weights in half precision, in files small enough for a repository.

A directory holds ``weights.json``, which names the files with their SHA-256 and says what every tensor is, and
``weights-1-of-n.safetensors`` up to n. A float is rounded to float16, about three decimal digits; a tensor whose
values leave float16's range stays float32, and integers stay what they are. A tensor too large for a file is cut.
`round_to_half` gives a module the very weights that come back, so that what is evaluated is what is kept.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from memory_defense.checksums import parted, sealed
from memory_defense.files import remove, write_text
from memory_defense.tensorfiles import read_tensors, write_tensors
from memory_defense.training.checkpoint import restore_weights

MANIFEST = "weights.json"
LIMIT = 16 << 20
"""Bytes in a file, at most: 16 MiB."""
_LEAST_LIMIT = 1 << 12
_HEADER, _ENTRY = 640, 160
"""Bytes that a file's header and each tensor's line in it take at most, its name left out."""


class WeightsFile(BaseModel):
    """One file of weights: name, SHA-256 and bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=r"^weights-[0-9]+-of-[0-9]+\.safetensors$")
    sha256: str
    bytes: int


class KeptTensor(BaseModel):
    """Type and shape of one tensor in the module."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dtype: str
    """Name of the torch type in the module, such as float32."""
    shape: list[int]
    pieces: int
    """Flat pieces ``name/0``, ``name/1``, ... in the files, in order."""


class HalfManifest(BaseModel):
    """Content of ``weights.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["memory-defense half weights 1"] = "memory-defense half weights 1"
    parts: list[WeightsFile]
    tensors: dict[str, KeptTensor]


def halved(tensor: Tensor) -> Tensor:
    """Return a float tensor as float16, or as float32 where a finite value would become infinite; others as is."""
    if not tensor.is_floating_point():
        return tensor
    half = tensor.to(torch.float16)
    return half if torch.equal(half.isfinite(), tensor.isfinite()) else tensor.float()


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Give a module the weights that `write_half` keeps of it, in its own precision."""
    for tensor in module.state_dict().values():
        tensor.copy_(halved(tensor))


def write_half(module: nn.Module, directory: Path, limit: int = LIMIT) -> HalfManifest:
    """Write a module's state dict in half precision and return what is there; older parts are removed.

    Parameters
    ----------
    module
        Module of any size.
    directory
        Created if needed.
    limit
        Bytes in a file, at most.

    Raises
    ------
    ValueError
        For a limit below 4096 bytes.
    """
    if limit < _LEAST_LIMIT:
        raise ValueError(f"a file of at most {limit} bytes holds next to nothing; allow at least {_LEAST_LIMIT}")
    tensors = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    files: list[dict[str, Tensor]] = [{}]
    kept: dict[str, KeptTensor] = {}
    room = limit - _HEADER
    for name, tensor in tensors.items():
        flat = halved(tensor).reshape(-1)
        most = max(1, (limit - _HEADER - _overhead(name)) // flat.element_size())
        pieces = [flat[start : start + most] for start in range(0, max(flat.numel(), 1), most)]
        kept[name] = KeptTensor(
            dtype=str(tensor.dtype).removeprefix("torch."), shape=list(tensor.shape), pieces=len(pieces)
        )
        for number, piece in enumerate(pieces):
            needed = piece.numel() * piece.element_size() + _overhead(name)
            if needed > room and files[-1]:
                files.append({})
                room = limit - _HEADER
            files[-1][f"{name}/{number}"] = piece
            room -= needed
    manifest = HalfManifest(parts=_written(files, directory, limit), tensors=kept)
    write_text(directory / MANIFEST, json.dumps(sealed(manifest.model_dump(mode="json")), indent=1) + "\n")
    for path in directory.glob("weights-*-of-*.safetensors"):
        if path.name not in {part.name for part in manifest.parts}:
            remove(path)
    return manifest


def _overhead(name: str) -> int:
    return _ENTRY + 2 * len(name.encode())


def _written(files: list[dict[str, Tensor]], directory: Path, limit: int) -> list[WeightsFile]:
    parts: list[WeightsFile] = []
    for number, tensors in enumerate(files, 1):
        path = directory / f"weights-{number}-of-{len(files)}.safetensors"
        write_tensors(path, tensors)
        content = path.read_bytes()
        assert len(content) <= limit, f"{path.name} has {len(content)} bytes"
        parts.append(WeightsFile(name=path.name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)))
    return parts


def read_half(directory: Path) -> dict[str, Tensor]:
    """Return a state dict that `write_half` wrote: every float as it was typed, with the halves' values.

    Raises
    ------
    ValueError
        If there are none, or a file is missing, damaged or not the one that was written.
    """
    manifest = _manifest(directory)
    found: dict[str, Tensor] = {}
    for part in manifest.parts:
        path = directory / part.name
        if not path.is_file():
            raise ValueError(f"{path} is missing, one of {len(manifest.parts)} files of these weights; restore it")
        if hashlib.sha256(path.read_bytes()).hexdigest() != part.sha256:
            raise ValueError(f"{path} is not what was written (another SHA-256 than {MANIFEST} says); restore it")
        found |= read_tensors(path)[0]
    try:
        return {name: _whole(name, kept, found) for name, kept in manifest.tensors.items()}
    except (AttributeError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{directory / MANIFEST} does not fit the files beside it ({error}); restore it"
        ) from error


def _manifest(directory: Path) -> HalfManifest:
    path = directory / MANIFEST
    if not path.is_file():
        raise ValueError(f"{directory} has no {MANIFEST}; give a directory that holds weights in half precision")
    text, damage = parted(path.read_bytes())
    try:
        manifest = HalfManifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path} is damaged ({first['loc']}: {first['msg']}); restore it") from error
    if damage:
        raise ValueError(f"{path} is damaged: {damage}")
    return manifest


def _whole(name: str, kept: KeptTensor, found: dict[str, Tensor]) -> Tensor:
    flat = torch.cat([found[f"{name}/{number}"] for number in range(kept.pieces)])
    dtype = getattr(torch, kept.dtype)
    if not isinstance(dtype, torch.dtype):
        raise KeyError(kept.dtype)
    return flat.to(dtype).reshape(kept.shape)


def restore_half(directory: Path, module: nn.Module) -> None:
    """Load what `write_half` wrote into a module; raise ValueError if it is another's, the module unchanged."""
    restore_weights(module, read_half(directory))
