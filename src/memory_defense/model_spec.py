"""What a model is, apart from its weights: read from a run's manifest without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError


def shown(value: object, *later: str) -> str:
    """Return the repr of a dataclass without those of the `later` fields that have their defaults.

    Hashes of recipes are made of it, so a field that joins a class later leaves those from before as they were.
    """
    known = [one for one in fields(cast(Any, value)) if one.repr]
    said = [(one.name, getattr(value, one.name)) for one in known if not _is_default(value, one.name, later)]
    return f"{type(value).__qualname__}({', '.join(f'{name}={one!r}' for name, one in said)})"


def entry(value: object, *later: str) -> dict[str, Any]:
    """Return what `dataclasses.asdict` does, without those of the `later` fields that have their defaults."""
    found = asdict(cast(Any, value))
    return {name: one for name, one in found.items() if not _is_default(value, name, later)}


def _is_default(value: object, name: str, later: tuple[str, ...]) -> bool:
    return name in later and bool(getattr(value, name) == getattr(type(value), name))


@dataclass(frozen=True, kw_only=True)
class OwnClassifier:
    """How a classifier of the user's own is built, beyond its name."""

    arguments: tuple[tuple[str, bool | int | float | str | None], ...] = ()
    """What its function is given by keyword."""
    preprocess: str = ""
    """What its network wants its pixels to be, as `systems.preprocessing.Preprocessing.parse` reads it."""


@dataclass(frozen=True, kw_only=True, repr=False)
class ImageSpec:
    """What a model needs to know of the images it reads."""

    channels: int
    """C: 1 is grey, 3 is red, green, blue."""
    size: int
    """Height H, in pixels; the width too, but for `width`."""
    classes: tuple[str, ...]
    """Names of the classes, by label."""
    mean: tuple[float, ...]
    """Mean of the training pixels in [0, 1], one number for each channel."""
    std: tuple[float, ...]
    """Standard deviation of the training pixels in [0, 1], one number for each channel."""
    width: int | None = None
    """Width W, in pixels, of images that are no squares."""

    def __repr__(self) -> str:
        """Return the fields; see `shown`."""
        return shown(self, "width")

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.size, self.width or self.size


@dataclass(frozen=True, kw_only=True, repr=False)
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
    own: OwnClassifier | None = None
    """How the user's own classifier is built; None where its name says it all."""

    def __post_init__(self) -> None:
        for name, kind in (("images", ImageSpec), ("own", OwnClassifier)):
            if isinstance(values := getattr(self, name), Mapping):  # as read from a manifest
                object.__setattr__(self, name, _read(kind, name, cast("Mapping[str, Any]", values)))

    def __repr__(self) -> str:
        """Return the fields; see `shown`."""
        return shown(self, "own")

    def entry(self) -> dict[str, Any]:
        """Return the fields as manifests have them."""
        images = None if self.images is None else entry(self.images, "width")
        return entry(self, "own") | {"images": images}


_PARTS = {"images": "the images' description", "own": "the classifier's description"}


def _read(kind: type[ImageSpec | OwnClassifier], name: str, values: Mapping[str, Any]) -> object:
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{_PARTS[name]}: {(first['loc'] or ('all of it',))[-1]}: {first['msg']}") from error
