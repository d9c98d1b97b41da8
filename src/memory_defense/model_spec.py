"""What a model is, apart from its weights: read from a run's manifest without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """What a model needs to know of the images it reads."""

    channels: int
    """C: 1 is grey, 3 is red, green, blue."""
    size: int
    """Height and width H = W, in pixels."""
    classes: tuple[str, ...]
    """Names of the classes, by label."""
    mean: tuple[float, ...]
    """Mean of the training pixels in [0, 1], one number for each channel."""
    std: tuple[float, ...]
    """Standard deviation of the training pixels in [0, 1], one number for each channel."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What is built; with the weights it is the whole model."""

    dataset: str
    """Name of the images it was trained on."""
    defense: str = "memory-defense"
    """Name of the system in `systems.registry.SYSTEMS`."""
    preset: str
    """Preset of the system: paper, reference or sound for Memory Defense; see each system's builder."""
    selector: str = ""
    """The classifier that chooses the slot, or that stands behind a purifier, or that is the whole system: a name
    in `networks.classifiers.CLASSIFIERS`, or ``package.module:attribute`` of the user's own. Empty where the
    system has none."""
    memory_size: int | None = None
    """Number of memory items M; None is the preset's."""
    images: ImageSpec | None = None
    """Description of images that are no dataset of `data.spec.DATASETS`; None for one that is."""

    def __post_init__(self) -> None:
        if isinstance(self.images, Mapping):  # as read from a manifest
            object.__setattr__(self, "images", _read_images(cast("Mapping[str, Any]", self.images)))


def _read_images(values: Mapping[str, Any]) -> ImageSpec:
    try:
        return TypeAdapter(ImageSpec).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(
            f"the images' description: {(first['loc'] or ('all of it',))[-1]}: {first['msg']}"
        ) from error
