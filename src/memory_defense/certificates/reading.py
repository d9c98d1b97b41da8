"""From the modules of a network to the steps that bounds follow.

A module is read as what its class in `torch.nn` computes, if its forward is that class's own, or as what it
publishes of itself: `published.Layered`, `published.Branching`, `published.ChannelAffine`. What a class publishes
counts for its own forward alone; a subclass that computes something else has to say so, and is refused otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from memory_defense.certificates.activations import Largest, Rectifier
from memory_defense.certificates.affine import (
    Average,
    BatchNormalisation,
    Channels,
    Convolution,
    Dense,
    Flattening,
    Moments,
)
from memory_defense.certificates.published import Branching, ChannelAffine, Layered
from memory_defense.certificates.steps import Branches, Step

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def steps_of(model: nn.Module, moments: Moments | None = None) -> list[Step]:
    """Return the steps of a network, in order, made anew for one pass.

    Parameters
    ----------
    model
        A module of `SUPPORTED`, a `Sequential` of them, or one that publishes what it consists of.
    moments
        How batch normalisation in train mode finds the mean and the variance of a batch; without it, it is refused.

    Raises
    ------
    ValueError
        For a module that has no interval bounds here, or one in a mode or setting that has none.
    """
    return list(_steps(model, moments, ""))


def _steps(module: nn.Module, moments: Moments | None, path: str) -> Iterator[Step]:
    module = getattr(module, "_orig_mod", module)  # of a translation by torch.compile the network itself
    called = f"{type(module).__name__}{f' ({path})' if path else ''}"
    if any(getattr(module, name, None) for name in _HOOKS) or "forward" in vars(module):
        raise ValueError(
            f"{called} has forward hooks or a forward of its own instance, which may change what it computes; "
            "remove them before it is certified"
        )
    if isinstance(module, Layered) and _publishes(module, "layers"):
        for number, layer in enumerate(module.layers()):
            yield from _steps(layer, moments, f"{path}.{number}".strip("."))
    elif isinstance(module, Branching) and _publishes(module, "branches"):
        parts = enumerate(module.branches())
        yield Branches([list(_steps(part, moments, f"{path}.{number}".strip("."))) for number, part in parts])
    elif isinstance(module, ChannelAffine) and _publishes(module, "affine"):
        yield Channels(*module.affine())
    elif isinstance(module, nn.Sequential) and _computes_as(module, nn.Sequential):
        for name, layer in module.named_children():
            yield from _steps(layer, moments, f"{path}.{name}".strip("."))
    else:
        reader = next((read for kind, read in SUPPORTED.items() if _computes_as(module, kind)), None)
        if reader is None:
            raise ValueError(
                f"{called} has no interval bounds; build the network of {_supported()}, or let its class publish "
                "what it computes as layers(), branches() or affine(), see memory_defense.certificates.published"
            )
        yield from reader(module, moments)


def _supported() -> str:
    return ", ".join(kind.__name__ for kind in (*SUPPORTED, nn.Sequential))


def _publishes(module: nn.Module, name: str) -> bool:
    """Return whether `name` was defined where the forward was, or for it, further down."""
    order = type(module).__mro__
    places = [
        next((place for place, one in enumerate(order) if key in vars(one)), None) for key in (name, "forward")
    ]
    published, forward = places
    return published is not None and (forward is None or published <= forward)


def _computes_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether the module is one of this class, with the forward of this class."""
    own = getattr(type(module), "stands_for", type(module))  # as several processes train it
    return issubclass(own, kind) and own.forward is kind.forward and own.__call__ is nn.Module.__call__


def _refused(module: nn.Module, what: str, remedy: str) -> ValueError:
    return ValueError(f"{type(module).__name__} {what}, for which there are no interval bounds; {remedy}")


def _dense(module: nn.Linear, moments: Moments | None) -> Sequence[Step]:
    del moments
    return [Dense(module)]


