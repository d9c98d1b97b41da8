"""Training MagNet's autoencoders: denoise images that each got its noise once and for all.

Both are trained at the same time. They share no parameter, so with an optimiser that treats parameters one by one,
such as Adam, each ends where training it alone would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from memory_defense.contracts import Batch
from memory_defense.defenses.magnet import MagNet
from memory_defense.randomness import ImageDraws


@dataclass(frozen=True, kw_only=True, eq=False)
class MagNetLosses:
    """The terms of both autoencoders, all scalars."""

    total: Tensor
    """What is minimised."""
    reformer: Tensor
    """Mean squared error over pixels and images of autoencoder I, in pixel units."""
    detector: Tensor
    """The same of autoencoder II."""
    activity: Tensor
    """Squared outputs of all convolutions of both, summed for each image, mean over images, before its factor."""

    def parts(self) -> Mapping[str, float]:
        """Return every term as a number."""
        return {name: float(value.detach()) for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class MagNetObjective:
    """Mean squared error from noisy to clean images, as an objective on a `MagNet`.

    The noise of an image follows from its id alone, so it is the same in every epoch, as in the released code,
    which draws it once before training.

    Raises
    ------
    ValueError
        For a negative factor.
    """

    noise_std: float = 0.1
    """Deviation of the Gaussian noise in pixel units, clipped to [0, 1] afterwards; 0.025 for CIFAR-10."""
    activity: float = 1e-9
    """Factor of the squared activations."""
    seed: int = 0
    """Of the noise."""

    def __post_init__(self) -> None:
        for name in ("noise_std", "activity"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be at least 0")

    def __call__(self, model: MagNet, batch: Batch) -> MagNetLosses:
        """Return the losses of one batch; noise is added in train mode only."""
        clean = seen = batch.images
        if model.training and self.noise_std:
            draws = ImageDraws.of(self.seed, "magnet noise", batch.ids, clean.device)
            seen = (clean + self.noise_std * draws.normal(*clean.shape[1:]).to(clean)).clamp(0, 1)
        first, second = model.reformer.reconstruct(seen), model.detector.reconstruct(seen)
        errors = [(clean - made.images.to(clean.dtype)).square().mean() for made in (first, second)]
        activity = (first.activity + second.activity).mean()
        return MagNetLosses(
            total=errors[0] + errors[1] + self.activity * activity,
            reformer=errors[0],
            detector=errors[1],
            activity=activity,
        )
