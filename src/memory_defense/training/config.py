"""How long and in which manner a network is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from memory_defense.checks import check_at_least
from memory_defense.data.augmentation import Augmentation
from memory_defense.model_spec import shown
from memory_defense.training.optimizer import OptimizerConfig
from memory_defense.training.precision import Compile, Precision

LATER = ("accumulate", "train_last", "train_only")
"""Fields that `FitConfig` had not always: at their defaults neither a recipe's hash nor a state depends on them."""


@dataclass(frozen=True, kw_only=True, repr=False)
class FitConfig:
    """Length and manner of training; the objective says what is minimised."""

    epochs: int
    """Passes over the training images."""
    batch_size: int = 128
    """Images in each step, over all processes."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    averaging: float = 0.0
    """Decay of the exponential moving average of the weights for each step; 0 turns it off."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Precision = "auto"
    """float32, bfloat16 (autocast), or auto: bfloat16 where the processor has it in hardware."""
    validate_every: int = 1
    """Epochs between two scores on held-out images."""
    checkpoint_every: int = 400
    """Steps between two writes of the training state, besides one after each epoch and one a minute; an accelerator
    leaves out those within a minute of the last."""
    compile: Compile = field(default="auto", repr=False)
    """Whether torch.compile translates the network; auto: on a GPU, if the run is long enough to pay. It changes
    speed alone, so neither a recipe's hash nor a training state depends on it."""
    accumulate: int = 1
    """Parts of a batch that pass one after the other, their gradients added up: it takes less memory, and is the
    same step but for normalisations over the batch, which see a part."""
    train_last: int | None = None
    """Train only so many layers, from the end; see `partial.chosen`."""
    train_only: tuple[str, ...] = ()
    """Train only parameters whose names are like one of these patterns; see `partial.chosen`."""

    def __post_init__(self) -> None:
        check_at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        check_at_least(1, validate_every=self.validate_every, checkpoint_every=self.checkpoint_every)
        check_at_least(1, accumulate=self.accumulate, train_last=self.train_last)
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate is {self.accumulate}, but a batch has {self.batch_size} images; give at most that"
            )
        if self.compile not in (True, False, "auto"):
            raise ValueError(f"compile is {self.compile!r}, expected True, False or 'auto'")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging is {self.averaging}, but the decay must be in [0, 1)")

    def __repr__(self) -> str:
        """Return the fields; see `model_spec.shown`."""
        return shown(self, *LATER)
