"""A user's own classifier, or an exported one, with the images that it is judged on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from memory_defense.data.geometry import Geometry
from memory_defense.data.images import ImageSet
from memory_defense.data.limits import TYPED, Limits
from memory_defense.data.own import DataSplit, is_about_order, load_images
from memory_defense.data.spec import DATASETS
from memory_defense.evaluation.options import Options
from memory_defense.progress import stage
from memory_defense.systems.doors import LoadedModel, arguments_of, door_of
from memory_defense.systems.load import load_model
from memory_defense.systems.own_model import build_user_model, check_classes
from memory_defense.systems.preprocessed import Preprocessed
from memory_defense.systems.preprocessing import Preprocessing
from memory_defense.workflows.folder_order import ASKED, counts_otherwise, on_outputs

if TYPE_CHECKING:
    import torch
    from torch import nn

    from memory_defense.contracts import Progress


@dataclass(frozen=True, kw_only=True)
class OwnTarget:
    """The classifier, its images, and what a record says of both."""

    model: nn.Module
    """On the device; `loaded` says what it is made of."""
    loaded: LoadedModel
    images: ImageSet
    classes: tuple[str, ...]
    """Names by label."""
    target: str
    dataset: str
    notes: tuple[str, ...]
    weights_sha256: str

    @property
    def model_notes(self) -> tuple[str, ...]:
        """What a record says of the model alone."""
        return (*self.loaded.notes, *_stated(self.loaded))

    @property
    def size(self) -> int | Geometry:
        """How pictures are brought to the pixels of these images."""
        height, width = self.images.images.shape[2:]
        return height if height == width else Geometry(resize=(height, width))

    def named(self, options: Options) -> Options:
        """Return the options with the ids and notes of this target, and its name where they give none."""
        return replace(
            options,
            ids=self.images.ids,
            defense=self.target if options.defense == Options.defense else options.defense,
            dataset=self.dataset,
            notes=self.notes,
            weights_sha256=self.weights_sha256,
        )


class _Held:
    """A display that keeps back what is said about the order of class folders until the model was asked."""

    def __init__(self, shown: Progress) -> None:
        self._shown, self._kept = shown, list[str]()

    def begin(self, what: str, total: int) -> None:
        self._shown.begin(what, total)

    def advance(self, steps: int, text: str = "") -> None:
        self._shown.advance(steps, text)

    def note(self, text: str) -> None:
        if is_about_order(text):
            self._kept.append(text)
        else:
            self._shown.note(text)

    def release(self, data: DataSplit) -> None:
        """Show what still holds of these images."""
        for text in self._kept:
            if text in data.notes:
                self._shown.note(text)


def own_target(
    target: str,
    *,
    source: str,
    weights: Path | None,
    arguments: Sequence[str] | None = None,
    preprocess: str | None = None,
    random_weights: bool = False,
    look: bool = True,
    size: int | None,
    geometry: str | None = None,
    classes: Path | None = None,
    images: int | None,
    data_dir: Path | None,
    offline: bool,
    device: torch.device,
    progress: Progress,
) -> OwnTarget:
    """Return what the options of a command name; raise ValueError for what does not fit together.

    With `look`, the first images are looked at: whether another preprocessing suits the model better, and whether
    code that is given no weights does more than guess, which it must unless `random_weights` are meant.
    """
    coded = door_of(target) == "code"
    if not coded:
        progress.begin("loading the model", 0)
    loaded = None if coded else load_model(target, preprocess)
    stated = None if loaded is None or size is not None else loaded.geometry
    framing = geometry if geometry is not None else stated
    read = functools.partial(
        load_images,
        source,
        size=size,
        geometry=framing,
        images=images,
        limits=Limits(words=TYPED),
        data_dir=data_dir if source in DATASETS else None,
        offline=offline,
        may_update=True,
    )
    held = _Held(progress)
    data = read(progress=held)
    if loaded is None:
        progress.begin("loading the model", 0)
        loaded = _built(target, data, weights, arguments_of(arguments or ()), preprocess)
    else:
        _check_fits(target, loaded, data)
    model = loaded.module.to(device)
    data = on_outputs(model, data, device, classes=classes, names=loaded.names, progress=progress)
    held.release(data)
    check_classes(target, model, data.images.first(1).to(device).floats(), len(data.classes))
    asked = data.images.first(min(ASKED, len(data.images))).to(device)
    if why := counts_otherwise(model, asked, data.classes, data.otherwise):
        progress.note(why)
        data = read(classes=data.otherwise, progress=progress)
        data = replace(data, notes=(*data.notes, why))
        asked = data.images.first(len(asked)).to(device)
    said: tuple[str, ...] = ()
    if look:
        untrained = coded and weights is None and not random_weights
        said = _first_look(target, loaded, data, asked, progress, untrained=untrained)
    return OwnTarget(
        model=model,
        loaded=loaded,
        images=data.images,  # not on the device: each pass takes its own there
        classes=data.classes,
        target=target,
        dataset=data.name,
        notes=(*data.notes, *loaded.notes, *_stated(loaded), *said),
        weights_sha256=loaded.sha256,
    )


def _built(
    target: str, data: DataSplit, weights: Path | None, arguments: Mapping[str, object], preprocess: str | None
) -> LoadedModel:
    """Return a classifier of the user's own code, for these images."""
    height, width = data.images.images.shape[2:]
    network = build_user_model(
        target,
        classes=len(data.classes),
        channels=data.channels,
        size=height if height == width else (height, width),
        weights=weights,
        arguments=arguments,
        more_outputs=True,
    )
    wanted = Preprocessing() if preprocess is None else Preprocessing.parse(preprocess)
    return LoadedModel(
        module=Preprocessed(network, wanted, data.channels).eval() if str(wanted) else network,
        network=network,
        preprocessing=wanted,
        channels=data.channels,
        notes=_built_with(arguments),
        sha256="" if weights is None else hashlib.sha256(weights.read_bytes()).hexdigest(),
    )


