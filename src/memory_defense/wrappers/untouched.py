"""What a model keeps beside its weights, as it was before its first answer, and the model that never learns.

A classifier answers an image by what the image shows. One that keeps what it was asked, in an attribute, a list, a
closure, a class, a global name or a cache, is another one for every image; an evaluation asks about the clean
images first, so that it meets a defense that has already seen them. Here everything in Python that calling the
model can reach is written down, so that it can be put back. Generators of random numbers are left alone.
"""

from __future__ import annotations

import array
import ctypes
import io
import mmap
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, partial
from inspect import isfunction, ismethod
from types import CellType, CodeType, CoroutineType, FunctionType, GeneratorType, MemberDescriptorType, ModuleType
from typing import Any, Generic, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from memory_defense.contracts import Classifier, Images, Logits, Rows
from memory_defense.wrappers.models import rows_of

MOST_THINGS = 200_000
"""Objects that are looked at; a model that leads to more is written down in part."""

MOST_NUMBERS = 1 << 26
"""Numbers of tensors and arrays that are copied, over all; those beyond are not put back."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Generator)
_RUNNERS = {"pytest", "_pytest", "pluggy", "execnet", "xdist", "IPython", "ipykernel"}
_OURS = frozenset({"torch", "numpy", "memory_defense", "builtins", *sys.stdlib_module_names, *_RUNNERS})
_LIBRARIES = _OURS | {
    *("transformers", "timm", "torchvision", "huggingface_hub", "sympy", "mpmath", "scipy", "PIL", "matplotlib"),
    *("requests", "urllib3", "httpx", "anyio", "yaml", "tqdm", "foolbox", "eagerpy", "jax", "tensorflow", "onnx"),
    *("onnxruntime", "pandas", "sklearn"),
}
"""Packages whose functions, classes and names no model's author writes; what a model holds of them counts."""
_HOLDERS = frozenset({"collections", "functools", "types", "queue", "weakref", "builtins"})
"""Modules of the standard library whose objects a model may keep things in."""
_IMPORTING = frozenset({"__builtins__", "__loader__", "__spec__"})
_PROCESS = frozenset(map(id, (sys.modules, sys.meta_path, sys.path_hooks, sys.path_importer_cache)))
"""What leads to whatever runs in the process beside the model, such as a notebook or a test's runner."""

_CACHED = type(cache(len))
_DEFINED = (ModuleType, FunctionType, type)
_UNSET = object()
_FRAMES: dict[type, str] = {GeneratorType: "gi_frame", CoroutineType: "cr_frame"}
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class _Kept(Generic[_T]):
    """One thing that can change, and how it was."""

    thing: _T
    before: Any
    now: Callable[[_T], Any]
    back: Callable[[_T, Any], None]

    def changed(self) -> bool:
        """Whether the thing is not as it was; also where it cannot be looked at any more, as a closed stream."""
        try:
            return not _same(self.now(self.thing), self.before)
        except Exception:  # whatever an object may raise that is only looked at
            return True

    def put_back(self) -> None:
        """Make the thing what it was."""
        self.back(self.thing, self.before)


class Untouched:
    """Everything that calling a model can reach and change, written down when this is made.

    Parameters
    ----------
    model
        A module, a function, or any other object that is called.
    """

    def __init__(self, model: object) -> None:
        self._kept: list[_Kept[Any]] = []
        room = MOST_NUMBERS
        for thing in reached(model):
            for one in _readable(_noted(thing, room)):
                room -= one.before.numel() if isinstance(one.before, Tensor) else 0
                self._kept.append(one)

    def changed(self) -> int:
        """Return how many things are not as they were: containers, attributes of an object, tensors."""
        return sum(one.changed() for one in self._kept)

    def put_back(self) -> None:
        """Make everything what it was."""
        for one in self._kept:
            if one.changed():
                with suppress(Exception):  # some things do not let themselves be set
                    one.put_back()


@dataclass(frozen=True)
class Forgetful:
    """A classifier that answers every batch as if it had never been asked before.

    Parameters
    ----------
    model
        The classifier.
    untouched
        What it was like before its first answer.
    """

    model: Classifier
    untouched: Untouched = field(repr=False)

    def __call__(self, images: Images) -> Logits:
        """Return the logits (B, K) of the untouched model."""
        self.untouched.put_back()
        return self.model(images)

    def rows(self, index: Rows) -> Forgetful:
        """Return the classifier for these rows."""
        return Forgetful(rows_of(self.model, index), self.untouched)


