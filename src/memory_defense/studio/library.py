"""Loaded defenses and datasets, a few at a time. Only the workshop's one thread comes here."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from memory_defense.contracts import Defense, Flagging, Images
from memory_defense.data.geometry import Framing, Geometry
from memory_defense.data.images import ImageSet, load_dataset
from memory_defense.data.sources import DataNotFoundError
from memory_defense.data.spec import DATASETS, images_of
from memory_defense.model_spec import ModelSpec
from memory_defense.studio.messages import ImageChoice
from memory_defense.studio.play import Posed, Subject
from memory_defense.studio.prepared import Prepared, prepared_for
from memory_defense.studio.runs import Run, Runs
from memory_defense.systems.load import load_defense
from memory_defense.workflows.run_images import ImagesFrom, kept_images_from, splits_of

_INSTEAD = "upload or draw one"

KEPT = 4
"""Largest number of defenses, and of users' own test sets, in memory; the least recently used go first."""


@dataclass(frozen=True)
class Shape:
    """The images that a run's defense takes."""

    dataset: str
    channels: int
    size: int | tuple[int, int]
    """Pixels a side, or height and width."""
    classes: tuple[str, ...]
    framing: Framing = field(default=None, compare=False)
    """How pictures are brought to these pixels; None takes the largest centred square, or gives up the aspect."""

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def pixels(self) -> int:
        """Grey levels of an image, C x H x W."""
        return self.channels * self.sides[0] * self.sides[1]

    @property
    def how(self) -> int | Geometry:
        """How a picture is brought to size."""
        if self.framing is not None:
            return self.framing
        return self.size if isinstance(self.size, int) else Geometry(resize=self.size)

    def __str__(self) -> str:
        """Return dataset, shape and number of classes."""
        height, width = self.sides
        return f"{self.dataset} ({self.channels} x {height} x {width}, {len(self.classes)} classes)"


@dataclass(frozen=True)
class OwnModel:
    """A classifier that is no run, as it was opened, with the images that it is judged on."""

    name: str
    """What the page calls it: the target as it was typed."""
    defense: Defense
    shape: Shape
    tests: ImageSet


Opened = Run | OwnModel
"""What the page plays with."""


@dataclass(frozen=True)
class _Loaded:
    written: tuple[int, ...]
    defense: Defense
    prepared: Prepared | None


class Library:
    """Defenses by the name of their run, and the test images of their datasets.

    Parameters
    ----------
    runs
        Runs whose defenses are loaded.
    data_dir
        Directory to look in first for known datasets. They are never downloaded from here.
    tests
        Test images that are loaded already, by the name of their dataset.
    own
        A classifier that is no run; None for none.
    """

    def __init__(
        self,
        runs: Runs,
        data_dir: Path | None = None,
        tests: Mapping[str, ImageSet] | None = None,
        own: OwnModel | None = None,
    ) -> None:
        self.runs = runs
        self.own = own
        self._data_dir = data_dir
        self._defenses: OrderedDict[str, _Loaded] = OrderedDict()
        self._tests: dict[str, ImageSet | str] = dict(tests or {})
        self._own: OrderedDict[str, ImageSet] = OrderedDict()

    def find(self, name: str) -> Opened:
        """Return the classifier or the run of this name; raise what `Runs.find` raises."""
        return self.own if self.own is not None and name == self.own.name else self.runs.find(name)

    def most_pixels(self) -> int:
        """Return the grey levels of the largest image that anything here takes; damaged runs do not count."""
        found = [0] if self.own is None else [self.own.shape.pixels]
        for run in self.runs.all().values():
            try:
                found.append(self.shape(run).pixels)
            except (ValueError, OSError, KeyError, TypeError):
                continue
        return max(found)

    def shape(self, run: Opened) -> Shape:
        """Return what images a run takes; raise ValueError when the run is damaged."""
        if isinstance(run, OwnModel):
            return run.shape
        model = ModelSpec(**run.directory.read()["model"])
        images = images_of(model)
        return Shape(model.dataset, images.channels, images.size, tuple(images.classes), _geometry(run))

    def subject(self, name: str) -> Subject:
        """Return a run's defense, loaded again when its files have changed; raise what `load` raises."""
        run = self.find(name)
        if isinstance(run, OwnModel):
            return Subject(name, run.defense, run.shape.classes)
        written = _written(run)
        kept = self._defenses.pop(name, None)
        if kept is None or kept.written != written:
            kept = _loaded(run, written)
        self._defenses[name] = kept
        while len(self._defenses) > KEPT:
            self._defenses.popitem(last=False)
        return Subject(name, kept.defense, self.shape(run).classes)

    def flag_is_ours(self, name: str) -> bool:
        """Return whether the threshold of a loaded run's flag is the studio's, because the run keeps none."""
        self.subject(name)
        return name in self._defenses and self._defenses[name].prepared is not None

    def tests_of(self, run: Opened) -> ImageSet:
        """Return the test images of a run: its dataset's, or its own from where its manifest says.

        A known dataset is looked for once. A user's own images are looked for until they are found, then kept as
        they were.

        Raises
        ------
        ValueError
            If they are not on this machine, or no longer those that the run was trained on.
        """
        if isinstance(run, OwnModel):
            return run.tests
        source = own_source(run)
        if source is None:
            return self.test_images(self.shape(run).dataset)
        key = self.images_key(run)
        found = self._own.pop(key, None)
        self._own[key] = own_test_images(run, source) if found is None else found
        while len(self._own) > KEPT:
            self._own.popitem(last=False)
        return self._own[key]

    def images_key(self, run: Opened) -> str:
        """Return a name that two runs share exactly where their test images are the same."""
        shape = self.shape(run)
        if isinstance(run, OwnModel):
            return f"{run.name} {shape}"
        try:
            source = own_source(run)
        except ValueError:
            source = None
        return shape.dataset if source is None else f"{source.sha256} {shape}"

    def test_images(self, dataset: str) -> ImageSet:
        """Return a known dataset's test images; raise ValueError when it is not on this machine."""
        if dataset not in self._tests:
            self._tests[dataset] = self._found(dataset)
        found = self._tests[dataset]
        if isinstance(found, str):
            raise ValueError(found)
        return found

    def _found(self, dataset: str) -> ImageSet | str:
        if dataset not in DATASETS:
            return f"{dataset} is a dataset of your own, and the run does not say where it is: upload or draw one"
        try:
            return load_dataset(dataset, data_dir=self._data_dir, offline=True).test
        except DataNotFoundError:
            return (
                f"{dataset} is not on this machine, so there are no test images: upload or draw one, or run "
                f"'memdef data {dataset}' and start the studio again"
            )

    def pose(self, choice: ImageChoice, label: int | None, run: Opened) -> Posed:
        """Return the image that the page chose, and the class it is to leave.

        Raises
        ------
        ValueError
            For neither or both ways to name it, a position out of range, or pixels of another shape.
        """
        if (choice.test is None) == (choice.pixels is None):
            raise ValueError("an image is named by test, a position, or by pixels; give exactly one of them")
        if choice.test is not None:
            tests = self.tests_of(run)
            if choice.test >= len(tests):
                raise ValueError(f"test image {choice.test} does not exist; choose 0 to {len(tests) - 1}")
            rows = torch.tensor([choice.test])
            own = int(tests.labels[choice.test])
            return Posed(
                tests.floats(rows),
                int(tests.ids[choice.test]),
                own if label is None else label,
                "dataset" if label in (None, own) else "you",
            )
        assert choice.pixels is not None
        image = pixels_of(choice.pixels, self.shape(run))
        ready = prepared_for(run) if isinstance(run, Run) else None
        if ready is not None and ready.example is not None and ready.example.pixels == choice.pixels:
            own = ready.example.label
            return Posed(
                image,
                ready.example.identity,
                own if label is None else label,
                "dataset" if label in (None, own) else "you",
            )
        identity = int.from_bytes(hashlib.blake2b(choice.pixels.encode(), digest_size=4).digest(), "little") >> 1
        return Posed(image, identity, label, "you")


