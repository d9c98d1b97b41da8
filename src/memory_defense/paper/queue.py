"""Work for a GPU, most valuable first: what each entry proves, and its recipes.

An entry is a list of recipes that one rental of at most nine minutes trains and evaluates whole. `work` stops by
itself, at a whole step, when its time is up, and goes on from there where its directory is still there. What is
kept are the records, and the weights that an entry names, the very ones that were evaluated, in half precision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from memory_defense.attacks import Fgsm
from memory_defense.contracts import Attack, Defense, FineProgress, Progress
from memory_defense.data.decode import Arrays
from memory_defense.data.images import Splits, split
from memory_defense.data.spec import dataset_spec
from memory_defense.evaluation.kept import check_still_its_own, read_whole
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.pixels import Pixels
from memory_defense.evaluation.record import Record
from memory_defense.files import remove, write_text
from memory_defense.model_spec import ModelSpec
from memory_defense.names import check_name
from memory_defense.paper.half_weights import restore_half, round_to_half, write_half
from memory_defense.paper.tables import DataSource, is_made, trained
from memory_defense.randomness import ImageDraws
from memory_defense.recipes.recipe import EvaluationPlan, Recipe
from memory_defense.recipes.registry import recipe
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.build import build_defense
from memory_defense.systems.load import load_defense
from memory_defense.workflows.assess import assess


@dataclass(frozen=True, kw_only=True)
class QueueEntry:
    """One claim that needs a GPU to be measured."""

    claim: str
    """Claim that the results decide, in one line."""
    recipes: tuple[str, ...]
    """Trained and evaluated in this order; names of `recipes.RECIPES`."""
    minutes: int
    """Minutes on one large GPU for training and evaluation, at most 9: an estimate until it is run."""
    back: str
    """Results that are kept."""
    images: int
    """Test images, at most; the recipe's plan may have fewer."""
    weights: tuple[str, ...] | None = None
    """The recipes whose weights are kept; None is all. Of the others the record and the manifest are."""
    judges: str = ""
    """The entry whose trained systems this one attacks instead of training its own; empty for none."""
    chunk: int = 2048
    """Images attacked between two looks at the clock."""
    suite: str | None = None
    """Suite of the cascade; None takes the recipe's."""
    unbounded: Mapping[str, Attack] | None = None
    """In place of the recipe's unbounded attacks."""

    def chosen(self, *, tiny: bool) -> tuple[Recipe, ...]:
        """Return its recipes with the plans that it asks for; at toy size with `tiny`."""
        if tiny:
            return tuple(_toy(recipe(_tiny(name))) for name in self.recipes)
        return tuple(self._planned(recipe(name)) for name in self.recipes)

    def _planned(self, one: Recipe) -> Recipe:
        plan = one.evaluation
        unbounded = plan.unbounded if self.unbounded is None else self.unbounded
        images, suite = min(plan.images, self.images), self.suite or plan.suite
        return replace(one, evaluation=replace(plan, images=images, suite=suite, unbounded=unbounded))


def _tiny(name: str) -> str:
    return name.replace("/rental/", "/tiny/") if "/rental/" in name else f"{name}-tiny"


def _toy(one: Recipe) -> Recipe:
    """Return a tiny recipe that is judged by little: one attack on two images in one ball, and a cascade.

    PixelDefend, each of whose passes takes a processor seconds, goes without the cascade.
    """
    suite = None if one.model.defense == "pixeldefend" else "glimpse"
    plan = EvaluationPlan(images=2, linf=one.evaluation.linf[:1], attacks={"fgsm": Fgsm()}, suite=suite)
    return replace(one, evaluation=plan, held_out=replace(one.held_out, images=4))


def _rows(dataset: str, *rows: str) -> tuple[str, ...]:
    return tuple(f"{dataset}/rental/{row}" for row in rows)