def reached(model: object) -> Iterator[object]:
    """Yield every object that calling the model may lead to, each once."""
    seen: dict[int, object] = {}
    pending: list[object] = [model]
    while pending and len(seen) < MOST_THINGS:
        thing = pending.pop()
        if (
            id(thing) in seen
            or isinstance(thing, Untouched)
            or id(thing) in _PROCESS
            or (isinstance(thing, _PLAIN) and not _own_class(thing))
        ):
            continue
        seen[id(thing)] = thing  # held, so that no other object gets its id meanwhile
        yield thing
        pending.extend(_readable(_held(thing)))


def _readable(found: Iterator[_T]) -> Iterator[_T]:
    """Yield what is found until an object does not let itself be looked at, as a pool of connections does not."""
    with suppress(Exception):
        yield from found


def _own_class(thing: object) -> bool:
    return isinstance(thing, type) and not _library(thing.__module__)


def _library(module: object) -> bool:
    return not isinstance(module, str) or module.partition(".")[0] in _LIBRARIES


def _held(given: object) -> Iterator[object]:
    """Yield what an object holds on to, one level down."""
    if isinstance(given, (Tensor, np.ndarray)):
        yield from (_table_of(cast("Any", given)) or {}).values()
        return
    if isinstance(given, ModuleType):
        held = [one for name, one in list(vars(given).items()) if name not in _IMPORTING]
        yield from held if not _library(given.__name__) else filter(_container, held)
    elif isinstance(given, _LibraryClass):
        yield from filter(_container, vars(given.owner).values())
    elif isinstance(given, type):
        yield from (*vars(given).values(), *given.__bases__)
    else:
        yield from _held_by_what_is_called(given)
        yield from _held_inside(given)


def _container(thing: object) -> bool:
    return type(thing) in (dict, list, set)


def _held_inside(given: Any) -> list[object]:
    if isinstance(given, (dict, MutableMapping)):
        return list(cast("Any", given).values())
    return list(cast("Any", given)) if isinstance(given, (list, tuple, set, frozenset, deque)) else []


def _held_by_what_is_called(given: Any) -> Iterator[object]:
    if isinstance(given, CellType):
        yield _content(given)
    elif isinstance(given, partial):
        whole = cast("Any", given)
        yield from (whole.func, whole.args, whole.keywords)
    elif ismethod(given):
        yield from (given.__self__, given.__func__)
    elif isinstance(given, (staticmethod, classmethod)):
        yield cast("Any", given).__func__
    elif isinstance(given, property):
        yield from (given.fget, given.fset)
    elif isfunction(given):
        yield from _of_function(given)
    elif type(given) in _FRAMES:
        yield from _locals_of(given).values()
    elif isinstance(given, ContextVar):
        yield given.get(None)
    elif isinstance(given, _CACHED):
        yield cast("Any", given).__wrapped__
    elif _opened(given):
        yield from _attributes_held(given)


def _attributes_held(given: Any) -> Iterator[object]:
    yield type(given)
    for name, one in list((_table_of(given) or {}).items()):
        # A table of hooks belongs to whoever calls the model as well, so only what is in it counts.
        yield from list(cast("Any", one).values()) if "hooks" in name and isinstance(one, dict) else (one,)
    yield from (_slot(name, given) for name in _slots(given))


def _opened(thing: object) -> bool:
    """Whether what an object keeps is its author's: not so for locks, loggers and the insides of libraries."""
    root = type(thing).__module__.partition(".")[0]
    return (
        isinstance(thing, (nn.Module, threading.local))
        or root in _HOLDERS
        or root == "memory_defense"
        or root not in _OURS
    )


def _slots(thing: object) -> list[str]:
    found: list[str] = []
    for one in type(thing).__mro__:
        if not _library(one.__module__):
            named = vars(one).get("__slots__", ())
            names = [named] if isinstance(named, str) else list(named)
            found += [name for name in names if isinstance(vars(one).get(name), MemberDescriptorType)]
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def _of_function(function: FunctionType) -> Iterator[object]:
    yield from function.__closure__ or ()
    if _library(function.__module__):
        return
    yield from (function.__defaults__, function.__kwdefaults__, function.__dict__)
    names = _names(function.__code__)
    found: list[object] = [function.__globals__.get(name) for name in names]
    yield from found
    yield from _in_libraries(found, names)


class _LibraryClass(NamedTuple):
    """A class of a library that a model's code names, and may write to."""

    owner: type


