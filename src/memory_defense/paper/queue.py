"""Work for a GPU, most valuable first: what each entry proves, and its recipes.

An entry is a list of recipes; `work` trains and evaluates them, a few minutes at a time: it goes on where the last
piece stopped, and stops by itself, at a whole step, when its time is up. Every record is kept, and the very weights
that were evaluated, in half precision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from memory_defense.attacks import Fgsm
from memory_defense.contracts import Attack, FineProgress, Progress
from memory_defense.data.decode import Arrays
from memory_defense.data.images import Splits, split
from memory_defense.data.spec import dataset_spec
from memory_defense.evaluation.kept import check_still_its_own, read_whole
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import Record
from memory_defense.files import write_text
from memory_defense.model_spec import ModelSpec
from memory_defense.names import check_name
from memory_defense.paper.half_weights import restore_half, round_to_half, write_half
from memory_defense.paper.tables import DataSource, is_made, trained
from memory_defense.randomness import ImageDraws
from memory_defense.recipes.recipe import EvaluationPlan, Recipe
from memory_defense.recipes.registry import recipe
from memory_defense.recipes.scales import FASHION_CPU
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.build import build_defense
from memory_defense.systems.load import load_defense
from memory_defense.workflows.assess import assess

_BRIEF_CW = FASHION_CPU.slow.unbounded


@dataclass(frozen=True, kw_only=True)
class QueueEntry:
    """One claim that needs a GPU to be measured."""

    claim: str
    """Claim that the results decide, in one line."""
    recipes: tuple[str, ...]
    """Trained and evaluated in this order; names of `recipes.RECIPES`."""
    minutes: int
    """Minutes on one large GPU for training and evaluation: an estimate until it is run."""
    back: str
    """Results that are kept."""
    images: int
    """Test images, at most; the recipe's plan may have fewer."""
    chunk: int = 256
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
    return name.replace("/paper/", "/tiny/") if "/paper/" in name else f"{name}-tiny"


def _toy(one: Recipe) -> Recipe:
    """Return a tiny recipe that is judged by little: one attack on two images in one ball, and a cascade.

    PixelDefend, each of whose passes takes a processor seconds, goes without the cascade.
    """
    suite = None if one.model.defense == "pixeldefend" else "glimpse"
    plan = EvaluationPlan(images=2, linf=one.evaluation.linf[:1], attacks={"fgsm": Fgsm()}, suite=suite)
    return replace(one, evaluation=plan, held_out=replace(one.held_out, images=4))


def _rows(dataset: str, *rows: str) -> tuple[str, ...]:
    return tuple(f"{dataset}/paper/{row}" for row in rows)


_CLASSIFIERS = ("resnet-benign", "resnet-offline", "resnet-online")
_MEMORY = ("memory-defense", "memory-defense-sound")
_KEPT = "a record and the weights of each"

QUEUE: dict[str, QueueEntry] = {
    "fashion-mnist-paper": QueueEntry(
        claim="Table 1 at the paper's own size: ResNet-50, Memory Defense and its baselines on Fashion-MNIST",
        recipes=_rows("fashion-mnist", *_CLASSIFIERS, *_MEMORY, "magnet", "comdefend"),
        minutes=230,
        back=_KEPT,
        images=500,
    ),
    "fashion-mnist-strong": QueueEntry(
        claim="What a selector trained by TRADES with perturbed weights holds at 25/255, and whether a memory adds",
        recipes=("fashion-mnist/strong",),
        minutes=55,
        back="a record of all 10,000 test images and the weights",
        images=10_000,
    ),
    "cifar10-strong": QueueEntry(
        claim="The same on CIFAR-10 at 8/255, with a ResNet-18 trained in less than half an hour",
        recipes=("cifar10/strong",),
        minutes=50,
        back="a record of all 10,000 test images and the weights",
        images=10_000,
    ),
    "cifar10-resnet50": QueueEntry(
        claim="The ResNet-50 rows of Table 2 at the paper's own size on CIFAR-10",
        recipes=_rows("cifar10", *_CLASSIFIERS, *_MEMORY),
        minutes=270,
        back=_KEPT,
        images=500,
    ),
    "pixelcnn": QueueEntry(
        claim="PixelDefend with its published PixelCNN++ on both datasets, attacked by those who know it is there",
        recipes=("fashion-mnist/paper/pixeldefend", "cifar10/paper/pixeldefend"),
        minutes=420,
        back=_KEPT,
        images=200,
        chunk=100,
        suite="glimpse",
        unbounded=_BRIEF_CW,
    ),
    "cifar10-purifiers": QueueEntry(
        claim="ComDefend and Defense-VAE on CIFAR-10, attacked through the purifier (Tables 2 and 3)",
        recipes=_rows("cifar10", "comdefend", "defense-vae-rec", "defense-vae-e2e"),
        minutes=200,
        back=_KEPT,
        images=500,
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


def work(name: str, out: Path, data: DataSource, *, back: Path, deadline: Deadline, tiny: bool = False) -> bool:
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

    Raises
    ------
    ValueError
        For an unknown name, or runs in `out` that were made otherwise.
    """
    chosen = entry(name)
    known: dict[str, Splits] = {}
    try:
        for number, one in enumerate(chosen.chosen(tiny=tiny), 1):
            deadline.note(f"{name}: {number} of {len(chosen.recipes)}, {one.name}")
            deadline.check()
            dataset = one.model.dataset
            splits = known[dataset] = known[dataset] if dataset in known else data(dataset)
            run = trained(one, out, splits, seed=0, progress=deadline)
            _evaluate(one, run, splits, chosen.chunk, back / name / one.name, deadline)
    except KeyboardInterrupt:
        if not deadline.passed:
            raise
        return False
    return True


def _evaluate(one: Recipe, run: RunDirectory, splits: Splits, chunk: int, place: Path, progress: Deadline) -> None:
    """Evaluate a trained system unless that is done, at the weights that are kept; then keep them."""
    defense = load_defense(run.path)
    round_to_half(defense)
    defense.to(splits.test.images.device)
    if is_made(run.record, one, seed=0):
        found = read_whole(run.record)
        subset = splits.test.first(min(found.images, len(splits.test)))
        check_still_its_own(found, run.record, defense, subset.floats(), subset.ids)
    else:
        progress.note(f"{one.name}: attacks")
        assess(one, run, defense, splits, options=Options(chunk=chunk, progress=progress))
    write_half(defense, place)
    write_text(place / "manifest.json", run.manifest_path.read_text(encoding="utf-8"))
    Record.read(run.record).model_copy(update={"per_image": None, "per_image_sha256": ""}).write(
        place / "record.json"
    )


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
