"""The choices that the page offers: runs, attacks with their options, knowledge, test images."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from memory_defense.attacks import ATTACKS
from memory_defense.contracts import Certifying, Defense, Flagging, SlotDefense
from memory_defense.randomness import ImageDraws
from memory_defense.studio.knowledge import knowledge_of
from memory_defense.studio.library import Library, OwnModel
from memory_defense.studio.messages import Message
from memory_defense.studio.pictures import uri
from memory_defense.studio.play import OPTION_LIMITS, options_of
from memory_defense.studio.prepared import Example, prepared_for
from memory_defense.studio.runs import Run
from memory_defense.studio.uploads import UPLOAD_LIMITS
from memory_defense.threat import BALLS, ball
from memory_defense.version import __version__


class RunView(Message):
    """A run in the list."""

    name: str
    fault: str
    """Reason why it cannot be used; empty if it can."""
    recipe: str = ""
    dataset: str = ""
    images: str = ""
    """The same for two runs exactly if their test images are the same; see `Library.images_key`."""
    classes: tuple[str, ...] = ()
    channels: int = 0
    height: int = 0
    width: int = 0
    record: bool = False
    shipped: bool = False
    """Whether it comes with the package."""


class OptionView(Message):
    """A number that the page may set."""

    name: str
    start: int
    most: int


class AttackView(Message):
    """An attack in the list."""

    name: str
    summary: str
    norms: list[str]
    options: list[OptionView]


class Shelf(Message):
    """Everything that can be chosen before a defense is loaded."""

    version: str
    runs: list[RunView]
    first: str
    """Name of the run that the page opens with; empty where none can be used."""
    opening: Example | None
    """An attack on it that was computed before; none for runs of one's own."""
    attacks: list[AttackView]
    upload_bytes: int
    upload_pixels: int


class KnowledgeView(Message):
    """One attacker's knowledge; see `knowledge.Known`."""

    name: str
    label: str
    meaning: str
    adaptive: bool
    methods: list[str]
    needs: str


class Described(Message):
    """A loaded defense."""

    run: str
    knowledge: list[KnowledgeView]
    slots: bool
    flag: str
    """What it flags, or how to make it flag, in words."""
    test_images: int
    test_fault: str


class Thumbnail(Message):
    """One test image."""

    index: int
    label: int
    picture: str


class Thumbnails(Message):
    """Some test images in their order."""

    total: int
    images: list[Thumbnail]


def shelf(library: Library) -> Shelf:
    """Return all runs and attacks, and what the page opens with."""
    runs = library.runs.all()
    views = [_run_view(library, run) for run in runs.values()]
    first = _first([runs[view.name] for view in views if not view.fault], named=library.runs.named)
    opening = _opening(runs[first]) if first and library.own is None else None
    own = [] if library.own is None else [_own_view(library, library.own)]
    return Shelf(
        version=__version__,
        runs=[*own, *views],
        first=own[0].name if own else first,
        opening=opening,
        attacks=[_attack_view(name) for name in ATTACKS],
        upload_bytes=UPLOAD_LIMITS.file_bytes,
        upload_pixels=UPLOAD_LIMITS.file_pixels,
    )


def describe_run(library: Library, name: str) -> Described:
    """Return what a run's defense publishes; raise what `Library.subject` raises."""
    defense = library.subject(name).defense
    try:
        total, fault = len(library.tests_of(library.find(name))), ""
    except ValueError as error:
        total, fault = 0, str(error)
    return Described(
        run=name,
        knowledge=[
            KnowledgeView.model_validate(known, from_attributes=True) for known in knowledge_of(defense).values()
        ],
        slots=isinstance(defense, SlotDefense),
        flag=_flag(library, name, defense),
        test_images=total,
        test_fault=fault,
    )


def _first(usable: list[Run], *, named: bool) -> str:
    """Return the name of the run to open with: the example's; the first of one's own where a folder was named."""
    own = [run for run in usable if not run.shipped]
    shipped = [run for run in usable if run.shipped]
    example = [run for run in shipped if _opening(run) is not None]
    order = [*own, *example, *shipped] if named else [*example, *own, *shipped]
    return order[0].name if order else ""