def _in_libraries(found: list[object], names: set[str]) -> Iterator[object]:
    """Yield what code may reach of libraries that it names by names of theirs, as ``torch.nn.functional`` does."""
    pending, seen = [one for one in found if isinstance(one, _DEFINED)], set[int]()
    while pending:
        owner: Any = pending.pop()
        module = isinstance(owner, ModuleType)
        home = owner.__name__ if module else owner.__module__
        if id(owner) in seen or not _library(home) or str(home).startswith("memory_defense"):
            continue
        seen.add(id(owner))
        yield owner if module else _LibraryClass(owner) if isinstance(owner, type) else owner.__dict__
        inside = [one for name, one in list(vars(owner).items()) if name in names]
        pending += [one for one in inside if isinstance(one, _DEFINED)]
        yield from (one for one in inside if not isinstance(one, _DEFINED))


def _names(code: CodeType) -> set[str]:
    """Return every global name that a function, or one inside it, asks for; no test runner's own."""
    inner = (one for one in code.co_consts if isinstance(one, CodeType))
    return {one for one in code.co_names if one.isidentifier()}.union(*map(_names, inner))


def _noted(given: object, room: int) -> Iterator[_Kept[Any]]:
    """Yield what there is of an object that can change."""
    thing: Any = given
    if isinstance(given, Tensor):
        if given.layout == torch.strided and not given.is_meta and given.numel() <= room:
            yield _Kept(given, given.detach().clone(), _detached, _copied)
        if (table := _table_of(given)) is not None:
            yield _Kept(table, dict(table), dict, _table_back)
        return
    if isinstance(given, (type, _LibraryClass)):
        owner = given if isinstance(given, type) else given.owner
        yield _Kept(owner, _data_of(owner), _data_of, _attributes_back)
        return
    if isinstance(given, ModuleType):
        yield _Kept(thing.__dict__, _data_in(thing.__dict__), _data_in, _table_back)
        return
    if _opened(given):
        if (table := _table_of(given)) is not None:
            yield _Kept(table, _attributes(table), _attributes, _table_back)
        for name in _slots(given):
            yield _Kept(thing, _slot(name, given), partial(_slot, name), partial(_slot_back, name))
    yield from _noted_content(given)


def _noted_content(given: object) -> Iterator[_Kept[Any]]:
    thing: Any = given
    if isinstance(given, np.ndarray):
        if thing.dtype != object:
            yield _Kept(thing, thing.copy(), lambda one: one, _filled)
    elif isinstance(given, (array.array, ctypes.Array, mmap.mmap)):
        yield _Kept(thing, bytes(thing), bytes, _bytes_back)
    elif isinstance(given, CellType):
        yield _Kept(given, _content(given), _content, _refilled)
    elif type(given) in _FRAMES:
        yield _Kept(thing, _locals_of(thing), _locals_of, _locals_back)
    elif isinstance(given, ContextVar):
        yield _Kept(thing, thing.get(None), lambda one: one.get(None), lambda one, before: one.set(before))
    elif isinstance(given, _CACHED):
        yield _Kept(thing, thing.cache_info().currsize, lambda one: one.cache_info().currsize, _cleared)
    elif isinstance(given, (io.BytesIO, io.StringIO)):
        yield _Kept(thing, thing.getvalue(), lambda one: one.getvalue(), _rewritten)
    elif isinstance(given, (dict, MutableMapping)):
        yield _Kept(thing, dict(thing), dict, _table_back)
    elif isinstance(given, (list, deque, bytearray)):
        yield _Kept(thing, list(thing), list, _list_back)
    elif isinstance(given, set):
        yield _Kept(thing, set(thing), set, _set_back)
    elif isfunction(given) and not _library(given.__module__):
        own = partial(_globals_of, sorted(_names(given.__code__)))
        yield _Kept(given.__globals__, own(given.__globals__), own, _globals_back)


