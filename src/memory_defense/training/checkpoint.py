"""Weights and training state as safetensors."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from memory_defense.tensorfiles import read_tensors, write_tensors


def save_weights(path: Path, module: nn.Module, metadata: Mapping[str, str] | None = None) -> None:
    """Write a module's state dict."""
    write_tensors(path, module.state_dict(), metadata)


def load_weights(path: Path, module: nn.Module) -> dict[str, str]:
    """Load a state dict into `module`, strictly, and return the file's metadata.

    Raises
    ------
    ValueError
        If names or shapes differ; the first of each kind is named. The module is then unchanged.
    """
    tensors, metadata = read_tensors(path)
    expected = module.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    extra = sorted(tensors.keys() - expected.keys())
    wrong = [name for name in expected.keys() & tensors.keys() if expected[name].shape != tensors[name].shape]
    if missing or extra or wrong:
        kinds = {"missing": missing, "unexpected": extra, "of another shape": sorted(wrong)}
        faults = [f"{len(names)} {kind} (first: {names[0]})" for kind, names in kinds.items() if names]
        shapes = "".join(
            f"; {name} is {tuple(tensors[name].shape)}, the model's is {tuple(expected[name].shape)}"
            for name in sorted(wrong)[:1]
        )
        raise ValueError(
            f"{path} does not fit this model: {', '.join(faults)}{shapes}; "
            "give the file that was saved of this very model, or build the model that the file was saved of"
        )
    module.load_state_dict(tensors)
    return metadata


def pack(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Flatten named groups of tensors into one namespace: ``group/name``."""
    return {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def unpack(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """Return one group of `pack`."""
    prefix = f"{group}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's per-parameter state as tensors named ``index.field``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{field}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, fields in state.items()
        for field, value in fields.items()
        if value is not None
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `pack_optimizer` returned; hyper-parameters stay as they are now.

    Raises ValueError for state of other parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, field = name.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.dim() and tensor.shape != parameter.shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, the parameter {tuple(parameter.shape)}")
        # In the memory layout of its parameter: a kernel that updates all at once goes by that.
        laid_out = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False) if tensor.dim() else None
        state.setdefault(int(index), {})[field] = tensor if laid_out is None else laid_out.copy_(tensor)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def same_kind(tensors: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors; raise ValueError unless names, shapes and types are those expected."""
    for name in expected.keys() | tensors.keys():
        if name not in expected or name not in tensors:
            raise ValueError(f"{name} is {'unexpected' if name in tensors else 'missing'}")
        there, wanted = tensors[name], expected[name]
        if there.shape != wanted.shape or there.dtype != wanted.dtype:
            raise ValueError(f"{name} is {there.dtype} {tuple(there.shape)}")
    return tensors


def restore_weights(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load a state dict of exactly this module; raise ValueError for any other."""
    module.load_state_dict(same_kind(tensors, module.state_dict()))


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a training state and the description of its run; raise ValueError when damaged."""
    tensors, header = read_tensors(path)
    with damage(path):
        run: Any = json.loads(header["run"])
        if not isinstance(run, dict):
            raise ValueError("no description of the run")
    return tensors, cast("dict[str, Any]", run)


@contextmanager
def damage(path: Path) -> Generator[None]:
    """Turn the errors that a damaged training state leads to into one ValueError that names the file."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ValueError(f"{path} is damaged ({said}); delete it to start this stage again") from error


def fingerprint(configuration: Mapping[str, object]) -> str:
    """Return a canonical text of a configuration, to refuse a state made under another one."""
    return json.dumps(configuration, sort_keys=True, default=str)
