"""Certifying a classifier that somebody brings: a denoiser is trained before it, and its weights stay."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from memory_defense.certificates.smoothing import noisy
from memory_defense.contracts import Progress
from memory_defense.data.images import ImageSet, Splits
from memory_defense.data.spec import image_spec
from memory_defense.evaluation.metrics import accuracy
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.place import proofs_state_path
from memory_defense.evaluation.record import Accuracy, Record
from memory_defense.files import write_text
from memory_defense.outputs import beside
from memory_defense.progress import duration
from memory_defense.randomness import ImageDraws
from memory_defense.recipes.hardened_certified import KEY, CertifiedOptions, certified_recipe
from memory_defense.recipes.recipe import Recipe
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.load import load_defense
from memory_defense.systems.own_model import build_user_model
from memory_defense.tensorfiles import checksum_of, read_tensors
from memory_defense.workflows.certified_words import CertifiedMeasured, certified_paragraphs
from memory_defense.workflows.certify import CERTIFICATES, certify
from memory_defense.workflows.harden import begin_run, check_untied
from memory_defense.workflows.run_images import ImagesFrom
from memory_defense.workflows.train import train
from memory_defense.wrappers import frozen


@dataclass(frozen=True, kw_only=True)
class Certified(CertifiedMeasured):
    """What came of it; everything is in the run directory, too."""

    run: RunDirectory

    @property
    def text(self) -> str:
        """What was gained and what was not: ``gained.txt``."""
        return certified_paragraphs(self)


def harden_certified(
    asked: CertifiedOptions,
    weights: Path,
    splits: Splits,
    directory: Path,
    *,
    source: ImagesFrom,
    seed: int = 0,
    progress: Progress | None = None,
) -> Certified:
    """Certify a classifier under noise, train a denoiser before it, certify both together, say what it gave.

    Whatever is finished in the directory is taken from there, so that a stopped call goes on when it is repeated.

    Parameters
    ----------
    asked
        What is asked for; see `CertifiedOptions`.
    weights
        The classifier's .safetensors file.
    splits
        Images on the device to compute on, from `data.own.load_splits`.
    directory
        Run directory; created if needed. `load` and every command read it afterwards.
    source
        Source of the images, which the run keeps.
    seed
        Seed of every random draw.
    progress
        Display of how far the work is.

    Raises
    ------
    ValueError
        For a classifier that does not fit the images, or through which no gradient comes where it is wanted, or a
        directory that holds another run.
    """
    RunDirectory(directory).check_new(resume=True)
    spec = splits.spec
    recipe = certified_recipe(asked, spec.name, image_spec(spec), len(splits.train))
    original = build_user_model(
        asked.classifier, classes=len(spec.classes), channels=spec.channels, size=spec.size, weights=weights
    )
    check_untied(asked.classifier, original)
    original = copy.deepcopy(original).to(splits.train.images.device).eval()
    if not asked.black_box:
        check_gradient(asked.classifier, original, splits.train)
    run = RunDirectory(directory)
    begin_run(run, recipe, {KEY: asdict(asked)}, source, splits, seed=seed)
    work = _Work(asked, recipe, run, splits, seed, progress)
    before, clean = work.certified("before", original)
    if not run.read()["complete"]:
        train(recipe, directory, splits, seed=seed, resume=True, selector_weights=weights, progress=progress)
    defense = load_defense(directory).to(splits.train.images.device)
    after, clean_denoised = work.certified("after", defense)
    done = Certified(
        run=run,
        classifier=asked.classifier,
        sigma=asked.sigma,
        black_box=asked.black_box,
        memory=asked.memory,
        original=before,
        denoised=after,
        clean=clean,
        clean_denoised=clean_denoised,
    )
    write_text(run.path / "gained.txt", done.text + "\n")
    return done


@dataclass(frozen=True)
class _Work:
    """One hardening: its recipe, run, images and seed."""

    asked: CertifiedOptions
    recipe: Recipe
    run: RunDirectory
    splits: Splits
    seed: int
    progress: Progress | None

    def certified(self, name: str, model: nn.Module) -> tuple[Record, Accuracy]:
        """Return the record of a smoothed model, from where it lies or made now, and its accuracy without noise."""
        place = self.run.path / f"certified-{name}.json"
        identity = hashlib.sha256(f"{self.recipe.sha256} {self.asked!r} {name}".encode()).hexdigest()
        record = _kept(place, identity, self.seed)
        if record is None:
            record = self._certify(place, identity, model, "as it was" if name == "before" else "denoised")
        else:
            self._note(f"{place} was finished before, and is taken as it is")
        tensors, _ = read_tensors(beside(place, CERTIFICATES))
        return record, accuracy(tensors["clean"])

    def _certify(self, place: Path, identity: str, model: nn.Module, stage: str) -> Record:
        smoothing = self.asked.smoothing
        test = self.splits.test.first(min(self.asked.images, len(self.splits.test)))
        copies = smoothing.samples + smoothing.selection
        most = len(test) * copies * _seconds_a_copy(model, test, smoothing.sigma)
        self._note(
            f"certifying {self.asked.classifier}, {stage}: {len(test):,} images, up to {copies:,} noisy copies of "
            f"each, about {duration(most)} at most"
        )
        return certify(
            model.eval(),
            test.floats(),
            test.labels,
            radii=list(self.asked.asked_radii),
            smoothing=smoothing,
            out=place,
            options=Options(
                seed=self.seed,
                ids=test.ids,
                defense=f"{self.asked.classifier}, {stage}",
                dataset=self.splits.spec.name,
                weights_sha256=identity,
                notes=self.splits.notes,
                progress=self.progress,
            ),
        )

    def _note(self, text: str) -> None:
        if self.progress:
            self.progress.note(text)


@torch.no_grad()
def _seconds_a_copy(model: nn.Module, images: ImageSet, sigma: float, *, copies: int = 100) -> float:
    """Return the time that a noisy copy takes, measured on one pass."""
    first = images.floats(torch.tensor([0], device=images.labels.device))[0]
    draws = ImageDraws.of(0, "how long", images.ids[:1], first.device)

    def ask(count: int) -> float:
        began = time.monotonic()
        model(noisy(first, draws, sigma, 0, count)).argmax(1).tolist()
        return time.monotonic() - began

    with frozen(model):
        ask(1)
        return ask(copies) / copies


def _kept(place: Path, identity: str, seed: int) -> Record | None:
    """Return the record in a place, if it is of this very certification and whole."""
    images = beside(place, CERTIFICATES)
    if not place.is_file() or not images.is_file() or proofs_state_path(place).is_file():
        return None
    record = Record.read(place)
    made_by = record.provenance.recipe_sha256, record.provenance.seed, record.certificates_sha256
    return record if made_by == (identity, seed, checksum_of(images)) else None


def check_gradient(place: str, classifier: nn.Module, images: ImageSet) -> None:
    """Raise ValueError unless a finite gradient of the logits reaches the images, in eval mode."""
    rows = torch.arange(min(2, len(images)), device=images.labels.device)
    leaf, labels = images.floats(rows).requires_grad_(), images.labels[rows]
    gradient = None
    with frozen(classifier):
        answer = cast("Callable[[torch.Tensor], torch.Tensor]", classifier)(leaf)
        if answer.requires_grad:
            (gradient,) = torch.autograd.grad(F.cross_entropy(answer.float(), labels), leaf, allow_unused=True)
    if gradient is None or not bool(torch.isfinite(gradient).all()):
        raise ValueError(
            f"{place}: no finite gradient reaches its images, and training the denoiser through it needs one; "
            "change it, or train the denoiser without it, with --black-box"
        )
