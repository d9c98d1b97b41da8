"""How many images an attack works on before what it found is kept: as many as it has done with within a minute.

A stopped evaluation loses what the attack at hand did to its images. Where an answer does not depend on its batch,
so that any chunk gives the same verdicts, a clock may choose how many they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory_defense.contracts import needs_gradient
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.costs import GRADIENT_COST, most_passes
from memory_defense.evaluation.pixels import Pixels, chunk_for

KEPT_SECONDS = 40.0
"""Time that the attack at hand takes for its images, about, before they are kept."""


@dataclass
class Chunks:
    """Chooses the images of a chunk by the speed of the passes so far.

    Parameters
    ----------
    chunk
        Images at most, before their size counts (`pixels.chunk_for`).
    granule
        What passes are a multiple of; None where an answer may depend on its batch, and then no clock is asked.
    """

    chunk: int
    granule: int | None
    _cost: float = 0.0
    _seconds: float = 0.0

    def took(self, forward: int, backward: int, seconds: float) -> None:
        """Hear of the image passes that something made, and of its time."""
        self._cost += forward + (GRADIENT_COST - 1) * backward
        self._seconds += seconds

    def size(self, case: Case, images: Pixels) -> int:
        """Return the images of the next chunk of a case, at least a granule."""
        most, passes = chunk_for(images, self.chunk), most_passes(case.attack, case.ball.norm)
        if self.granule is None or passes is None or self._cost == 0:
            return most
        each = passes * (GRADIENT_COST if needs_gradient(case.attack) else 1) * self._seconds / self._cost
        fits = min(most, int(KEPT_SECONDS / max(each, 1e-9)))
        return max(fits - fits % self.granule, min(self.granule, most))