def _geometry(run: Run) -> Geometry | None:
    """Return how a run's own images were brought to size, if it was no largest square; None where nothing says."""
    try:
        kept = kept_images_from(run.directory.read(), run.directory.manifest_path)
    except ValueError:  # `tests_of` says what is damaged
        return None
    return Geometry.parse(kept.geometry) if kept is not None and kept.geometry else None


def _loaded(run: Run, written: tuple[int, ...]) -> _Loaded:
    """Return a run's defense; where it can flag and keeps no threshold, one that was prepared for its weights."""
    defense, ready = load_defense(run.directory.path), None
    if isinstance(defense, Flagging) and defense.flag_threshold is None:
        ready = prepared_for(run)
        if ready is not None:
            ready.flag.flag().put_on(defense)
    return _Loaded(written, defense, ready)


def pixels_of(text: str, shape: Shape) -> Images:
    """Return base64 of C x H x W grey levels as one image (1, C, H, W) float32 in [0, 1]; raise ValueError."""
    expected = shape.pixels
    if len(text) > (most := 4 * -(-expected // 3)):
        raise ValueError(
            f"pixels are {len(text)} characters of base64, at most {most} for images of {shape.dataset}; "
            "upload or draw the image again for this defense"
        )
    try:
        levels = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"pixels are not base64 ({error}); upload or draw the image again") from error
    if len(levels) != expected:
        raise ValueError(
            f"pixels are {len(levels)} bytes, but images of {shape.dataset} have {expected}; "
            "upload or draw the image again for this defense"
        )
    flat = torch.from_numpy(np.frombuffer(levels, dtype=np.uint8).copy())
    return flat.reshape(1, shape.channels, *shape.sides).float().div_(255)


def _written(run: Run) -> tuple[int, ...]:
    files = (run.directory.manifest_path, run.directory.weights, run.directory.undefended)
    return tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in files)


def own_source(run: Run) -> ImagesFrom | None:
    """Return the source of a run's own images in its manifest; None for a known dataset, or if it is not there.

    Raises ValueError for a damaged manifest, or a damaged entry.
    """
    try:
        kept = kept_images_from(run.directory.read(), run.directory.manifest_path)
    except ValueError as error:
        raise ValueError(f"{_reason(error)}: {_INSTEAD}") from error
    return None if kept is None or kept.source in DATASETS else kept


def own_test_images(run: Run, source: ImagesFrom) -> ImageSet:
    """Return a run's own test images, in the order of its evaluation; all its images are read and checked.

    Nothing but the manifest says where they are, and they are those that its SHA-256 says, or none.

    Raises
    ------
    ValueError
        If they are not there, or are no longer those of the run; the text is for the page.
    """
    try:
        return splits_of(run.directory, offline=True).test
    except DataNotFoundError as error:
        raise ValueError(
            f"{run.name} was trained on your own images in {source.source}, which is not there any more: put them "
            f"back and choose the run again, or {_INSTEAD}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{_reason(error)}: restore them and choose the run again, or {_INSTEAD}") from error


def _reason(error: ValueError) -> str:
    """Return what is wrong without the remedy, which is for the command line."""
    reason, _, _ = str(error).rpartition("; ")
    return reason or str(error)
