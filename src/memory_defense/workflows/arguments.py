"""What a caller hands to `memory_defense.evaluate`, made into what the house computes with, or refused at once.

Taken is what means the same: numpy for torch, another precision of pixels, another integer type of labels, another
device. Refused is what has to be guessed, by one message that says what came and what to write: grey levels, other
orders of axes, one-hot labels, texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from memory_defense.checks import check_images, check_labels, real_number, shown
from memory_defense.contracts import Images, Labels
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.pixels import Pictures, Pixels, check_pictures
from memory_defense.names import NORMS, nearest
from memory_defense.progress import PrintedProgress
from memory_defense.wrappers import modules_of, places_of

ImagesLike: TypeAlias = "Images | NDArray[Any] | Sequence[Tensor] | Sequence[NDArray[Any]]"
"""Images (N, C, H, W) in [0, 1]: a tensor or an array of any float type, or a list of N of (C, H, W)."""

LabelsLike: TypeAlias = "Labels | NDArray[Any] | Sequence[int]"
"""Labels (N,): integers of any type in a tensor, an array or a list."""

Radii: TypeAlias = "float | Iterable[float] | Tensor | NDArray[Any] | np.number[Any]"
"""One radius or several: numbers of Python, numpy or torch."""


def radii(epsilon: object) -> list[float]:
    """Return the radii as numbers, in the caller's order.

    A number of less than double precision counts as the decimal that it is written as: ``np.float32(0.1)`` is 0.1.

    Raises
    ------
    ValueError
        For anything but one number or several; whether a ball has such a radius is for `threat` to say.
    """
    one = real_number(epsilon)
    if one is not None:
        return [one]
    said = f"epsilon is {shown(epsilon)}, expected one radius or several, such as 8 / 255"
    if isinstance(epsilon, (str, bytes)):
        raise ValueError(f"{said}; a number, not a text")
    axes = cast("Tensor", epsilon).ndim if _a(epsilon, Tensor, np.ndarray) else 1
    if axes > 1:
        shape = tuple(cast("Tensor", epsilon).shape)
        raise ValueError(f"epsilon has shape {shape}, expected (E,); use epsilon.reshape(-1)")
    if axes == 0 or _a(epsilon, Mapping) or not _a(epsilon, Iterable):
        raise ValueError(said)
    given = list(cast("Iterable[object]", epsilon))
    found = [real_number(value) for value in given]
    if not found:
        raise ValueError(said)
    for place, (value, number) in enumerate(zip(given, found, strict=True)):
        if number is None:
            raise ValueError(f"{said}; what is at place {place} is not a number: {shown(value)}")
    return cast("list[float]", found)


def _a(value: object, *kinds: type) -> bool:
    """Whether a value is one of these, without a type checker's guess at what is in it."""
    return isinstance(value, kinds)


def checked_norm(norm: object) -> str:
    """Return the norm; raise ValueError for anything but a name of one."""
    if isinstance(norm, str) and norm in NORMS:
        return norm
    close = (
        str(norm).strip().lower().replace("_", "").replace("-", "") if isinstance(norm, (str, int, float)) else ""
    )
    guess = {"2": "l2", "2.0": "l2", "inf": "linf", "l∞": "linf", "linfinity": "linf"}.get(close, close)
    hint = f"; did you mean {guess!r}?" if guess in NORMS else ""
    raise ValueError(f"unknown norm {shown(norm)}{hint or ';'} known: {', '.join(NORMS)}")


def paired(images: object, labels: object) -> tuple[object, object, str]:
    """Return images, labels, and a line for the record; without labels, those that the images bring along.

    Raises what `loaders.unpaired` raises.
    """
    if labels is not None:
        return images, labels, ""
    from memory_defense.workflows.loaders import unpaired  # few callers need it

    return unpaired(images)


def pictures_of(images: object) -> Pictures:
    """Return what `images_of` does; images by reference are checked, and stay where they are."""
    if not isinstance(images, Pixels):
        return images_of(images)
    check_pictures(images)
    return images


