"""The losses of a training objective, as every defense reports them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class LossTerms:
    """The terms of an objective, all scalars; subclasses add one field per term."""

    total: Tensor
    """The sum that is minimised."""

    def parts(self) -> Mapping[str, float]:
        """Return the terms as numbers, by field name; a term that is None takes no part."""
        return {name: float(value.detach()) for name, value in vars(self).items() if value is not None}
