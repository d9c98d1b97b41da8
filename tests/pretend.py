"""A made-up accelerator, for tests of placement on machines without one.

Its tensors hold ordinary ones and compute with them, but say that they are elsewhere. An operation on tensors of
both places raises what CUDA raises, a view as a numpy array does too, and whatever would make the processor wait is
counted with the line of the package that asked: numbers and truth values read off a tensor, copies back, and
operations whose results have a shape that depends on values.

What it cannot know: time, memory, layouts, and what the branches for ``cuda`` alone do. torch looks for
accelerators once, before its first gradient, so this is imported first (`accelerator/test_accelerator.py`).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

NAME = "pretend"
ATEN = torch.ops.aten

INDEXING = {
    ATEN.index.Tensor,
    ATEN.index_put.default,
    ATEN.index_put_.default,
    ATEN._index_put_impl_.default,
    ATEN._unsafe_index.Tensor,
}
"""Indices may lie on the processor; CUDA then copies them over first."""

COPIES = {ATEN.copy_.default, ATEN.copy.default, ATEN._to_copy.default}
"""Between the places, as it should be."""

WAITS = {
    ATEN._local_scalar_dense.default,
    ATEN.equal.default,
    ATEN.nonzero.default,
    ATEN.masked_select.default,
    ATEN.bincount.default,
    ATEN._unique2.default,
    ATEN.repeat_interleave.Tensor,
}
"""The result, or its shape, is wanted on the processor at once."""


@dataclass
class Ledger:
    """What happened on the accelerator."""

    waits: Counter[str] = field(default_factory=Counter)
    """Times that the processor waited, by the place in the package and the operation."""
    uploads: Counter[str] = field(default_factory=Counter)
    """Index tensors that lay on the processor and were copied over, by place."""
    launches: int = 0
    """Operations."""

    def told(self) -> str:
        """Return the waits, most first, for a failed test."""
        return "\n".join(f"{count:6d}  {place}" for place, count in self.waits.most_common(20))


_ledger = Ledger()


class _Backend(backend_registration._DummyBackendModule):
    """What torch asks a backend's module for: there is one accelerator, without random numbers of its own."""

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: object, device: object = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class There(Tensor):
    """A tensor on the accelerator; `inner` is the ordinary one with its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"There({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, object]) -> Tensor:
        copied: Tensor = There(self.inner.detach().clone())
        if isinstance(self, nn.Parameter):
            copied = nn.Parameter(copied, self.requires_grad)
        else:
            copied.requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return copied

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_listed(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_listed(index), value)

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy; copy it to host memory first")

    def tolist(self) -> Any:
        _waited("tolist")
        return self.inner.tolist()


class _Everywhere(TorchDispatchMode):
    """Sends to the accelerator what names it or holds one of its tensors; the rest runs as ever."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_there(kwargs.get("device")) or any(isinstance(one, There) for one in _tensors(args, kwargs)):
            return _computed(func, args, kwargs)
        return func(*args, **kwargs)


def _listed(index: Any) -> Any:
    """Return positions in a list as the tensor that torch makes of them, on the processor."""
    return torch.tensor(index, dtype=torch.int64) if isinstance(index, list) else index


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _tensors(args: Any, kwargs: Any) -> list[Tensor]:
    return [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]


def _place() -> str:
    """Return the line of the package that is at work."""
    frame = sys._getframe(1)
    while frame is not None:
        _, found, file = frame.f_code.co_filename.partition("/memory_defense/")
        if found:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "a test"


def _waited(what: object) -> None:
    _ledger.waits[f"{_place()} {what}"] += 1


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Return what an operation gives there, or raise what CUDA raises."""
    tensors = _tensors(args, kwargs)
    ours = any(isinstance(one, There) for one in tensors)
    device = kwargs.get("device")
    leaves = ours and device is not None and not _is_there(device)
    if ours:
        _ledger.launches += 1
        if func not in COPIES:
            _check_place(func, args, tensors)
        if func in WAITS or leaves or (func in INDEXING and _selects(func, args)):
            _waited(func)
        if func is ATEN.copy_.default and not isinstance(args[0], There):
            _waited(func)
    elif not _is_there(device):
        raise AssertionError(func)
    inner = {**kwargs, "device": torch.device("cpu")} if _is_there(device) else kwargs
    found = func(*tree_map(_opened, args), **tree_map(_opened, inner))
    if func is ATEN.copy_.default:
        return args[0]
    if leaves:
        return found
    wrapped = tree_map(lambda one: There(one) if isinstance(one, Tensor) else one, found)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if ours else wrapped


def _opened(one: Any) -> Any:
    return one.inner if isinstance(one, There) else one


def _check_place(func: Any, args: Any, tensors: Sequence[Tensor]) -> None:
    """Raise RuntimeError for tensors of two places; a number without dimensions may come from the processor."""
    strangers = [one for one in tensors if not isinstance(one, There) and one.dim() > 0]
    if not strangers:
        return
    if func in INDEXING and isinstance(args[0], There):
        values = args[2] if len(args) > 2 and isinstance(args[2], Tensor) else None
        if values is None or isinstance(values, There) or values.dim() == 0:
            _ledger.uploads[_place()] += 1
            return
    if func in INDEXING:
        raise RuntimeError(
            f"indices should be either on cpu or on the same device as the indexed tensor (cpu), at {_place()}"
        )
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! "
        f"({func} at {_place()})"
    )


def _selects(func: Any, args: Any) -> bool:
    """Whether a truth value decides for each row; a single number put there is written without asking how many."""
    masks = [one for one in args[1] if isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8)]
    single = func not in (ATEN.index.Tensor, ATEN._unsafe_index.Tensor) and args[2].numel() == 1
    return bool(masks) and not single


backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())


@contextmanager
def accelerator() -> Generator[tuple[torch.device, Ledger]]:
    """Run a block in which there is an accelerator; yield it, and what happens there."""
    global _ledger  # noqa: PLW0603
    made = torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        """Copy what was made on the processor, as torch does by itself for a device that it knows."""
        return made(data, **options).to(device) if _is_there(device) else made(data, device=device, **options)

    _ledger = Ledger()
    with mock.patch.object(torch, "tensor", tensor), _Everywhere():
        yield torch.device(NAME, 0), _ledger
