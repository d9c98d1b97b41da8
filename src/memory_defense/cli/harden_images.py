"""The images of ``memdef harden``, labelled as the classifier counts, and a look at whether both fit together."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from memory_defense.data.class_map import Numbers, found_numbers, listed_numbers, read_listing
from memory_defense.data.images import Splits
from memory_defense.data.limits import TYPED, Limits
from memory_defense.data.own import load_splits, relabelled_splits
from memory_defense.data.spec import DATASETS
from memory_defense.progress import stage
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.doors import arguments_of
from memory_defense.systems.own_model import build_user_model, check_classes, outputs_of
from memory_defense.systems.preprocessed import Preprocessed
from memory_defense.systems.preprocessing import Preprocessing
from memory_defense.workflows.first_look import look
from memory_defense.workflows.folder_order import ASKED, counts_otherwise
from memory_defense.workflows.run_images import kept_classes

if TYPE_CHECKING:
    from torch import nn

    from memory_defense.cli.harden_arguments import HardenArguments
    from memory_defense.contracts import Progress


@dataclass(frozen=True)
class HardenImages:
    """Images to train, to choose and to judge on."""

    splits: Splits
    outputs: tuple[tuple[str, int], ...] | None
    """The output of the classifier that each class of the source is; None where they are the same."""


def read_images(options: HardenArguments, device: torch.device, progress: Progress) -> HardenImages:
    """Return the user's images, labelled by the classifier's outputs; raise ValueError where they do not fit."""
    remembers = options.certified is not None or not (options.without_memory or options.keep_clean_accuracy)
    read = functools.partial(
        load_splits,
        options.data,
        size=options.size,
        geometry=options.geometry,
        device=device,
        limits=Limits(words=replace(TYPED, images="")),
        rectangles=not remembers,
        few=options.certified is None,
        data_dir=options.data_dir if options.data in DATASETS else None,
        offline=options.offline,
        may_update=True,
        progress=progress,
    )
    splits = read(classes=kept_classes(RunDirectory(options.out), options.data))
    network = _network(options, splits).to(device)
    stated = Preprocessing() if options.preprocess is None else Preprocessing.parse(options.preprocess)
    model = Preprocessed(network, stated, splits.spec.channels).eval().to(device) if str(stated) else network
    first = splits.test.first(1).floats()
    folders, outputs = splits.spec.classes, outputs_of(model, first) or len(splits.spec.classes)
    if (found := None if options.certified else _numbers(options, folders, outputs)) is not None:
        progress.note(found.why)
        splits = relabelled_splits(splits, found, outputs)
        _look(network, stated, splits, progress)
        return HardenImages(splits, tuple(zip(folders, found.outputs, strict=True)))
    check_classes(options.classifier, model, first, len(folders))
    if why := counts_otherwise(model, splits.test, folders, splits.otherwise):
        progress.note(why)
        splits = read(classes=splits.otherwise)
        splits = replace(splits, notes=(*splits.notes, why))
    if str(stated):
        _look(network, stated, splits, progress)
    return HardenImages(splits, None)


def _network(options: HardenArguments, splits: Splits) -> nn.Module:
    """Return the classifier without its preprocessing, whatever number of classes it answers for."""
    spec, (height, width) = splits.spec, splits.spec.sides
    return build_user_model(
        options.classifier,
        classes=len(spec.classes),
        channels=spec.channels,
        size=height if height == width else (height, width),
        weights=options.weights,
        arguments=arguments_of(options.argument or ()),
        more_outputs=True,
    )


def _numbers(options: HardenArguments, folders: tuple[str, ...], outputs: int) -> Numbers | None:
    if options.classes is not None:
        return listed_numbers(folders, read_listing(options.classes), options.classes)
    return found_numbers(folders, outputs)


def _look(network: nn.Module, stated: Preprocessing, splits: Splits, progress: Progress) -> None:
    """Say where another preprocessing suits the classifier better."""
    with stage(progress, "looking at the preprocessing"):
        asked = splits.test.first(min(ASKED, len(splits.test)))
        seen = look(network, stated, asked, len(splits.spec.classes))
    if seen is not None:
        progress.note(seen.warning or seen.line)