def _same(one: Any, other: Any) -> bool:
    """Return whether two copies hold the same things: the same objects, or equal plain values."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.shape == other.shape and torch.equal(one, other))
    if one is other or type(one) is not type(other):
        return one is other
    if isinstance(one, np.ndarray):
        return np.array_equal(cast("Any", one), other)
    if isinstance(one, dict):
        mine = cast("dict[Any, Any]", one)
        return all(_marks(name, mine.get(name, other.get(name))) for name in mine.keys() ^ other.keys()) and all(
            _alike(value, other.get(name, value)) for name, value in mine.items()
        )
    if isinstance(one, list):
        mine = cast("list[Any]", one)
        return len(mine) == len(other) and all(map(_alike, mine, other))
    return _alike(one, other) or (isinstance(one, set) and bool(one == other))


def _marks(name: object, one: object) -> bool:
    """Whether this is what torch notes at a function that is not to be compiled, which is nothing that is kept."""
    named = isinstance(name, str) and name.startswith(("__dynamo", "_torchdynamo"))
    return named and (isinstance(one, bool) or (isfunction(one) and one.__module__.startswith("torch.")))


def _alike(one: object, other: object) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, _PLAIN) and one == other)


def _detached(tensor: Tensor) -> Tensor:
    return tensor.detach()


def _copied(tensor: Tensor, before: Tensor) -> None:
    with torch.no_grad():
        if tensor.shape == before.shape:
            tensor.copy_(before)
        else:
            tensor.data = before.clone()


def _filled(array: Any, before: Any) -> None:
    array[...] = before


def _bytes_back(thing: Any, before: bytes) -> None:
    with memoryview(thing) as raw, raw.cast("B") as inside:
        inside[:] = before


def _content(cell: CellType) -> object:
    with suppress(ValueError):  # a name that is not assigned yet
        return cell.cell_contents
    return _UNSET


def _refilled(cell: CellType, before: object) -> None:
    if before is _UNSET:
        del cell.cell_contents
    else:
        cell.cell_contents = before


def _locals_of(running: Any) -> dict[str, Any]:
    """Return the names of a generator or coroutine that waits for more; none of one that has ended."""
    frame = getattr(running, _FRAMES[type(running)])
    return dict(frame.f_locals) if frame else {}


def _locals_back(running: Any, before: dict[str, Any]) -> None:
    frame = getattr(running, _FRAMES[type(running)])
    names = frame.f_locals  # from Python 3.13 on the frame's own, and none is taken away
    if sys.version_info < (3, 13):
        names.clear()
    names.update(before)
    if sys.version_info < (3, 13):
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(1))


def _data_of(owner: type) -> dict[str, object]:
    """Return a class's own data: attributes that are no functions and no names of Python's own."""
    return {name: one for name, one in vars(owner).items() if not (isfunction(one) or name.startswith("__"))}


def _data_in(module: dict[str, object]) -> dict[str, object]:
    """Return a module's own data: what is imported on first use, a function or a class is not."""
    return {name: one for name, one in module.items() if not issubclass(type(one), _DEFINED)}


def _attributes_back(owner: type, before: dict[str, object]) -> None:
    for name in _data_of(owner).keys() - before.keys():
        delattr(owner, name)
    for name, one in before.items():
        if vars(owner).get(name, _UNSET) is not one:
            setattr(owner, name, one)


def _attributes(table: dict[str, object]) -> dict[str, object]:
    """Return an object's attributes without what belongs to whoever calls it: its mode and its hooks."""
    return {name: one for name, one in table.items() if name != "training"}


def _table_back(table: Any, before: dict[Any, Any]) -> None:
    for name in [one for one in table if one not in before and one != "training"]:
        if not issubclass(type(table[name]), _DEFINED):
            del table[name]
    for name, one in before.items():
        if name not in table or table[name] is not one:
            table[name] = one


def _list_back(row: Any, before: list[Any]) -> None:
    row.clear()
    row.extend(before)


def _set_back(found: Any, before: set[Any]) -> None:
    found.clear()
    found.update(before)


def _rewritten(stream: Any, before: Any) -> None:
    stream.seek(0)
    stream.truncate()
    stream.write(before)


def _cleared(cached: Any, before: int) -> None:
    del before
    cached.cache_clear()


def _globals_of(names: list[str], table: dict[str, Any]) -> dict[str, Any]:
    return {name: table[name] for name in names if name in table}


def _globals_back(table: dict[str, Any], before: dict[str, Any]) -> None:
    table.update(before)


def _slot(name: str, thing: object) -> object:
    try:
        return getattr(thing, name, _UNSET)
    except Exception:  # whatever an object may raise that is only looked at
        return _UNSET


def _table_of(thing: object) -> dict[str, Any] | None:
    """Return an object's attributes, the very dictionary; None where it has none, or is not to be asked."""
    try:
        found = cast("Any", thing).__dict__
    except Exception:  # whatever an object may raise that is only looked at
        return None
    return cast("dict[str, Any]", found) if type(found) is dict else None


def _slot_back(name: str, thing: object, before: object) -> None:
    if before is _UNSET:
        delattr(thing, name)
    else:
        object.__setattr__(thing, name, before)