_OFFLINE = ("resnet-benign", "resnet-offline", "memory-defense")
_ONLINE = ("resnet-online", "memory-defense-sound")
_KEPT = "a record and the weights of each"
_LAST_KEPT = "a record of each, the weights of the last"

QUEUE: dict[str, QueueEntry] = {
    "fashion-mnist-paper": QueueEntry(
        claim="Table 1 with ResNet-50 on Fashion-MNIST: benign, PGD images made once, Memory Defense behind them",
        recipes=_rows("fashion-mnist", *_OFFLINE),
        minutes=7,
        back=_LAST_KEPT,
        images=1000,
        weights=_rows("fashion-mnist", "memory-defense"),
    ),
    "fashion-mnist-online": QueueEntry(
        claim="The same with a selector trained on attacks made as it goes, and the sound Memory Defense behind it",
        recipes=_rows("fashion-mnist", *_ONLINE),
        minutes=9,
        back=_LAST_KEPT,
        images=1000,
        weights=_rows("fashion-mnist", "memory-defense-sound"),
    ),
    "cifar10-strong": QueueEntry(
        claim="What a ResNet-18 selector holds at 8/255 on CIFAR-10 after minutes of TRADES with perturbed weights",
        recipes=("cifar10/strong",),
        minutes=9,
        back="a brief record of 1,000 test images and the weights",
        images=1000,
        suite="glimpse",
    ),
    "cifar10-strong-attacks": QueueEntry(
        claim="The same system, as it came back, under the suite fast on 2,000 images, and whether a memory adds",
        recipes=("cifar10/strong",),
        minutes=7,
        back="a record of 2,000 test images",
        images=2000,
        judges="cifar10-strong",
    ),
    "fashion-mnist-strong": QueueEntry(
        claim="What a selector trained by TRADES with perturbed weights holds at 25/255, and whether a memory adds",
        recipes=("fashion-mnist/strong",),
        minutes=9,
        back="a record of 1,000 test images and the weights",
        images=1000,
        suite="brief",
    ),
    "cifar10-resnet50": QueueEntry(
        claim="Table 2 with ResNet-50 on CIFAR-10: benign, PGD images made once, Memory Defense behind them",
        recipes=_rows("cifar10", *_OFFLINE),
        minutes=7,
        back=_LAST_KEPT,
        images=1000,
        weights=_rows("cifar10", "memory-defense"),
    ),
    "cifar10-resnet50-online": QueueEntry(
        claim="The same with a selector trained on attacks made as it goes, and the sound Memory Defense behind it",
        recipes=_rows("cifar10", *_ONLINE),
        minutes=9,
        back=_LAST_KEPT,
        images=1000,
        weights=_rows("cifar10", "memory-defense-sound"),
    ),
    "fashion-mnist-purifiers": QueueEntry(
        claim="MagNet and ComDefend before ResNet-50 on Fashion-MNIST, attacked through the purifier (Table 1)",
        recipes=_rows("fashion-mnist", "magnet", "comdefend"),
        minutes=7,
        back="a record of each",
        images=500,
        weights=(),
    ),
    "cifar10-purifiers": QueueEntry(
        claim="ComDefend before ResNet-50 on CIFAR-10, attacked through the purifier (Table 2)",
        recipes=_rows("cifar10", "comdefend"),
        minutes=5,
        back="a record",
        images=500,
        weights=(),
    ),
    "cifar10-defense-vae": QueueEntry(
        claim="Defense-VAE on CIFAR-10, by reconstruction and end to end, attacked through the purifier (Table 3)",
        recipes=_rows("cifar10", "defense-vae-rec", "defense-vae-e2e"),
        minutes=8,
        back="a record of each",
        images=500,
        weights=(),
    ),
    "pixelcnn": QueueEntry(
        claim="PixelDefend with its published PixelCNN++ on Fashion-MNIST, attacked by those who know it is there",
        recipes=("fashion-mnist/rental/pixeldefend",),
        minutes=9,
        back=_KEPT,
        images=200,
        suite="glimpse",
        unbounded={},
    ),
}
"""Every entry by name, the most valuable first."""


