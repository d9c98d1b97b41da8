"""What is noticed while a model is asked: images without an answer or a gradient, and passes made small by memory.

Whoever starts some work listens (`noticing`); whoever meets something says so. Nothing here decides anything.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from memory_defense.contracts import PerImage, Rows


@dataclass
class Noticed:
    """What was noticed about some images; their numbers are rows of the batch that the work was given."""

    no_answer: set[int] = field(default_factory=set[int])
    """Images whose logits were NaN or infinite."""
    no_gradient: set[int] = field(default_factory=set[int])
    """Images whose gradient was NaN or infinite at least once, and counted as 0 there."""
    followed: bool = False
    """Whether some image had a finite gradient."""
    smallest: int | None = None
    """Images in the smallest pass that a shortage of memory led to; None if there was room."""
    _unread: list[tuple[Rows, PerImage, PerImage]] = field(default_factory=list[tuple[Rows, PerImage, PerImage]])

    def gradients(self, rows: Rows, finite: PerImage, answered: PerImage) -> None:
        """Take in which of these images had a finite gradient, (B,) bool; it counts where they were `answered`.

        What lies on an accelerator is read when the work is over: to wait for it in each pass costs more than it.
        """
        self._unread.append((rows, finite, answered))
        if finite.device.type == "cpu":
            self.read()

    def read(self) -> None:
        """Look at everything that was taken in."""
        for rows, finite, answered in self._unread:
            self.followed |= bool((finite & answered).any())
            self.no_gradient.update(cast("list[int]", rows[answered & ~finite].tolist()))
        self._unread.clear()


_listening: ContextVar[Noticed | None] = ContextVar("noticed", default=None)


@contextmanager
def noticing() -> Generator[Noticed]:
    """Yield what the block notices; whoever listens outside hears nothing of it."""
    heard = Noticed()
    token = _listening.set(heard)
    try:
        yield heard
    finally:
        _listening.reset(token)
    heard.read()


def answers_seen(finite: PerImage) -> None:
    """Say which of the images that were handed in had a finite answer."""
    if (heard := _listening.get()) is not None:
        heard.no_answer.update(cast("list[int]", (~finite).nonzero().squeeze(1).tolist()))


def all_gradients_seen() -> None:
    """Say that all images of a pass had a finite gradient."""
    if (heard := _listening.get()) is not None:
        heard.followed = True


def gradients_seen(rows: Rows, finite: PerImage, answered: PerImage) -> None:
    """Say which of these images had a finite gradient, (B,) bool, and which an answer; the others do not count."""
    if (heard := _listening.get()) is not None:
        heard.gradients(rows, finite, answered)


def pass_halved(images: int) -> None:
    """Say that memory was short, and that passes have so many images from now on."""
    if (heard := _listening.get()) is not None:
        heard.smallest = least(heard.smallest, images)


def least(*sizes: int | None) -> int | None:
    """Return the smallest of these sizes, None where all are None."""
    return min((one for one in sizes if one is not None), default=None)


def answered(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits (B, K), with a wrong answer in the place of every one that is NaN or infinite.

    An image for which a model has no answer is not answered rightly: the label's logit is 1 below all others. Where
    all are finite, these are the very logits that were given.

    Parameters
    ----------
    logits
        As the model returned them.
    labels
        (B,) the classes that must not be answered.
    """
    if logits.device.type == "cpu":  # elsewhere to look would be to wait
        if math.isfinite(float(logits.detach().sum())):  # a NaN anywhere makes the sum NaN
            return logits
        if bool(finite_rows(logits.detach()).all()):
            return logits
    finite = finite_rows(logits.detach())
    wrong = torch.zeros_like(logits).scatter_(1, labels[:, None], -1.0)
    return torch.where(finite[:, None], logits, wrong)


def finite_rows(values: Tensor) -> PerImage:
    """Return (B,) bool: everything in this row of (B, ...) is finite."""
    return values.isfinite().flatten(1).all(1) if values.dim() > 1 else values.isfinite()
