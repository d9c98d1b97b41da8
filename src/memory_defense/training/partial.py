"""Which parameters of a network are trained: all of them, the last layers', or those of some names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import cast

from torch import nn


def layers_of(model: nn.Module) -> list[list[str]]:
    """Return the names of the parameters of each layer, in the order in which modules are registered.

    A layer is a module that holds parameters itself, such as a convolution or a normalisation.
    """
    found: list[list[str]] = []
    for prefix, module in _modules(model):
        names = [name for name, _ in module.named_parameters(prefix=prefix, recurse=False)]
        if names:
            found.append(names)
    return found


def chosen(model: nn.Module, last: int | None = None, only: Sequence[str] = ()) -> set[str]:
    """Return the names of the parameters that are trained.

    Parameters
    ----------
    model
        Whose names, as `named_parameters` has them, are meant.
    last
        Only so many layers, from the end (`layers_of`); None all of them.
    only
        Patterns of names, with ``*`` and ``?``, such as ``head.*``: what one of them matches is trained, and
        nothing else. None of them means no limit.

    Raises
    ------
    ValueError
        For more layers than there are, or a pattern that no name matches.
    """
    layers, names = layers_of(model), [name for name, _ in model.named_parameters()]
    if last is not None and last > len(layers):
        raise ValueError(f"the last {last} layers are to be trained, but there are {len(layers)}; ask for fewer")
    kept = names if last is None else [name for layer in layers[-last:] for name in layer]
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"no parameter's name is like {pattern!r}; the last of them is {names[-1]}, so write "
                f"'{names[-1].rpartition('.')[0] or names[-1]}*', say"
            )
    return {name for name in kept if not only or any(fnmatchcase(name, pattern) for pattern in only)}


def train_only(model: nn.Module, names: set[str]) -> list[nn.Module]:
    """Have only these parameters ask for gradients, and return the modules that are to stay in eval mode.

    Those are the layers of which nothing is trained: the running statistics of a frozen normalisation stay, too.

    Raises
    ------
    ValueError
        Where nothing is left to train.
    """
    resting: list[nn.Module] = []
    for prefix, module in _modules(model):
        own = list(module.named_parameters(prefix=prefix, recurse=False))
        for name, parameter in own:
            parameter.requires_grad_(parameter.requires_grad and name in names)
        if own and not any(parameter.requires_grad for _, parameter in own):
            resting.append(module)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "no parameter is left to train: those of the last layers and those of the names have none in common; "
            "leave one of both out"
        )
    return resting


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
