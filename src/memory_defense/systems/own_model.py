"""Classifiers of the user: a factory in a module of the user's, and weights that cannot run code."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from memory_defense.checks import check_class_count
from memory_defense.contracts import Images
from memory_defense.names import check_classifier
from memory_defense.passes import regular
from memory_defense.randomness import generator, seeded
from memory_defense.tensorfiles import read_tensors

_NAMED = 5
"""Largest number of weights of each kind in one message."""


def build_user_model(
    place: str,
    *,
    classes: int,
    channels: int,
    size: int | tuple[int, int],
    weights: Path | str | None = None,
    arguments: Mapping[str, object] | None = None,
    seed: int = 0,
    more_outputs: bool = False,
) -> nn.Module:
    """Return a classifier of the user's own: images (B, C, H, W) in [0, 1] to logits (B, K).

    Importing a module runs the code in it, and calling the factory runs more: name only what you trust. Weights,
    in contrast, cannot run code.

    Parameters
    ----------
    place
        ``package.module:attribute``, looked up in the current directory first. The attribute is an `nn.Module`, a
        class of one, or a function that returns one. Of `classes`, `channels` and `size`, a class or a function
        is given by keyword those that its signature has; it need have none.
    classes, channels, size
        Shape of the problem: K classes, and images of C channels and H = W pixels, or (H, W) where they differ:
        then the factory is given no `size`.
    weights
        A ``.safetensors`` file of its state dict. Without it the model keeps the weights that the factory gave it.
    arguments
        What else the class or the function is given by keyword. They go before `classes`, `channels` and `size`,
        which it is then given only where its signature names them: not in its ``**options``.
    seed
        Seed of what the user's code draws; the global generators are left as they were.
    more_outputs
        Whether it may answer for more classes than it was told of.

    Returns
    -------
    On the CPU, in eval mode. Whether gradients reach its input is not checked here; the audit reports it.

    Raises
    ------
    ValueError
        If the module, the attribute or the weights are not found or do not fit, when the user's code raises
        (which is then the error's cause), or when the answer to one batch is not finite floats (B, K).
    """
    with _current_directory_first(), seeded(seed, "own model"):
        found = _find(place)
        with seeded(seed, "initialisation", "own model"):  # whether or not the import came first
            given = {"classes": classes, "channels": channels} | ({"size": size} if isinstance(size, int) else {})
            model = _call(place, found, given, arguments or {})
        model = model.to("cpu").eval()
        sides = (size, size) if isinstance(size, int) else size
        count = 3 if classes != 3 else 4
        images = torch.rand(count, channels, *sides, generator=generator(seed, "own model"))
        if weights is not None:
            if any(is_lazy(parameter) for parameter in model.parameters()):
                _answer(place, model, images)
            _load(place, model, Path(weights))
        answer = _answer(place, model, images)
        if more_outputs and isinstance(answer, Tensor) and answer.dim() == 2:
            classes = max(classes, answer.shape[1])
        _check(place, model, answer, (len(images), classes))
    return model


@contextmanager
def _current_directory_first() -> Generator[None]:
    """Import from the current directory before anything else, as ``python -m`` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if here in sys.path:  # the user's code may have changed it
            sys.path.remove(here)


@contextmanager
def _users_code(doing: str) -> Generator[None]:
    """Turn an exception of the user's code into one error that keeps it as the cause."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ValueError(f"{doing} raised {type(error).__name__}: {error}") from error


def _find(place: str) -> object:
    """Return the object that `place` names."""
    check_classifier(place)
    name, attributes = place.split(":")
    with _users_code(f"importing {name}"):
        try:
            found: object = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            found = None
    if found is None:
        raise ValueError(
            f"there is no module {name} in {Path.cwd()} or among the installed packages; "
            "start from the folder that holds it, or install it"
        )
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            public = (
                [known for known in vars(found) if not known.startswith("_")] if hasattr(found, "__dict__") else []
            )
            missing = f" (no {attribute})" if attribute != attributes else ""
            raise ValueError(f"{name} has no {attributes}{missing}; it has: {_first(public) or 'nothing public'}")
        found = getattr(found, attribute)
    return found


def _call(place: str, found: object, sizes: Mapping[str, int], arguments: Mapping[str, object]) -> nn.Module:
    """Return the module itself, or what the class or the function returns."""
    if isinstance(found, nn.Module):
        if arguments:
            raise ValueError(
                f"{place} is a module already, which takes no {', '.join(arguments)}; leave --argument out, or "
                "name the function that makes it"
            )
        return found
    if not callable(found):
        raise ValueError(f"{place} is {type(found).__name__}, expected an nn.Module, a class of one or a function")
    accepted = _accepted(place, found, sizes, arguments)
    shown = ", ".join(f"{name}={value}" for name, value in accepted.items())
    with _users_code(f"{place}({shown})"):
        model = found(**accepted)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{place}({shown}) returned {type(model).__name__}, expected an nn.Module; "
            "put a plain function into the forward of one"
        )
    return model


def _accepted(
    place: str, factory: Callable[..., Any], sizes: Mapping[str, int], arguments: Mapping[str, object]
) -> dict[str, object]:
    """Return the arguments, and those of `sizes` that the factory takes by keyword; refuse what it needs beyond."""
    sizes = {name: value for name, value in sizes.items() if name not in arguments}
    if isinstance(factory, type) and factory.__init__ is nn.Module.__init__:  # its **kwargs take nothing
        return dict(arguments)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some built-in callables have none
        return dict(arguments)
    if not arguments and any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(sizes)
    by_keyword = {
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in variadic
        and not (parameter.name in by_keyword and (parameter.name in sizes or parameter.name in arguments))
    ]
    if needed:
        raise ValueError(
            f"{place} needs {', '.join(needed)}, but only {', '.join(sizes)} are given, by keyword; "
            "give the others with --argument NAME=VALUE, or defaults, or write a function that sets them"
        )
    return {**{name: value for name, value in sizes.items() if name in by_keyword}, **arguments}


def _load(place: str, model: nn.Module, path: Path) -> None:
    """Load a state dict strictly; weights that the model shares under several names may be there once."""
    given, _ = read_tensors(path)
    state = model.state_dict()
    expected = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    there = {_storage(expected[name]) for name in expected.keys() & given.keys()}
    missing = [name for name in expected if name not in given and _storage(expected[name]) not in there]
    unexpected = [name for name in given if name not in expected]
    wrong = [
        f"{name} is {_shown(given[name])}, the model's is {_shown(expected[name])}"
        for name in expected
        if name in given and not _fits(given[name], expected[name])
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape or type": wrong}
    if any(faults.values()):
        text = "; ".join(f"{len(names)} {kind}: {_first(names)}" for kind, names in faults.items() if names)
        raise ValueError(f"{path} does not fit {place}: {text}; save state_dict() of the very same model")
    with _users_code(f"loading {path} into {place}"):
        model.load_state_dict(given, strict=False)


def _storage(tensor: Tensor) -> tuple[object, ...]:
    """Return what two names of one tensor have in common; empty tensors share nothing."""
    return (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else (id(tensor),)


def _fits(given: Tensor, expected: Tensor) -> bool:
    return given.shape == expected.shape and given.is_floating_point() == expected.is_floating_point()


def _shown(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _first(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMED]) + f" and {len(names) - _NAMED} more" * (len(names) > _NAMED)


def _answer(place: str, model: nn.Module, images: Tensor) -> object:
    """Return the model's answer to images; refuse a model that writes to them."""
    given = images.clone()
    with _users_code(f"{place} on images {tuple(images.shape)} in [0, 1]"):
        answer: object = model(given)
    if not torch.equal(given, images):
        raise ValueError(f"{place} writes to the images it is given; work on a copy, images.clone()")
    return answer


def _check(place: str, model: nn.Module, answer: object, expected: tuple[int, int]) -> None:
    if not isinstance(answer, Tensor):
        raise ValueError(
            f"{place} answers with {type(answer).__name__}, expected logits {expected}; return the tensor"
        )
    if expected[1] <= 2 and answer.dim() in (1, 2) and answer.numel() == expected[0]:
        check_class_count(1, place)
    if answer.shape != expected:
        raise ValueError(
            f"{place} answers with shape {tuple(answer.shape)}, expected {expected}: {expected[0]} images and "
            f"{expected[1]} classes; build it for the classes of the data, or add to the data those that the model "
            "knows beyond: an empty folder each, or their names in the 'classes' of a file of arrays"
        )
    if not answer.is_floating_point():
        raise ValueError(
            f"{place} answers with {answer.dtype}, expected float logits; return scores, not decisions"
        )
    if bad := int((~torch.isfinite(answer)).sum()):
        state = {name: one for name, one in model.state_dict().items() if isinstance(one, Tensor)}
        broken = [name for name, one in state.items() if not bool(torch.isfinite(one).all())]
        remedy = "fix its forward: it divides by 0, takes a logarithm of 0 or overflows on images in [0, 1]"
        if broken:
            remedy = f"give it weights without NaN or infinity: those of {_first(broken)} have some"
        raise ValueError(f"{place} answers with {bad} NaN or infinite logits; {remedy}")


@torch.no_grad()
def outputs_of(model: nn.Module, images: Images) -> int | None:
    """Return how many classes a model knows, by its answer to the first image; None where it gives none."""
    try:
        answer = regular(model)(images[:1])
    except ValueError:
        return None
    return answer.shape[1] if answer.dim() == 2 else None


@torch.no_grad()
def check_classes(place: str, model: nn.Module, images: Images, classes: int) -> None:
    """Raise ValueError where a model, called `place`, knows another number of classes than the data has.

    Parameters
    ----------
    place
        Its name in messages.
    model
        Asked about the first image; whatever else is wrong with its answer is for the evaluation to say.
    images
        (N, C, H, W) in [0, 1].
    classes
        Number of classes of the data.
    """
    try:
        answer = regular(model)(images[:1])
    except ValueError:
        return
    if answer.dim() == 2 and answer.shape[1] != classes:
        remedy = (
            "say by --classes FILE which of its outputs each class is, or add to the data those that it knows "
            "beyond: an empty folder each, or their names in the 'classes' of a file of arrays"
            if answer.shape[1] > classes
            else "leave out the images of the classes that it does not know"
        )
        raise ValueError(f"{place} knows {answer.shape[1]} classes, the data has {classes}; {remedy}")
