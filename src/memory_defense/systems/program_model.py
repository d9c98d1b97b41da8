"""Programs of ``torch.export`` as classifiers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from memory_defense.evaluation.cases import QUERIES
from memory_defense.systems.doors import LoadedModel
from memory_defense.systems.inputs import Fitted, InputForm, Queried, why_no_gradient
from memory_defense.systems.onnx_foreign import placed
from memory_defense.systems.preprocessing import Preprocessing

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_MODES = {"dropout": 2, "batch_norm": 5}
"""Operators that know whether they train, and the position of that argument."""


class _Program(nn.Module):
    """A program's module, which computes in the mode it was exported in and refuses to be asked for another."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> Self:
        """Leave the program as it is."""
        self.training = mode
        return self

    def forward(self, pixels: Tensor) -> object:
        """Return what the program answers."""
        return self.program(pixels)


def load_program(path: Path, preprocessing: Preprocessing | None = None) -> LoadedModel:
    """Return the classifier in a ``.pt2`` file that ``torch.export.save`` wrote.

    torch reads the tensors in it as weights only, here without the exception that torch makes for them; but it
    evaluates the formulas of its shapes as Python, so that a file made for it can run code: load what you trust.

    Parameters
    ----------
    path
        The file.
    preprocessing
        What it wants its pixels to be; None takes them as they are.

    Raises
    ------
    ValueError
        For a file that is no such program, one in training mode, or one that does not take images alone.
    """
    chosen = preprocessing or Preprocessing()
    program = _loaded(path)
    _check_mode(path, program)
    (shape, kind) = _input(path, program)
    form = InputForm.of_shape(shape, str(path), levels=kind == torch.uint8)
    network: nn.Module = Fitted(_Program(program.module()), form)
    notes = [f"{path.name}: {one}" for one in form.notes]
    if why := _refused(network, form):
        raise ValueError(
            f"{path} does not answer images of its own shape ({why}); export it again, with the batch as a dynamic "
            "dimension"
        )
    if why := why_no_gradient(network, form.images()):
        network = Queried(network)
        notes.append(f"{path.name}: attacks only ask, none follows a gradient ({QUERIES}), since {why}")
    return LoadedModel(
        module=placed(network, chosen, form.channels),
        network=network,
        preprocessing=chosen,
        channels=form.channels,
        sides=form.sides,
        notes=tuple(notes),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _loaded(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"{path} does not exist, or is not a file; give the path of a program of torch.export")
    try:
        with _weights_only():
            return torch.export.load(str(path))
    except Exception as error:  # torch raises many types here
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is not a program that torch {torch.__version__} reads ({type(error).__name__}: {said}); "
            "write it with torch.export.save(torch.export.export(model.eval(), (images,)), FILE)"
        ) from error


@contextmanager
def _weights_only() -> Generator[None]:
    """Keep torch from unpickling anything but weights, also where it would try that second."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


def _check_mode(path: Path, program: Any) -> None:
    """Raise ValueError for a program that still drops out or takes a batch's own statistics."""
    for node in program.graph.nodes:
        for name, position in _MODES.items():
            trains = name in str(node.target) and len(node.args) > position and node.args[position] is True
            if trains:
                raise ValueError(
                    f"{path} was exported while it trained ({node.target}); call model.eval() before "
                    "torch.export.export"
                )


def _input(path: Path, program: Any) -> tuple[tuple[int | None, ...], torch.dtype]:
    """Return the shape of the one input, None where it is open, and its type."""
    names = program.graph_signature.user_inputs
    metas = [node.meta.get("val") for node in program.graph.nodes if node.name in names]
    if len(metas) != 1 or not isinstance(metas[0], torch.Tensor):
        raise ValueError(
            f"{path} takes {len(names)} inputs ({', '.join(map(str, names))}), expected images alone; "
            "export a module that takes images alone"
        )
    shape = cast("tuple[Any, ...]", tuple(metas[0].shape))
    return tuple(one if type(one) is int else None for one in shape), metas[0].dtype


@torch.no_grad()
def _refused(network: nn.Module, form: InputForm) -> str:
    try:
        network(form.images())
    except Exception as error:  # whatever the program raises
        return " ".join(str(error).split())[:200]
    return ""