def _built_with(arguments: Mapping[str, object]) -> tuple[str, ...]:
    shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return (f"the model was built with {shown}",) if shown else ()


def _check_fits(target: str, loaded: LoadedModel, data: DataSplit) -> None:
    """Raise ValueError for images of other sides than the model takes, where its files say so."""
    there = tuple(data.images.images.shape[2:])
    if loaded.sides is not None and there != loaded.sides:
        height, width = loaded.sides
        raise ValueError(
            f"{target} takes images of {width} x {height} pixels, and these have {there[1]} x {there[0]}; give "
            f"--geometry resize={height}x{width}, or the resizing and the crop that it was trained with"
        )


def _stated(loaded: LoadedModel) -> tuple[str, ...]:
    if not str(loaded.preprocessing):
        return ()
    return (f"the model's first layer is its preprocessing of pixels in [0, 1]: {loaded.preprocessing}",)


def _first_look(
    target: str, loaded: LoadedModel, data: DataSplit, asked: ImageSet, progress: Progress, *, untrained: bool
) -> tuple[str, ...]:
    """Return what a look at the first images says to a record, showing it; refuse a model that was not trained.

    The numbers are shown for every classifier whose pixels are a question: of files of others, and where
    preprocessing is stated. Of the user's own code they are shown only where another one is clearly better.
    """
    if door_of(target) == "export":
        return ()
    from memory_defense.workflows.first_look import look

    with stage(progress, "looking at the preprocessing"):
        seen = look(loaded.network, loaded.preprocessing, asked, len(data.classes))
    if seen is None:
        return ()
    if seen.chance and untrained:
        raise ValueError(
            f"{target} has no --weights, and {seen.chance}: its weights may be random; give --weights "
            "FILE.safetensors, or --random-weights if they are meant to be"
        )
    if seen.warning:
        progress.note(seen.warning)
    elif str(loaded.preprocessing) or door_of(target) != "code":
        progress.note(seen.line)
    if seen.chance:
        progress.note(f"{seen.chance}: are these its weights, and its classes in this order?")
    return tuple(one for one in (seen.warning, seen.chance) if one)