def _opening(run: Run) -> Example | None:
    """Return the example of a run under the name that it has here, if one was prepared for its weights."""
    ready = prepared_for(run)
    if ready is None or ready.example is None:
        return None
    played = ready.example.played.model_copy(update={"run": run.name})
    return ready.example.model_copy(update={"played": played})


def _flag(library: Library, name: str, defense: Defense) -> str:
    """Return what a loaded defense flags, or how to make it flag."""
    if isinstance(defense, Flagging):
        threshold = defense.flag_threshold
        if threshold is None:
            found = library.find(name)
            place = found.directory.path if isinstance(found, Run) else name
            return (
                f"It can flag suspicious images by their {defense.flag_score} score, but no threshold has been "
                f"chosen; choose one with: memdef evaluate {place} --detection"
            )
        said = f"It flags an image as suspicious when its {defense.flag_score} score is above {threshold:.4g}."
        ready = prepared_for(library.runs.find(name)) if library.flag_is_ours(name) else None
        if ready is None:
            return said
        flag = ready.flag
        return (
            f"{said} {100 * flag.false_alarms:g} % of {flag.calibration_images:,} held-out clean images have a "
            "higher score. This threshold comes with the studio; the run itself stores none."
        )
    if isinstance(defense, Certifying):
        return (
            f"It proves its answers ({defense.certified_method}): each image shows the proven radius. The gate for "
            "an epsilon accepts an image if its answer is proven within half of epsilon, and flags all others."
        )
    return "It never flags an image."


def thumbnails(library: Library, name: str, start: int, count: int) -> Thumbnails:
    """Return some of a run's test images, fewer at their end; raise ValueError where there are none."""
    tests = library.tests_of(library.find(name))
    rows = torch.arange(min(start, len(tests)), min(start + count, len(tests)))
    images = tests.floats(rows)
    return Thumbnails(
        total=len(tests),
        images=[
            Thumbnail(index=int(row), label=int(tests.labels[row]), picture=uri(image))
            for row, image in zip(rows, images, strict=True)
        ],
    )


def _run_view(library: Library, run: Run) -> RunView:
    fault = run.fault()
    try:
        recipe, shape = str(run.directory.read()["recipe"]), library.shape(run)
    except (ValueError, OSError, KeyError, TypeError) as error:
        return RunView(name=run.name, fault=fault or str(error))
    return RunView(
        name=run.name,
        fault=fault,
        recipe=recipe,
        dataset=shape.dataset,
        images=library.images_key(run),
        classes=shape.classes,
        channels=shape.channels,
        height=shape.sides[0],
        width=shape.sides[1],
        record=run.directory.record.is_file(),
        shipped=run.shipped,
    )


def _own_view(library: Library, own: OwnModel) -> RunView:
    height, width = own.shape.sides
    return RunView(
        name=own.name,
        fault="",
        recipe="your classifier",
        dataset=own.shape.dataset,
        images=library.images_key(own),
        classes=own.shape.classes,
        channels=own.shape.channels,
        height=height,
        width=width,
    )


@cache
def _attack_view(name: str) -> AttackView:
    summary = (ATTACKS[name].__doc__ or "").strip().split("\n")[0]
    options = [
        OptionView(name=one, start=start, most=OPTION_LIMITS[one]) for one, start in options_of(name).items()
    ]
    return AttackView(name=name, summary=summary, norms=norms_of(name), options=options)


def norms_of(name: str) -> list[str]:
    """Return the norms whose balls an attack takes, found by trying one of radius 0 on a linear model."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    image, label = torch.full((1, 1, 4, 4), 0.5), torch.zeros(1, dtype=torch.int64)
    taken: list[str] = []
    for norm in BALLS:
        try:
            ATTACKS[name]()(model, image, label, ball(norm, 0.0), ImageDraws.of(0, "norms", 1))
        except ValueError:
            continue
        taken.append(norm)
    return taken
