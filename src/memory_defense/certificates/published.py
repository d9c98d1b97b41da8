"""What a module may say of itself, so that bounds of its answers can be computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Layered(Protocol):
    """A module that is its layers, one after the other, and says so: bounds of its answers follow them."""

    def layers(self) -> Sequence[nn.Module]:
        """Return the layers in order: to call them in turn is to call the module."""
        ...


@runtime_checkable
class Branching(Protocol):
    """A module that adds up what its branches make of the same input, as a residual block does."""

    def branches(self) -> Sequence[nn.Module]:
        """Return the branches; ``nn.Identity`` is a shortcut."""
        ...


@runtime_checkable
class ChannelAffine(Protocol):
    """A module that multiplies each channel by a factor and adds a number, as normalisation does."""

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return factors (C,) and what is added (C,), right to 3 float32 roundings of their size."""
        ...