def images_of(images: object) -> Images:
    """Return images (N, C, H, W), float32 in [0, 1]: themselves if they are such a tensor, else a conversion.

    Raises
    ------
    ValueError
        For anything that would have to be guessed, with what to write.
    """
    found, called = _tensor(images, "images", "float32 (N, C, H, W) in [0, 1]")
    floats = found.dtype in (torch.float64, torch.float16, torch.bfloat16)
    dense = found.layout == torch.strided and not found.is_meta and not found.is_quantized
    plain = found.float() if floats and dense and found.dim() == 4 else found
    check_images(plain, called=called)
    if any(stride == 0 and length > 1 for stride, length in zip(plain.stride(), plain.shape, strict=True)):
        plain = plain.contiguous()  # an expanded image is one in memory
    return plain


def labels_of(labels: object, images: Pictures) -> Labels:
    """Return labels (N,) int64 on the device of the images.

    Raises
    ------
    ValueError
        For anything but one whole number for each image, with what to write.
    """
    found, called = _tensor(labels, "labels", "whole numbers (N,)")
    integers = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    if integers and found.layout == torch.strided and not found.is_meta and not found.is_quantized:
        found = found.to(torch.int64)
    check_labels(found, len(images), called=called)
    return found.to(images.device)


def _tensor(given: object, name: str, expected: str) -> tuple[Tensor, str]:
    """Return what was given as a plain tensor, and the expression of the caller's words that gives it."""
    if isinstance(given, Tensor):
        plain = given.detach()
        plain = plain if type(plain) is Tensor else plain.as_subclass(Tensor)
        return (plain.clone() if plain.is_inference() and not torch.is_inference_mode_enabled() else plain), name
    if _a(given, list, tuple) and given:
        return _stacked(cast("Sequence[object]", given), name, expected)
    if isinstance(given, range):
        return torch.tensor(list(given)), f"torch.tensor({name})"
    if _is_array(given):
        array = cast("NDArray[Any]", np.asanyarray(cast("Any", given)))
        called = name if _a(given, np.ndarray) else f"numpy.asarray({name})"
        return _from_array(array, called, name, expected)
    raise ValueError(
        f"{name} are {_came(given)}, expected a tensor or an array, {expected}; {_gather(given, name)}"
    )


def _is_array(given: object) -> bool:
    """Whether numpy reads this as numbers: its arrays, and what other libraries call arrays, tables and images."""
    ours = any(hasattr(given, one) for one in ("__array__", "__array_interface__"))
    return ours and not isinstance(given, type)


def _stacked(given: Sequence[object], name: str, expected: str) -> tuple[Tensor, str]:
    if all(isinstance(one, Tensor) for one in given):
        tensors = cast("Sequence[Tensor]", given)
        if len({one.shape for one in tensors}) == len({one.dtype for one in tensors}) == 1:
            return torch.stack([one.detach().as_subclass(Tensor) for one in tensors]), f"torch.stack({name})"
        sizes = sorted({tuple(one.shape) for one in tensors})[:2]
        raise ValueError(
            f"{name} are a list of tensors that differ in shape or type, such as {sizes}, expected {expected}; "
            "bring them to one size first"
        )
    if any(isinstance(one, (str, bytes)) for one in given):
        raise ValueError(_texts(given, name, expected))
    try:
        array = np.stack([np.asarray(cast("Any", one)) for one in given])
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{name} are a {type(given).__name__} of {type(given[0]).__name__}s that make no array ({error}), "
            f"expected {expected}; bring them to one size first"
        ) from error
    return _from_array(array, f"numpy.stack([numpy.asarray(one) for one in {name}])", name, expected)


def _from_array(array: NDArray[Any], called: str, name: str, expected: str) -> tuple[Tensor, str]:
    if np.ma.isMaskedArray(array):
        if np.ma.is_masked(array):
            raise ValueError(f"{name} are masked in places, expected {expected}; give {called}.filled(0), say")
        array = np.asarray(array)
    kind = array.dtype.kind
    if kind not in "biufc":
        said = _texts(array.reshape(-1)[:1], name, expected) if kind in "US" else ""
        kind_of = "int64" if name == "labels" else "float32"
        inside = array.dtype == object and array.size > 0 and isinstance(array.reshape(-1)[0], (np.ndarray, Tensor))
        remedy = f"numpy.stack(list({called}))" if inside else f"{called}.astype({kind_of!r})"
        raise ValueError(said or f"{name} are an array of {array.dtype}, expected {expected}; use {remedy}")
    if kind == "f" and array.dtype.itemsize not in (2, 4, 8):
        array, called = array.astype(np.float64), f"{called}.astype('float64')"
    native = array.dtype.newbyteorder("=")
    if array.dtype != native:
        array, called = array.astype(native), f"{called}.astype({native.name!r})"
    backward = any(stride < 0 for stride in array.strides)
    called = f"{called}.copy()" if backward else called
    array = np.array(array, order="C", copy=True) if backward or not array.flags.writeable else array
    return torch.from_numpy(np.ascontiguousarray(array)), f"torch.from_numpy({called})"


