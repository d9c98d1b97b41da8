"""Working on an entry of the queue in pieces of a few minutes.

`work` goes on where the last piece stopped and stops by itself, at a whole step, when its time is up. What is kept
is every record, and the very weights that were evaluated, in half precision.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from memory_defense.contracts import Progress
from memory_defense.data.decode import Arrays
from memory_defense.data.images import Splits, split
from memory_defense.data.spec import dataset_spec
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.robustness import Conduct
from memory_defense.files import write_text
from memory_defense.model_spec import ModelSpec
from memory_defense.paper.half_weights import restore_half, round_to_half, write_half
from memory_defense.paper.queue import entry
from memory_defense.paper.tables import DataSource, trained
from memory_defense.randomness import ImageDraws
from memory_defense.recipes.recipe import Recipe
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.build import build_defense
from memory_defense.systems.load import load
from memory_defense.workflows.assess import assess


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
    defense = load(run.path)
    round_to_half(defense)
    if not run.record.is_file() or Record.read(run.record).provenance.recipe_sha256 != one.sha256:
        progress.note(f"{one.name}: attacks")
        defense.to(splits.test.images.device)
        assess(one, run, defense, splits, conduct=Conduct(chunk=chunk), progress=progress)
    write_half(defense, place)
    write_text(place / "manifest.json", run.manifest_path.read_text(encoding="utf-8"))
    Record.read(run.record).model_copy(update={"per_image": None}).write(place / "record.json")


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