def entry(name: str) -> QueueEntry:
    """Return an entry by name; raise ValueError with the nearest name for an unknown one."""
    check_name(name, QUEUE, "entry of the queue")
    return QUEUE[name]


def markdown_table() -> str:
    """Return the queue as the table of docs/gpu-queue.md."""
    lines = ["| name | what it proves | recipes | minutes | what comes back |", "|---|---|---|---|---|"]
    for name, one in QUEUE.items():
        recipes = ", ".join(f"`{name}`" for name in one.recipes)
        lines.append(f"| `{name}` | {one.claim} | {recipes} | about {one.minutes} | {one.back} |")
    return "\n".join(lines) + "\n"


class Deadline:
    """A progress that stops the work, as Ctrl-C does, at the first whole step after its time is up.

    Parameters
    ----------
    inner
        Receives everything as well.
    seconds
        Time limit, from now on; infinite for none.
    clock
        Current time in seconds.
    """

    def __init__(self, inner: Progress, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.inner, self.clock, self.end = inner, clock, clock() + seconds
        self.passed = False

    def begin(self, what: str, total: int) -> None:
        """Start a stage."""
        self.inner.begin(what, total)

    def advance(self, steps: int, text: str = "") -> None:
        """Count steps; raise KeyboardInterrupt once the time is up."""
        self.inner.advance(steps, text)
        self.check()

    def tell(self, text: str, left: float | None = None) -> None:
        """Pass on where the work is; only a whole step ends it, or long ones would never be done."""
        if isinstance(self.inner, FineProgress):
            self.inner.tell(text, left)

    def check(self) -> None:
        """Raise KeyboardInterrupt once the time is up."""
        if self.clock() >= self.end:
            self.passed = True
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        """Say one line."""
        self.inner.note(text)


def work(
    name: str,
    out: Path,
    data: DataSource,
    *,
    back: Path,
    deadline: Deadline,
    tiny: bool = False,
    earlier: Path | None = None,
    kept: Callable[[], object] = lambda: None,
) -> bool:
    """Work on an entry until it is done or its time is up; return whether it is done.

    Parameters
    ----------
    name
        Key of `queue.QUEUE`.
    out
        Directory of all runs; what is there already is used, by other entries as well.
    data
        Called for a dataset when it is needed; see `made_up` for toy sizes.
    back
        Directory of what is kept, ``back/name/recipe``, written each time a recipe is done.
    deadline
        Receives how far the work is, and stops it.
    tiny
        Every stage at toy size.
    earlier
        The directory `back` of the entry that this one judges (`QueueEntry.judges`); None looks in `back`.
    kept
        Called each time something more is in `back`, so that it survives a kill.

    Raises
    ------
    ValueError
        For an unknown name, runs in `out` that were made otherwise, or nothing to judge.
    """
    chosen = entry(name)
    known: dict[str, Splits] = {}
    try:
        for number, one in enumerate(chosen.chosen(tiny=tiny), 1):
            deadline.note(f"{name}: {number} of {len(chosen.recipes)}, {one.name}")
            deadline.check()
            dataset = one.model.dataset
            place = back / name / one.name
            if chosen.judges:
                source = (earlier or back) / chosen.judges / one.name
                check_is_there(source, chosen.judges)
                splits = known[dataset] = known[dataset] if dataset in known else data(dataset)
                _judge(one, source, splits, chosen.chunk, place, deadline)
                kept()
                continue
            splits = known[dataset] = known[dataset] if dataset in known else data(dataset)
            run = trained(one, out, splits, seed=0, progress=deadline)
            whole = chosen.weights is None or chosen.recipes[number - 1] in chosen.weights
            _evaluate(one, run, splits, chosen.chunk, place if whole else None, deadline)
            _keep_record(run.record, run.manifest_path, place)
            kept()
    except KeyboardInterrupt:
        if not deadline.passed:
            raise
        return False
    return True


def check_is_there(source: Path, judged: str) -> None:
    """Raise ValueError unless `source` holds what came back of an entry."""
    if not (source / "weights.json").is_file():
        raise ValueError(
            f"{source} holds no weights, but they are what this entry attacks; run 'memdef queue run {judged}' "
            "first, or unpack what came back of it and give that place with --from"
        )


def _options(splits: Splits, chunk: int, progress: Progress) -> Options:
    """Return how an entry is judged: on a GPU with gradients in bfloat16, whose finds are asked in float32."""
    return Options(chunk=chunk, progress=progress, bfloat16=splits.test.images.device.type == "cuda")


def _evaluate(
    one: Recipe, run: RunDirectory, splits: Splits, chunk: int, place: Path | None, progress: Deadline
) -> None:
    """Evaluate a trained system unless that is done, at the weights that are kept; then keep them in `place`."""
    defense = load_defense(run.path)
    round_to_half(defense)
    defense.to(splits.test.images.device)
    if is_made(run.record, one, seed=0):
        found = read_whole(run.record)
        subset = splits.test.first(min(found.images, len(splits.test)))
        check_still_its_own(found, run.record, defense, Pixels.of(subset), subset.ids)
    else:
        progress.note(f"{one.name}: attacks")
        assess(one, run, defense, splits, options=_options(splits, chunk, progress))
    if place is not None:
        write_half(defense, place)


def _judge(one: Recipe, source: Path, splits: Splits, chunk: int, place: Path, progress: Deadline) -> None:
    """Evaluate what came back of another entry, and keep the record."""
    defense = returned(source).to(splits.test.images.device)
    assert isinstance(defense, Defense)
    progress.note(f"{one.name}: attacks")
    work_place = place / "record.json"
    assess(one, RunDirectory(source), defense, splits, out=work_place, options=_options(splits, chunk, progress))
    for path in place.iterdir():  # the images and the gallery stay behind
        if path.is_file() and path != work_place:
            remove(path)
    _keep_record(work_place, RunDirectory(source).manifest_path, place)


def _keep_record(record: Path, manifest: Path, place: Path) -> None:
    """Write a record without its file of images, and a manifest, where they are kept."""
    write_text(place / "manifest.json", manifest.read_text(encoding="utf-8"))
    Record.read(record).model_copy(update={"per_image": None, "per_image_sha256": ""}).write(place / "record.json")


def returned(directory: Path | str) -> nn.Module:
    """Return a trained system from what `work` kept of it: images (B, C, H, W) in [0, 1] to logits (B, K).

    It has the weights that its record was made with, in eval mode, on the CPU; the net behind its transfer attack
    is not kept.

    Raises
    ------
    ValueError
        If files are missing or damaged.
    """
    run = RunDirectory(Path(directory))
    defense = build_defense(ModelSpec(**run.read()["model"]))
    restore_half(run.path, defense)
    return defense.eval()


def made_up(dataset: str, device: torch.device) -> Splits:
    """Return 100 training, 30 held-out and 20 test images of a dataset's shape; class k has a bright bar.

    Records call them made up.
    """
    spec = dataset_spec(dataset)
    count, width, rows = 150, spec.size // len(spec.classes), torch.arange(spec.size)
    labels = (torch.arange(count) % len(spec.classes)).to(torch.uint8)
    noise = ImageDraws.of(0, "made up", torch.arange(count)).uniform(spec.channels, spec.size, spec.size)
    start = width * labels.long()[:, None]
    bright = (rows >= start) & (rows < start + 2 * width)  # (N, H)
    images = (120 * noise + 120 * bright[:, None, :, None]).to(torch.uint8)
    arrays = Arrays(images[:130], labels[:130], images[130:], labels[130:])
    return split(arrays, replace(spec, name=f"made-up images like {dataset}", held_out_images=30), device)