def _texts(given: Any, name: str, expected: str) -> str:
    return (
        f"{name} are texts, such as {str(given[0])!r}, expected {expected}; number them as the model counts its "
        f"classes: [classes.index(one) for one in {name}]"
    )


def _came(given: object) -> str:
    if given is None:
        return "None"
    return f"an empty {type(given).__name__}" if _a(given, list, tuple) else f"a {type(given).__name__}"


def _gather(given: object, name: str) -> str:
    """Return how to get tensors out of something else."""
    if _a(given, torch.utils.data.DataLoader, torch.utils.data.Dataset):
        said = "leave the labels out where it has pairs (images, labels) of its own, or give its images as a tensor"
    elif isinstance(given, (str, Path)):
        said = (
            f"read the file first: data = memory_defense.data.own.load_images({name}), then "
            "data.images.floats() and data.images.labels"
        )
    elif hasattr(given, "floats") and hasattr(given, "labels"):
        said = f"give {name}.floats() and {name}.labels"
    elif hasattr(getattr(given, "images", None), "floats"):
        said = f"give {name}.images.floats() and {name}.images.labels"
    elif _a(given, Mapping):
        said = f"give one of its values: {name}[key]"
    elif name == "labels":
        said = "give the number of each image's class, such as torch.tensor([0, 2, 1])"
    else:
        said = "torch.stack(list_of_images) makes one of equal images (C, H, W)"
    return said


def check_model(model: object) -> None:
    """Raise ValueError for what is no model: a file's name, a class, a state dict, a module without values."""
    if isinstance(model, type):
        raise ValueError(f"model is the class {model.__name__}, expected a model; make one: {model.__name__}()")
    if isinstance(model, (str, Path)):
        raise ValueError(
            f"model is the text {str(model)!r}, expected a module or a function of images; a run or an exported "
            "file is read by memory_defense.load"
        )
    if _a(model, Mapping):
        raise ValueError(
            f"model is a {type(model).__name__}, expected a module or a function of images; if these are weights, "
            "build the module they belong to and call its load_state_dict"
        )
    if not callable(model):
        raise ValueError(f"model is {shown(model)}, expected a module or a function of images (B, C, H, W)")
    if isinstance(model, nn.Module) and any(is_lazy(one) for one in model.parameters()):
        raise ValueError("model has lazy parameters without values; call it once, as by model(images[:1])")
    scripts = [one for one in modules_of(model) if isinstance(one, torch.jit.ScriptModule)]
    if any(weight.is_inference() for one in scripts for weight in one.parameters()):
        raise ValueError(
            "the model is scripted and was made in torch.inference_mode(), so nothing can be differentiated "
            "through it; take copy.deepcopy(model), outside of that mode"
        )
    if any(place.type == "meta" for place in places_of(model)):
        raise ValueError(
            "the model's weights are on the meta device, which holds no values; give them some: "
            "model.to_empty(device='cpu'), then model.load_state_dict(...)"
        )


def options_of(options: object, also: Mapping[str, object] | None = None) -> Options:
    """Return the options, those of `Options()` for None, with others of a call's own keywords in their place.

    Parameters
    ----------
    options
        `Options`, or None.
    also
        Fields of `Options` by name; ``progress`` may be True, which prints.

    Raises
    ------
    ValueError
        For options that are no `Options`, and for a keyword or a value that there is not.
    """
    if options is not None and not isinstance(options, Options):
        remedy = "write Options(**options)" if _a(options, Mapping) else "write Options(seed=0), say"
        raise ValueError(f"options is {shown(options)}, expected memory_defense.Options; {remedy}")
    given = dict(also or {})
    known = [one.name for one in fields(Options)]
    for name in given:
        if name not in known:
            raise nearest(name, known, "option")
    if isinstance(given.get("progress"), bool):
        given["progress"] = PrintedProgress() if given["progress"] else None
    return replace(options or Options(), **cast("dict[str, Any]", given))
