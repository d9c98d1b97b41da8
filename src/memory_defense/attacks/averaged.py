"""Gradients averaged over the draws of a randomised model, as AutoAttack's `rand` version averages them."""

from __future__ import annotations

from memory_defense.attacks.engine import Pass, Victim
from memory_defense.contracts import Images, Rows
from memory_defense.losses import AdversarialLoss


class Averaged(Victim):
    """A victim whose gradient is the mean over several passes; its losses and logits are the last pass's.

    The mean of the losses' gradients is the gradient of the expected loss. `wrappers.Eot` averages the logits
    instead and takes one loss of them: less noise in what is judged, but another loss, and a success there is
    one of the mean, not of a single draw.

    Parameters
    ----------
    victim
        What is attacked.
    samples
        Passes for one gradient, at least 1.
    """

    def __init__(self, victim: Victim, samples: int) -> None:
        super().__init__(victim.model, victim.labels, victim.micro_batch)
        self.samples = samples

    def gradient(self, points: Images, rows: Rows, loss: AdversarialLoss) -> Pass:
        """Return the mean gradient, and what the last pass answered; see `Victim.gradient`."""
        last = super().gradient(points, rows, loss)
        total = last.gradient.clone()
        for _ in range(self.samples - 1):
            last = super().gradient(points, rows, loss)
            total.add_(last.gradient)
        return Pass(total.div_(self.samples), last.losses, last.logits)
