"""The modes of torch that a caller may be in, and models in another precision than float32.

A caller may stand in inference mode, under autocast, or with another default type or device. What is computed here
must not depend on it, while the model goes on to find what its author had in mind.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from memory_defense.contracts import Classifier, Images, Logits, Rows
from memory_defense.wrappers.models import modules_of, rows_of, tensors_of


@dataclass(frozen=True)
class OwnPrecision:
    """A classifier that computes in another precision than float32: images go in as it takes them.

    Parameters
    ----------
    model
        The classifier, in double, half or bfloat16.
    dtype
        What images are converted to; their gradient comes back in float32.
    """

    model: Classifier
    dtype: torch.dtype

    def __call__(self, images: Images) -> Logits:
        """Return the logits (B, K): in double as they are, from a lower precision in float32."""
        logits = cast("object", self.model(images.to(self.dtype)))
        low = isinstance(logits, Tensor) and logits.dtype in (torch.float16, torch.bfloat16)
        return cast("Logits", logits.float() if low and isinstance(logits, Tensor) else logits)

    def rows(self, index: Rows) -> OwnPrecision:
        """Return the same for these rows."""
        return OwnPrecision(rows_of(self.model, index), self.dtype)


@dataclass(frozen=True)
class UnderDefaults:
    """A classifier that makes its own tensors with these defaults of torch, whatever the ones around a call.

    Parameters
    ----------
    model
        The classifier.
    dtype, device
        As `torch.set_default_dtype` and `torch.set_default_device` had them.
    """

    model: Classifier
    dtype: torch.dtype
    device: torch.device

    def __call__(self, images: Images) -> Logits:
        """Return the logits (B, K)."""
        with defaults(self.dtype, self.device):
            return self.model(images)

    def rows(self, index: Rows) -> UnderDefaults:
        """Return the same for these rows."""
        return UnderDefaults(rows_of(self.model, index), self.dtype, self.device)


def torch_defaults() -> tuple[torch.dtype, torch.device]:
    """Return the default type and device of new tensors."""
    return torch.get_default_dtype(), torch.get_default_device()


@contextmanager
def defaults(dtype: torch.dtype, device: torch.device) -> Generator[None]:
    """Run a block whose new tensors have this type and place unless they say otherwise."""
    before, there = torch.get_default_dtype(), torch.get_default_device()
    with ExitStack() as stack:
        if there != device:
            stack.enter_context(device)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@contextmanager
def ordinary_modes(model: object) -> Generator[tuple[str, ...]]:
    """Run a block outside inference mode and autocast, with torch's own defaults; yield in words what was left.

    Weights that were made in inference mode, through which nothing can be differentiated, are stood in for by
    copies while the block runs; those of a scripted module cannot be.
    """
    left: list[str] = []
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            left.append("torch.inference_mode() around the call was left, as nothing has a gradient in it")
        stack.enter_context(outside_inference(model))
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                left.append(
                    "torch.autocast around the call was left: the model was judged in the precision of its "
                    "weights; put autocast into its forward to have it judged under it"
                )
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(defaults(torch.float32, torch.device("cpu")))
        yield tuple(left)


@contextmanager
def exact_float32() -> Generator[None]:
    """Run a block in which a GPU computes float32 as float32; the settings are as before afterwards.

    By torch's default its convolutions round what they multiply to 10 bits (TF32): an error of a thousandth, within
    which whole attacks look for the boundary. Whoever judges, or believes small leads, computes in here.
    """
    with ExitStack() as stack:
        for older, newer in _ROUNDINGS:
            for place, name, exact in older if _readable(older) else newer:
                before = getattr(place, name)
                if before != exact:
                    setattr(place, name, exact)
                    stack.callback(setattr, place, name, before)
        yield


class _Products:
    """The precision of float32 products, as torch's two functions for it."""

    @property
    def precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @precision.setter
    def precision(self, name: str) -> None:
        torch.set_float32_matmul_precision(name)


_Setting = tuple[object, str, object]
"""What holds a setting, its name there, and its value for exact arithmetic."""


def _newer(place: object, *kinds: str) -> tuple[_Setting, ...]:
    """Return the settings that torch has since 2.9; none before."""
    return tuple((getattr(place, kind), "fp32_precision", "ieee") for kind in kinds if hasattr(place, kind))


_ROUNDINGS: tuple[tuple[tuple[_Setting, ...], tuple[_Setting, ...]], ...] = (
    (((_Products(), "precision", "highest"),), _newer(torch.backends.cuda, "matmul")),
    (((torch.backends.cudnn, "allow_tf32", False),), _newer(torch.backends.cudnn, "conv", "rnn")),
)
"""Older settings and newer ones of the same things. torch refuses to read an older one that a newer one
contradicts, and then the newer ones are in use."""


def _readable(settings: tuple[_Setting, ...]) -> bool:
    try:
        for place, name, _ in settings:
            getattr(place, name)
    except RuntimeError:
        return False
    return True


@contextmanager
def outside_inference(model: object) -> Generator[None]:
    """Run a block outside inference mode, with copies in the place of weights that were made in it."""
    with torch.inference_mode(False), _ordinary_weights(model):
        yield


@contextmanager
def _ordinary_weights(model: object) -> Generator[None]:
    copies: dict[int, Tensor] = {}
    tables: list[tuple[dict[str, Tensor | None], dict[str, Tensor | None]]] = []
    for module in modules_of(model):
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for table in (module._parameters, module._buffers):  # pyright: ignore[reportPrivateUsage]
            born = {name: one for name, one in table.items() if one is not None and one.is_inference()}
            for one in born.values():
                if id(one) not in copies:
                    copies[id(one)] = (
                        nn.Parameter(one.clone(), requires_grad=one.requires_grad)
                        if isinstance(one, nn.Parameter)
                        else one.clone()
                    )
            if born:
                tables.append((cast("dict[str, Tensor | None]", table), dict(born)))
                table.update({name: copies[id(one)] for name, one in born.items()})  # pyright: ignore
    try:
        yield
    finally:
        for table, born in tables:
            table.update(born)


def precision_of(model: object) -> torch.dtype:
    """Return the type of the first floating weight that is not float32; float32 where there is none."""
    return next((one.dtype for one in tensors_of(model) if one.is_floating_point() and one.dtype != torch.float32),
                torch.float32)  # fmt: skip


def places_of(model: object) -> list[torch.device]:
    """Return the devices that hold the model's weights, each once."""
    return list(dict.fromkeys(one.device for one in tensors_of(model)))
