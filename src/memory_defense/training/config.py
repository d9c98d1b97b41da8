"""How to train, and what came of it: plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from memory_defense.checks import check_at_least
from memory_defense.data.augmentation import Augmentation
from memory_defense.training.optimizer import OptimizerConfig
from memory_defense.training.precision import Compile, Precision

Validate = Callable[[nn.Module], float]
"""Scores a model on held-out images; larger is better."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long and how to train; what to train is the objective's affair."""

    epochs: int
    """Passes over the training images."""
    batch_size: int = 128
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    averaging: float = 0.0
    """Decay of the exponential moving average of the weights for each step; 0 turns it off."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Precision = "auto"
    """float32, bfloat16 (autocast), or auto: bfloat16 where the processor has it in hardware."""
    validate_every: int = 1
    """Epochs between two scores on held-out images."""
    checkpoint_every: int = 400
    """Steps between two writes of the training state."""
    compile: Compile = field(default="auto", repr=False)
    """Whether torch.compile translates the network; auto: on a GPU, where the run is long enough to pay. It decides
    how fast, not what: neither a recipe's hash nor a training state knows of it."""

    def __post_init__(self) -> None:
        check_at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        check_at_least(1, validate_every=self.validate_every, checkpoint_every=self.checkpoint_every)
        if self.compile not in (True, False, "auto"):
            raise ValueError(f"compile is {self.compile!r}, expected True, False or 'auto'")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging is {self.averaging}, but the decay must be in [0, 1)")


@dataclass(frozen=True)
class EpochLog:
    """What one epoch did."""

    epoch: int
    losses: dict[str, float]
    """Named parts of the objective at the epoch's last step."""
    score: float | None
    """The held-out score, where it was taken."""


@dataclass(frozen=True)
class FitResult:
    """What training did; the model holds the weights of the best score."""

    history: tuple[EpochLog, ...]
    best_epoch: int
    best_score: float | None


def check_pairs(augmentation: Augmentation) -> None:
    """Raise ValueError where an augmentation would change the pixels of clean images, too."""
    names = [name for name in ("erase_probability", "noise_std") if getattr(augmentation, name)]
    if names:
        raise ValueError(
            f"the images come with clean counterparts, but the augmentation's {' and '.join(names)} would paint "
            "over those as well; set them to 0 (crops and flips move both alike), or leave the counterparts out"
        )
