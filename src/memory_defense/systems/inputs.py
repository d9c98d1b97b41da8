"""Networks of other people's files as networks of images: layouts, grey levels, batches of a fixed size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from memory_defense.contracts import Classifier, Images, Logits
from memory_defense.evaluation.cases import QUERIES
from memory_defense.randomness import generator

_ASKED = 4
_SIDE = 32
"""Pixels a side of the images that a network of any size is asked about."""


@dataclass(frozen=True, kw_only=True)
class InputForm:
    """What a network takes for images (B, C, H, W)."""

    channels: int
    sides: tuple[int, int] | None = None
    """Height and width; None where it takes any."""
    batch: int | None = None
    """The one number of images that it takes; None where it takes any."""
    channels_last: bool = False
    """Whether it takes (B, H, W, C)."""
    levels: bool = False
    """Whether it takes whole grey levels from 0 to 255."""

    @classmethod
    def of_shape(cls, shape: tuple[int | None, ...], source: str, *, levels: bool = False) -> InputForm:
        """Return the form of an input of this shape; None is a length that is left open.

        Raises
        ------
        ValueError
            For anything but four axes, the second or the last of them 1 or 3 where it is not left open.
        """
        if len(shape) != 4:
            raise ValueError(
                f"{source} takes an input of shape {_written(shape)}, and images are (B, C, H, W); write a "
                "package.module:build that makes its input of them"
            )
        last = shape[1] not in (1, 3) and shape[3] in (1, 3)
        channels, height, width = (shape[3], shape[1], shape[2]) if last else shape[1:]
        if channels is None:
            channels = 3
        if channels not in (1, 3):
            raise ValueError(
                f"{source} takes an input of shape {_written(shape)}, which has neither 1 nor 3 channels; write a "
                "package.module:build that makes its input of images (B, 3, H, W)"
            )
        sides = None if height is None or width is None else (height, width)
        return cls(channels=channels, sides=sides, batch=shape[0], channels_last=last, levels=levels)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a record says of it."""
        said = {
            "it takes channels last": self.channels_last,
            "it takes whole grey levels: pixels are rounded to them, and gradients pass the rounding": self.levels,
            f"images are given to it {self.batch} at a time": self.batch is not None,
        }
        return tuple(text for text, so in said.items() if so)

    def images(self, seed: int = 0) -> Images:
        """Return a few random images of this form, (B, C, H, W) in [0, 1]."""
        sides = self.sides or (_SIDE, _SIDE)
        return torch.rand(_ASKED, self.channels, *sides, generator=generator(seed, "doors"))


class Fitted(nn.Module):
    """Images (B, C, H, W) to logits (B, K), by a network that takes them in another form.

    Parameters
    ----------
    network
        Takes the form's input; answers (B, K), or with further axes of length 1.
    form
        What it takes. Grey levels are given to it as floats; their rounding has the gradient of the identity.
    """

    def __init__(self, network: nn.Module, form: InputForm) -> None:
        super().__init__()
        self.network = network
        self.form = form

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        pixels = images
        if self.form.levels:
            pixels = (images * 255).clamp(0, 255)
            pixels = pixels + (pixels.round() - pixels).detach()
        if self.form.channels_last:
            pixels = pixels.permute(0, 2, 3, 1)
        if self.form.batch is None:
            return _logits(self.network(pixels), len(images))
        parts = [self._padded(part) for part in torch.split(pixels, self.form.batch)]
        return torch.cat(parts) if parts else pixels.new_empty((0, 0))

    def _padded(self, pixels: Tensor) -> Logits:
        """Return the logits of at most one batch, filled up with its last image."""
        count, batch = len(pixels), self.form.batch or len(pixels)
        if count < batch:
            pixels = torch.cat([pixels, pixels[-1:].expand(batch - count, *pixels.shape[1:])])
        return _logits(self.network(pixels), batch)[:count]


def _logits(answer: object, count: int) -> Logits:
    """Return the first output of a network, (B, K)."""
    if isinstance(answer, (tuple, list)) and answer:
        several = cast("Sequence[object]", answer)
        return _logits(next((one for one in several if isinstance(one, Tensor)), None), count)
    if not isinstance(answer, Tensor):
        raise ValueError("it answers with no tensor, expected logits (B, K); export the classifier alone")
    wide = answer.dim() > 2 and answer.numel() == count * answer.shape[1]
    return answer.flatten(1).float() if wide else answer.float()


class Queried(nn.Module):
    """A classifier that answers and has no gradient: its one surrogate, ``queries``, is itself.

    Attacks that ask for a gradient report that there is none and break nothing; those without one run as always.
    """

    transfer_knowledge: frozenset[str] = frozenset()
    """Knowledge whose surrogate decides otherwise than the model; there is none."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @torch.no_grad()
    def forward(self, images: Images) -> Logits:
        """Return logits (B, K), without a gradient."""
        return self.network(images)

    def surrogates(self) -> Mapping[str, Classifier]:
        """Return the model itself, which can be queried but not differentiated."""
        return {QUERIES: self}


def why_no_gradient(network: nn.Module, images: Images) -> str:
    """Return why attacks cannot follow this network's gradient towards images (B, C, H, W); "" where they can."""
    given = images.clone().requires_grad_()
    try:
        with torch.enable_grad():
            answer = network(given)
            draws = torch.rand(answer.shape, generator=generator(0, "doors gradient"))
            (gradient,) = torch.autograd.grad((answer * draws).sum(), given)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        return f"no gradient passes it ({' '.join(str(error).split())[:200]})"
    if not bool(torch.isfinite(gradient).all()):
        return "its gradient is not finite"
    return "" if bool(gradient.any()) else "its gradient is 0 everywhere"


def _written(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('any' if one is None else str(one) for one in shape)})"
