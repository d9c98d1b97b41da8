"""Source of a run's images: an entry of its manifest, by which later commands find them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from memory_defense.contracts import Progress
from memory_defense.data.class_map import Numbers
from memory_defense.data.class_order import same
from memory_defense.data.folders import ImageFolder
from memory_defense.data.images import Splits
from memory_defense.data.limits import Limits
from memory_defense.data.own import load_splits, relabelled_splits
from memory_defense.data.sources import DataNotFoundError
from memory_defense.data.spec import DATASETS, DatasetSpec, images_of
from memory_defense.model_spec import ImageSpec, ModelSpec
from memory_defense.run_directory import HARDENED, IMAGES_FROM, RunDirectory


@dataclass(frozen=True, kw_only=True)
class ImagesFrom:
    """A source of images, exactly as it was used; its fields are the manifest's entry `IMAGES_FROM`."""

    source: str
    """An absolute path, or a key of `data.spec.DATASETS`."""
    size: int | None
    """Pixels a side that images were resized to; None where they were not."""
    sha256: str
    """SHA-256 of the pixels and labels; see `data.own.load_splits`."""
    notes: tuple[str, ...] = ()
    """What was skipped, substituted or assumed in reading them, a line each."""
    geometry: str | None = None
    """How images were brought to the model's pixels where it was another way (`data.geometry.Geometry.parse`)."""
    outputs: tuple[tuple[str, int], ...] | None = None
    """Each class of the source and the output of the model that it is; None where they are the same."""


def images_from(
    source: str | Path,
    size: int | None,
    spec: DatasetSpec,
    notes: tuple[str, ...] = (),
    *,
    geometry: str | None = None,
    outputs: tuple[tuple[str, int], ...] | None = None,
) -> ImagesFrom:
    """Return the entry for images that `load_splits(source, size=size, geometry=geometry)` gave, with its notes.

    With `outputs`, their labels have become those of the model since (`data.own.relabelled_splits`).
    """
    known = isinstance(source, str) and source in DATASETS
    place = str(source) if known else str(Path(source).expanduser().resolve())
    return ImagesFrom(source=place, size=size, sha256=spec.sha256, notes=notes, geometry=geometry, outputs=outputs)


def keep_images_from(run: RunDirectory, entry: ImagesFrom) -> None:
    """Write the entry into the run's manifest, in place of an earlier one."""
    run.write({**run.read(), IMAGES_FROM: entry_of(entry)})


def entry_of(entry: ImagesFrom) -> dict[str, Any]:
    """Return the fields of an entry as manifests have them; geometry and outputs only where there are some."""
    later = ("geometry", "outputs")
    return {name: value for name, value in asdict(entry).items() if not (name in later and value is None)}


def kept_images_from(manifest: Mapping[str, Any], where: Path) -> ImagesFrom | None:
    """Return a manifest's entry, None where there is none; raise ValueError, naming `where`, for a damaged one."""
    entry = manifest.get(IMAGES_FROM)
    if entry is None:
        return None
    try:
        return TypeAdapter(ImagesFrom).validate_json(json.dumps(entry), strict=True)
    except ValidationError as error:
        raise ValueError(
            f"{where}: {IMAGES_FROM!r} is damaged; remove this entry and 'checksum', and give the images by --data"
        ) from error


def kept_classes(run: RunDirectory, source: str | Path) -> tuple[str, ...] | None:
    """Return the classes of a run that was begun on such a folder, by label; None for another source, or no run.

    They stay what they were when the run began, however folders are sorted today.
    """
    if source in DATASETS or not Path(source).expanduser().is_dir() or not run.manifest_path.is_file():
        return None
    manifest = run.read()
    images, kept = ModelSpec(**manifest["model"]).images, kept_images_from(manifest, run.manifest_path)
    return None if images is None else _order(Path(source).expanduser(), _folders(images, kept))


def _folders(images: ImageSpec, kept: ImagesFrom | None) -> tuple[str, ...]:
    """Return the classes of a run's source by label, before they became outputs of its model."""
    return tuple(name for name, _ in kept.outputs) if kept and kept.outputs else images.classes


def splits_of(
    run: RunDirectory,
    *,
    source: str | None = None,
    device: torch.device | str = "cpu",
    data_dir: Path | None = None,
    offline: bool = False,
    may_update: bool = False,
    progress: Progress | None = None,
    limits: Limits | None = None,
) -> Splits:
    """Return the images that a run was trained on, or others of the same kind.

    Of a folder, labels are positions among the classes that the run knows.

    Parameters
    ----------
    run
        Finished.
    source
        Other images (see `data.own.load_splits`), brought to size as the run's; None takes those that the manifest
        names.
    device, data_dir, offline, may_update, progress, limits
        See `data.own.load_splits`.

    Raises
    ------
    ValueError
        For images that are no longer those of the run, or that have other classes, channels or another size.
        `DataNotFoundError`, a ValueError, where they are not found.
    """
    manifest = run.read()
    model = ModelSpec(**manifest["model"])
    kept = kept_images_from(manifest, run.manifest_path)
    place = source or (kept.source if kept else model.dataset)
    known, expected = place in DATASETS, images_of(model)
    folders = _folders(expected, kept)
    if source is None and kept is None and not known:
        raise DataNotFoundError(f"{run.path} does not say where its images are; give them by --data")
    if source is None and kept is not None and not known and not Path(place).exists():
        raise DataNotFoundError(f"{run.path} was trained on the images in {place}, which is not there; give --data")
    splits = load_splits(
        place if known else Path(place),
        size=None if known or (kept and kept.geometry) or expected.width else expected.size,
        geometry=kept.geometry if kept and not known else None,
        classes=None if known else _order(Path(place).expanduser(), folders),
        limits=limits,
        rectangles=expected.width is not None,
        few=HARDENED in manifest,
        device=device,
        data_dir=data_dir if known else None,
        offline=offline,
        may_update=may_update,
        progress=progress,
    )
    _check_kind(place, splits.spec, folders, expected, run)
    if source is None and kept is not None and splits.spec.sha256 != kept.sha256:
        turned = next((f"; {note}, which was not always so" for note in splits.notes if "EXIF" in note), "")
        raise ValueError(
            f"the images in {place} are no longer those that {run.path} was trained on (SHA-256 "
            f"{splits.spec.sha256[:12]}, not {kept.sha256[:12]}{turned}); restore them, or give --data {place} to "
            "use them as they are"
        )
    if kept and kept.outputs:
        numbers = Numbers(tuple(number for _, number in kept.outputs), "labels are the outputs that the run keeps")
        splits = relabelled_splits(splits, numbers, len(expected.classes))
    return splits


def _order(place: Path, classes: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return a run's classes, for a folder that has no others; None for anything else."""
    if not place.is_dir() or not set(map(same, ImageFolder(place, Limits()).classes)) <= set(map(same, classes)):
        return None
    return classes


def _check_kind(
    place: str, spec: DatasetSpec, folders: tuple[str, ...], expected: ImageSpec, run: RunDirectory
) -> None:
    if tuple(map(same, spec.classes)) != tuple(map(same, folders)):
        raise ValueError(
            f"{place} has the classes {_listed(spec.classes)}, {run.path} knows {_listed(folders)}; "
            "give images of the same classes"
        )
    if (spec.channels, spec.sides) != (expected.channels, expected.sides):
        wanted = " x ".join(map(str, (expected.channels, *expected.sides)))
        raise ValueError(f"images of {place} are {spec.shape}, but {run.path} reads {wanted}; convert them")


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