def _convolution(module: nn.Conv2d, moments: Moments | None) -> Sequence[Step]:
    del moments
    if module.padding_mode != "zeros":
        raise _refused(module, f"pads with {module.padding_mode!r}", "use padding_mode='zeros'")
    return [Convolution(module)]


def _relu(module: nn.ReLU, moments: Moments | None) -> Sequence[Step]:
    del module, moments
    return [Rectifier()]


def _leaky(module: nn.LeakyReLU, moments: Moments | None) -> Sequence[Step]:
    del moments
    if not 0 <= module.negative_slope <= 1:
        raise _refused(module, f"has a slope of {module.negative_slope}", "use a negative_slope in [0, 1]")
    return [Rectifier(module.negative_slope)]


def _average(module: nn.AvgPool2d, moments: Moments | None) -> Sequence[Step]:
    del moments
    divisor = module.divisor_override
    if divisor is not None and divisor < 0:
        raise _refused(module, f"divides by {divisor}", "use a positive divisor_override")
    height, width = _pair(module.kernel_size)
    return [Average(module, height * width)]


def _pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else size


def _whole_average(module: nn.AdaptiveAvgPool2d, moments: Moments | None) -> Sequence[Step]:
    del moments
    return [Average(module, None)]


def _largest(module: nn.MaxPool2d | nn.AdaptiveMaxPool2d, moments: Moments | None) -> Sequence[Step]:
    del moments
    if module.return_indices:
        raise _refused(module, "returns indices", "use return_indices=False")
    return [Largest(module)]


def _normalisation(module: nn.BatchNorm1d | nn.BatchNorm2d, moments: Moments | None) -> Sequence[Step]:
    if module.training and moments is not None:
        return [BatchNormalisation(module, moments)]
    mean, variance = module.running_mean, module.running_var
    if module.training or mean is None or variance is None:
        raise _refused(
            module,
            "normalises by the moments of a batch, so that an image's answer depends on others",
            "use track_running_stats=True, and model.eval()",
        )
    scale, shift = (variance.double() + module.eps).rsqrt(), torch.zeros_like(mean)
    if module.affine:
        scale, shift = scale * module.weight, module.bias
    moved = mean * scale
    return [Channels(scale, shift - moved, shift.abs() + moved.abs())]


def _flattening(module: nn.Flatten, moments: Moments | None) -> Sequence[Step]:
    del moments
    if module.start_dim < 1:
        raise _refused(module, f"begins at axis {module.start_dim}", "use start_dim=1, behind the batch")
    return [Flattening(module)]


def _dropout(module: nn.Dropout | nn.Dropout2d, moments: Moments | None) -> Sequence[Step]:
    del moments
    if module.training and module.p > 0:
        raise _refused(module, f"drops numbers at random (p = {module.p})", "use p=0, or model.eval()")
    return []


def _identity(module: nn.Identity, moments: Moments | None) -> Sequence[Step]:
    del module, moments
    return []


SUPPORTED: dict[type[nn.Module], Callable[[Any, Moments | None], Sequence[Step]]] = {
    nn.Linear: _dense,
    nn.Conv2d: _convolution,
    nn.ReLU: _relu,
    nn.LeakyReLU: _leaky,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: _whole_average,
    nn.MaxPool2d: _largest,
    nn.AdaptiveMaxPool2d: _largest,
    nn.BatchNorm1d: _normalisation,
    nn.BatchNorm2d: _normalisation,
    nn.Flatten: _flattening,
    nn.Dropout: _dropout,
    nn.Dropout2d: _dropout,
    nn.Identity: _identity,
}
"""The layers of torch that have bounds, and what reads each."""


def check_precision(model: nn.Module) -> None:
    """Raise ValueError for a network that does not compute in float32, whose rounding is accounted for."""
    tensors = (*model.parameters(), *model.buffers())
    other = next((one.dtype for one in tensors if one.is_floating_point() and one.dtype != torch.float32), None)
    if other is not None:
        raise ValueError(
            f"the network has weights in {other}, but a certificate accounts for the rounding of float32; "
            "convert it with model.float()"
        )
