"""Wrappers that make any attack adaptive, and the context in which a victim is attacked.

Every wrapper is a classifier again, so an attack never knows that it differentiates one. All of them pass
`contracts.RowBound` on to what they wrap.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from functools import partial
from inspect import ismethod
from types import CellType
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from memory_defense.contracts import Classifier, Images, Logits, RowBound, Rows

TensorMap = Callable[[Tensor], Tensor]
_Model = TypeVar("_Model")


def rows_of(model: _Model, index: Rows) -> _Model:
    """Return `model` restricted to these rows of its batch, or `model` itself if rows mean nothing to it."""
    if isinstance(model, RowBound):
        return cast("_Model", model.rows(index))
    return model


def modules_of(model: object) -> Iterator[nn.Module]:
    """Yield every `nn.Module` that calling `model` can reach, each once.

    Looks into modules, callable and dataclass objects, bound methods, partials, closures, sequences and
    mappings. A module that a function finds through a global name is out of sight.
    """
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
        yield from getattr(thing, "__dict__", {}).values()
        yield from (getattr(thing, name, None) for name in getattr(type(thing), "__slots__", ()))
        yield from (_content(cell) for cell in getattr(thing, "__closure__", None) or ())


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
    flags = [module.training for module in modules]
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


def _set_modes(modules: list[nn.Module], flags: list[bool]) -> None:
    for module, training in zip(modules, flags, strict=True):
        if module.training != training:
            module.train(training)
    for module, training in zip(modules, flags, strict=True):
        module.training = training


class _Replace(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, carrier: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        del ctx, carrier
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        del ctx
        return None, gradient


def replace_value(value: Tensor, carrier: Tensor) -> Tensor:
    """Return exactly `value`; the gradient that arrives is handed to `carrier`, of the same shape.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if value.shape != carrier.shape:
        raise ValueError(
            f"the forward value has shape {tuple(value.shape)} and its differentiable stand-in "
            f"{tuple(carrier.shape)}; they must agree"
        )
    return cast("Tensor", _Replace.apply(value.detach(), carrier))


@dataclass(frozen=True)
class Bpda:
    """Backward pass differentiable approximation (Athalye, Carlini & Wagner 2018).

    The value is `forward`'s, bit for bit; the gradient is `backward`'s at the same input. Without a gradient
    to compute, `backward` is not run.

    Parameters
    ----------
    forward
        What the defense really computes: a classifier, or one stage of it.
    backward
        A differentiable stand-in with the same output shape.
    """

    forward: TensorMap
    backward: TensorMap

    def __call__(self, images: Tensor) -> Tensor:
        """Return the value of `forward` carrying the gradient of `backward`."""
        if not (torch.is_grad_enabled() and images.requires_grad):
            return self.forward(images)
        with torch.no_grad():
            value = self.forward(images)
        return replace_value(value, self.backward(images))

    def rows(self, index: Rows) -> Bpda:
        """Return the same pair for these rows."""
        return Bpda(rows_of(self.forward, index), rows_of(self.backward, index))


def _same(images: Tensor) -> Tensor:
    return images.view_as(images)


def StraightThrough(forward: TensorMap) -> Bpda:  # noqa: N802 - reads as the wrapper it makes
    """Return `Bpda` with the identity on the way back (Bengio et al. 2013), for maps of images to images."""
    return Bpda(forward, _same)


@dataclass(frozen=True)
class Eot:
    """Expectation over transformation (Athalye et al. 2018) for a classifier that draws at every call.

    Parameters
    ----------
    model
        A classifier whose randomness is its own.
    samples
        Forward passes that are averaged, at least 1. Memory of a backward pass grows with it.
    average
        ``logits``: the mean of the logits, whose scale margin losses see. ``probabilities``: the log of the
        mean softmax, the likelihood under the mixture, in which one confident draw cannot outvote the others.

    Raises
    ------
    ValueError
        For fewer than 1 sample or an unknown average.
    """

    model: Classifier
    samples: int
    average: Literal["logits", "probabilities"] = "logits"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}, but an expectation needs at least 1")
        if self.average not in ("logits", "probabilities"):
            raise ValueError(f"average is {self.average!r}, expected 'logits' or 'probabilities'")

    def __call__(self, images: Images) -> Logits:
        """Return the averaged logits (B, K)."""
        draws = torch.stack([self.model(images) for _ in range(self.samples)])  # (S, B, K)
        if self.average == "logits":
            return draws.mean(0)
        return draws.log_softmax(2).logsumexp(0) - torch.tensor(float(self.samples)).log().to(draws)

    def rows(self, index: Rows) -> Eot:
        """Return the same expectation for these rows."""
        return Eot(rows_of(self.model, index), self.samples, self.average)


@dataclass
class Passes:
    """Images sent through a classifier."""

    forward: int = 0
    backward: int = 0


@dataclass(frozen=True)
class CountingPasses:
    """Count the images that go forward and backward through a classifier.

    Parameters
    ----------
    model
        The classifier to count for; its answers are untouched.
    passes
        Where to count; every restriction made by `rows` counts in the same place.
    """

    model: Classifier
    passes: Passes = field(default_factory=Passes)

    def __call__(self, images: Images) -> Logits:
        """Return the logits, counting these images once, and once more when a gradient comes back."""
        logits = self.model(images)
        count = len(images)
        self.passes.forward += count
        if logits.requires_grad:
            logits.register_hook(partial(self._backward, count))
        return logits

    def _backward(self, count: int, gradient: Tensor) -> None:
        del gradient
        self.passes.backward += count

    def rows(self, index: Rows) -> CountingPasses:
        """Return the classifier for these rows, counting in the same place."""
        return CountingPasses(rows_of(self.model, index), self.passes)
