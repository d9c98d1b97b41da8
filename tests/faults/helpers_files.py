"""Nets whose code can be changed while their weights stay, and evaluations of them that are stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import memory_defense
from faults.helpers_faults import some_images
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import Record

COUNT = 24


class Stops:
    """A progress that keeps what it is told, and stops the work, as Ctrl-C does, at one of its steps."""

    def __init__(self, calls: int | None = None) -> None:
        self.left, self.notes = calls, []

    notes: list[str]

    def begin(self, what: str, total: int) -> None:
        """Note nothing."""

    def advance(self, steps: int, text: str = "") -> None:
        """Stop at the last of the calls."""
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                raise KeyboardInterrupt

    def note(self, text: str) -> None:
        """Keep a line."""
        self.notes.append(text)


class Coded(nn.Module):
    """A fixed network of five classes for images (B, 1, 8, 8), with code of one's own before and after it."""

    def __init__(
        self, before: Callable[[Tensor], Tensor] = lambda x: x, after: Callable[[Tensor], Tensor] = lambda x: x
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 5))
        self.before, self.after = before, after

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 5)."""
        return self.after(self.network(self.before(images)))


def labels_of(model: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what a model answers to the images of `evaluated`."""
    with torch.no_grad():
        return model(some_images(COUNT)).argmax(1)


def evaluated(model: Any, out: Path, progress: Any = None, *, labels: Tensor | None = None, **more: Any) -> Record:
    """Evaluate a model on `COUNT` images by two attacks, small enough that a second is plenty."""
    asked: dict[str, Any] = {"epsilon": 0.02, "attacks": "fgsm,pgd", **more}
    truth = labels_of(Coded()) if labels is None else labels
    options = Options(chunk=8, progress=progress, device="cpu")
    return memory_defense.evaluate(model, some_images(COUNT), truth, out=out, options=options, **asked)


def stopped(model: Any, out: Path, **more: Any) -> None:
    """Leave the state of an evaluation of this model."""
    try:
        evaluated(model, out, Stops(4), **more)
    except KeyboardInterrupt:
        return
    raise AssertionError("it was not stopped")


def timeless(record: Record) -> Any:
    """Return what a record says without times and revision."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(one) for key, one in value.items() if key not in ("seconds", "git")}
        return [strip(one) for one in value] if isinstance(value, list) else value

    return strip(json.loads(record.model_dump_json(by_alias=True)))
