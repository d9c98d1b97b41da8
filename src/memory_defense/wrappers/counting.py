"""A counter of the images that go through a classifier."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from memory_defense.contracts import Classifier, Images, Logits, Rows
from memory_defense.wrappers.models import rows_of


@dataclass
class Passes:
    """Numbers of images sent through a classifier, forward and backward."""

    forward: int = 0
    backward: int = 0


@dataclass(frozen=True)
class CountingPasses:
    """Count the images that go forward and backward through a classifier.

    Parameters
    ----------
    model
        The classifier to count for; its answers are untouched.
    passes
        Counter; every restriction made by `rows` counts in the same place.
    """

    model: Classifier
    passes: Passes = field(default_factory=Passes)

    def __call__(self, images: Images) -> Logits:
        """Return the logits, counting these images once, and once more when a gradient comes back."""
        logits = self.model(images)
        count = len(images)
        self.passes.forward += count
        if logits.requires_grad:
            logits.register_hook(partial(self._backward, count))
        return logits

    def _backward(self, count: int, gradient: Tensor) -> None:
        del gradient
        self.passes.backward += count

    def rows(self, index: Rows) -> CountingPasses:
        """Return the classifier for these rows, counting in the same place."""
        return CountingPasses(rows_of(self.model, index), self.passes)
