"""How the parts of PixelDefend are trained, and how they are built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.checks import nearest
from memory_defense.contracts import Batch
from memory_defense.defenses.pixeldefend import PixelDefend
from memory_defense.networks.pixelcnn import PIXELCNN_PRESETS, PixelCnn
from memory_defense.networks.stand_in import StandIn


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelCnnLosses:
    """What a PixelCNN is trained by."""

    total: Tensor
    """Negative log likelihood for each pixel and channel, in nats, mean over images."""

    def parts(self) -> Mapping[str, float]:
        """Return the likelihood in nats, and in bits per dimension."""
        nats = float(self.total.detach())
        return {"total": nats, "bits_per_dimension": nats / math.log(2)}


@dataclass(frozen=True, kw_only=True)
class PixelCnnObjective:
    """Maximum likelihood of clean images: trains a defense's `purifier` and nothing else.

    Raises
    ------
    ValueError
        When no image is left to initialise with.
    """

    initial_images: int = 100
    """Of the first batch, from which layers that are not initialised yet take their gains and biases."""

    def __post_init__(self) -> None:
        if self.initial_images < 1:
            raise ValueError(f"initial_images is {self.initial_images}, but the layers' start needs at least 1")

    def __call__(self, model: PixelDefend, batch: Batch) -> PixelCnnLosses:
        """Return the losses of one batch; with dropout in train mode."""
        if not model.purifier.initialised:
            model.purifier.initialise(batch.images[: self.initial_images])
        nats = -model.purifier.log_likelihood(batch.images).mean()
        return PixelCnnLosses(total=nats / batch.images[0].numel())


@dataclass(frozen=True, kw_only=True, eq=False)
class StandInLosses:
    """What a stand-in is trained by."""

    total: Tensor
    """Mean squared difference of imitation and purified image, in pixel units."""

    def parts(self) -> Mapping[str, float]:
        """Return the error as a number."""
        return {"total": float(self.total.detach())}


@dataclass(frozen=True, kw_only=True)
class StandInObjective:
    """Imitation of `purify` around clean images: trains a defense's `stand_in` once the purifier is trained.

    Raises
    ------
    ValueError
        For an epsilon outside [0, 1]; when called, for a defense without a stand-in.
    """

    epsilon: float = 0.1
    """Radius of the uniform noise on the images, in pixel units: it should cover the attacks to come."""

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon is {self.epsilon}, but pixels lie in [0, 1]")

    def __call__(self, model: PixelDefend, batch: Batch) -> StandInLosses:
        """Return the losses of one batch; the purifier is run on all of it."""
        if model.stand_in is None:
            raise ValueError("the defense has no stand-in; build it with stand_in=True")
        noise = (2 * batch.draws.uniform(*batch.images.shape[1:]) - 1).to(batch.images)
        seen = (batch.images + self.epsilon * noise).clamp(0, 1)
        return StandInLosses(total=F.mse_loss(model.stand_in(seen).float(), model.purify(seen)))


def build_pixeldefend(
    *,
    channels: int,
    size: int,
    classifier: nn.Module,
    preset: str = "small",
    epsilon_defend: float | None = None,
    adaptive_threshold: float | None = None,
    stand_in: bool = False,
) -> PixelDefend:
    """Return a freshly initialised PixelDefend around a trained classifier; draws from the global generator.

    Parameters
    ----------
    channels, size
        C and H = W, a multiple of 4.
    classifier
        Images in [0, 1] to logits; frozen.
    preset
        Of the PixelCNN, a name in `PIXELCNN_PRESETS`.
    epsilon_defend
        See `PixelDefend`; None is 32/255 for grey and 16/255 for colour images, as in the paper.
    adaptive_threshold
        See `PixelDefend`.
    stand_in
        Whether there is a network for the knowledge ``learned``; train it with `StandInObjective`.

    Raises
    ------
    ValueError
        For an unknown preset, or numbers that no network can be built with.
    """
    if preset not in PIXELCNN_PRESETS:
        raise nearest(preset, PIXELCNN_PRESETS, "preset")
    default = 32 / 255 if channels == 1 else 16 / 255
    return PixelDefend(
        classifier=classifier,
        purifier=PixelCnn(PIXELCNN_PRESETS[preset].plan(channels, size)),
        epsilon_defend=default if epsilon_defend is None else epsilon_defend,
        adaptive_threshold=adaptive_threshold,
        stand_in=StandIn(channels) if stand_in else None,
    )
