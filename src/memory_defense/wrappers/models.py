"""The modules of a model, its restriction to rows of a batch, and the context in which it is attacked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import is_dataclass
from functools import partial
from inspect import isfunction, ismethod
from types import CellType, FunctionType
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from memory_defense.contracts import Rows

_Model = TypeVar("_Model")
_TENSORS = ("_parameters", "_buffers")
_TABLES = (dict, OrderedDict, set)


def rows_of(model: _Model, index: Rows) -> _Model:
    """Return `model` restricted to these rows of its batch, or `model` itself if rows mean nothing to it."""
    bound = getattr(model, "rows", None)  # what `RowBound` asks, without its look at every attribute
    return cast("_Model", bound(index)) if callable(bound) else model


_known: ContextVar[Mapping[int, list[nn.Module]] | None] = ContextVar("known modules", default=None)


@contextmanager
def modules_known(*models: nn.Module) -> Generator[None]:
    """Run a block in which these models keep the modules that they have, so that nobody looks for them again.

    A look takes three milliseconds for a ResNet-50, and every attack begins with one.
    """
    token = _known.set({**(_known.get() or {}), **{id(model): list(modules_of(model)) for model in models}})
    try:
        yield
    finally:
        _known.reset(token)


def modules_of(model: object) -> Iterator[nn.Module]:
    """Yield every `nn.Module` that calling `model` can reach, each once.

    Looks into modules, callable and dataclass objects, bound methods, partials, closures, sequences and
    mappings, and what a function of a script or notebook finds by a global name: a module, or another such
    function. What else is called, such as a module in a global list, is out of
    sight here; see `modules_seen`.
    """
    if isinstance(model, nn.Module) and id(model) in (known := _known.get() or {}):
        yield from known[id(model)]
        return
    seen: set[int] = set()
    pending: list[object] = [model]
    while pending:
        thing = pending.pop()
        if id(thing) in seen or isinstance(thing, (type, Tensor, str, bytes, int, float)):
            continue
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            yield thing
        pending.extend(_held_by(thing))


def _held_by(thing: object) -> Iterator[object]:
    """Yield what an object holds on to, one level down."""
    if isinstance(thing, Mapping):
        yield from cast("Mapping[object, object]", thing).values()
    elif isinstance(thing, (list, tuple)):
        yield from cast("list[object]", thing)
    elif isinstance(thing, partial):
        yield from (cast("object", thing.func), thing.args, thing.keywords)
    elif ismethod(thing):
        yield from (thing.__self__, thing.__func__)
    elif callable(thing) or is_dataclass(thing):
        held = cast("dict[str, object]", getattr(thing, "__dict__", {}))
        hidden = _TENSORS if isinstance(thing, nn.Module) else ()
        for name, one in held.items():
            if name not in hidden and not (type(one) in _TABLES and not one):  # most tables of hooks are empty
                yield one
        yield from (getattr(thing, name, None) for name in getattr(type(thing), "__slots__", ()))
        yield from (_content(cell) for cell in getattr(thing, "__closure__", None) or ())
        if isfunction(thing):
            yield from _named_by(thing)


def _named_by(function: FunctionType) -> Iterator[object]:
    """Yield what a function calls by a global name and what may hold a model: modules, functions, bound methods."""
    own = function.__globals__.get("__name__")
    for name in function.__code__.co_names:
        one: object = function.__globals__.get(name)
        wraps = not isinstance(one, type) and is_dataclass(one) and callable(one)
        here = isfunction(one) and one.__module__ == own
        bound = ismethod(one) and isinstance(one.__self__, nn.Module)
        if isinstance(one, (nn.Module, partial)) or wraps or here or bound:
            yield one


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not assigned yet
        return None


@contextmanager
def frozen(model: object) -> Generator[None]:
    """Run a block with every module of `model` in eval mode and no parameter asking for a gradient.

    Each module's training flag and each parameter's ``requires_grad`` are afterwards exactly what they were,
    also when the block raises. Inside, a backward pass reaches the images and nothing else, so ``.grad`` of
    the parameters stays untouched. Modes are switched through ``train()``, so a module may override it.
    """
    modules = list(modules_of(model))
    flags = [_mode(module) for module in modules]
    own = (parameter for module in modules for parameter in module.parameters(recurse=False))
    wanted = [parameter for parameter in own if parameter.requires_grad]
    try:
        _set_modes(modules, [False] * len(modules))
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        _set_modes(modules, flags)
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Run a block with a model in eval mode; every module's mode is afterwards what it was.

    Modules of a training model that are in eval mode stay so, such as normalisations that are not trained.
    """
    training = model.training
    resting = [module for module in model.modules() if training and not module.training]
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        for module in resting:
            module.training = False


def _mode(module: nn.Module) -> bool:
    """Return whether the module trains; a frozen script has no mode."""
    return bool(getattr(module, "training", False))


def _set_modes(modules: list[nn.Module], flags: list[bool]) -> None:
    for module, training in zip(modules, flags, strict=True):
        if _mode(module) != training:
            with suppress(NotImplementedError):  # an exported program computes in the mode it was exported in
                module.train(training)
    for module, training in zip(modules, flags, strict=True):
        if hasattr(module, "training"):
            module.training = training


def tensors_of(model: object) -> list[Tensor]:
    """Return every parameter and buffer that calling the model can reach."""
    found = {id(one): one for module in modules_of(model) for one in (*module.parameters(), *module.buffers())}
    return list(found.values())


@contextmanager
def restored(model: object) -> Generator[None]:
    """Run a block and give every parameter and buffer back the values it had before."""
    tensors = tensors_of(model)
    kept = [one.detach().clone() for one in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for one, before in zip(tensors, kept, strict=True):
                if one.layout != torch.strided or not torch.equal(one, before):
                    one.copy_(before)
