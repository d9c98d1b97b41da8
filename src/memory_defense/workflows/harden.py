"""Hardening a classifier that somebody brings: before, fine-tuned, with the memory or mixed; what was gained."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from memory_defense.contracts import Flagging, Progress
from memory_defense.data.images import ImageSet, Splits
from memory_defense.data.spec import image_spec
from memory_defense.evaluation.flag import DEFAULT_FALSE_ALARMS, Flag, keep_flag, kept_flag
from memory_defense.evaluation.kept import check_still_its_own, read_whole
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.pixels import Pixels
from memory_defense.evaluation.place import per_image_of, state_path
from memory_defense.evaluation.record import Record
from memory_defense.files import write_text
from memory_defense.recipes.hardened import KEY, HardenOptions, harden_recipe
from memory_defense.recipes.recipe import Recipe
from memory_defense.run_directory import IMAGES_FROM, RunDirectory
from memory_defense.systems.build import build_own, classifier_of
from memory_defense.systems.load import load_defense
from memory_defense.training.checkpoint import save_weights
from memory_defense.training.partial import chosen, train_only
from memory_defense.workflows.assess import add_detection, assess, calibrated
from memory_defense.workflows.evaluate import evaluate
from memory_defense.workflows.harden_outlook import FLAG, ORIGINAL, TUNED, outlook_of, whole
from memory_defense.workflows.harden_words import Measured, paragraph
from memory_defense.workflows.outlook import Outlook
from memory_defense.workflows.run_images import ImagesFrom, entry_of
from memory_defense.workflows.train import train


@dataclass(frozen=True, kw_only=True)
class Hardened(Measured):
    """What came of it; everything is in the run directory, too."""

    run: RunDirectory

    @property
    def paragraph(self) -> str:
        """What was gained and what was not: ``gained.txt``."""
        return paragraph(self)


def weights_sha256(weights: Path) -> str:
    """Return the hash by which a run knows the weights it began with; raise ValueError where there is no file."""
    if not weights.is_file():
        raise ValueError(f"there is no file {weights}; save your classifier with safetensors.torch.save_file")
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def harden(
    hardening: HardenOptions,
    weights: Path,
    splits: Splits,
    directory: Path,
    *,
    source: ImagesFrom,
    seed: int = 0,
    progress: Progress | None = None,
) -> Hardened:
    """Evaluate a classifier, fine-tune it, train the memory autoencoder on it, evaluate again, say what it gave.

    With `HardenOptions.keep_clean_accuracy` the classifier as it was and as it was fine-tuned are mixed in place of
    the autoencoder; with `HardenOptions.without_memory` the fine-tuned classifier is all that the run holds.

    Whatever is finished in the directory is taken from there, so that a stopped call goes on when it is repeated.

    Parameters
    ----------
    hardening
        What is asked for; see `HardenOptions`.
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
        For images that the autoencoder does not take, a classifier that does not fit them or cannot be trained, or
        a directory that holds another run.
    """
    RunDirectory(directory).check_new(resume=True)
    spec = splits.spec
    recipe = harden_recipe(hardening, spec.name, image_spec(spec), len(splits.train))
    original = build_own(hardening.classifier, image_spec(spec), hardening.own, weights=weights)
    check_untied(hardening.classifier, original)
    device = splits.train.images.device
    original = original.to(device)
    if hardening.fine_tune:
        train_only(copy.deepcopy(original), chosen(original, hardening.train_last, hardening.train_only))
        _check_trainable(hardening.classifier, original, splits.train)
    run = RunDirectory(directory)
    begin_run(run, recipe, {KEY: asdict(hardening)}, source, splits, seed=seed)
    save_weights(run.undefended, original)
    progress = outlook_of(progress, hardening, recipe, original, splits)
    work = _Work(hardening, recipe, run, splits, seed, progress)
    before = work.evaluated("original", original)
    if not run.read()["complete"]:
        work.part("fine-tuning" if hardening.fine_tune else "training the autoencoder")
        train(recipe, directory, splits, seed=seed, resume=True, selector_weights=run.undefended, progress=progress)
    defense = cast("Any", load_defense(directory)).to(device)
    plain = hardening.without_memory
    flag, alone = None if plain else work.flag(defense), before
    if hardening.fine_tune and not plain:
        tuned = classifier_of(recipe.model, defense)
        assert tuned is not None, "what was fine-tuned is a part of the defense"
        alone = work.evaluated("selector", tuned)
    whole = work.assessed(defense, flag)
    done = Hardened(
        run=run,
        classifier=hardening.classifier,
        original=before,
        selector=whole if plain else alone,
        defense=whole,
        fine_tuned=hardening.fine_tune,
        mixed=hardening.keep_clean_accuracy,
        flag_score="" if flag is None else flag.score,
        remembers=not plain,
    )
    write_text(run.path / "gained.txt", done.paragraph + "\n")
    return done


@dataclass(frozen=True)
class _Work:
    """One hardening: its recipe, run, images and seed."""

    hardening: HardenOptions
    recipe: Recipe
    run: RunDirectory
    splits: Splits
    seed: int
    progress: Progress | None

    def evaluated(self, name: str, classifier: nn.Module) -> Record:
        """Return the record of a plain classifier, from where it lies or made now."""
        place = self.run.path / f"{name}.json"
        subset = self.splits.test.first(min(self.recipe.evaluation.images, len(self.splits.test)))
        identity = hashlib.sha256(f"{self.recipe.sha256} {name} {self.hardening.weights_sha256}".encode())
        kept = _kept(place, identity.hexdigest(), self.seed)
        if kept is not None:
            check_still_its_own(kept, place, classifier, Pixels.of(subset), subset.ids)
            self._note(f"{place} was finished before, and is taken as it is")
            return kept
        self._note(f"attacks on the classifier: {name}")
        self.part(ORIGINAL if name == "original" else TUNED)
        stage = "as it was" if name == "original" else "fine-tuned, alone"
        return evaluate(
            classifier.eval(),
            Pixels.of(subset),
            subset.labels,
            epsilon=self.hardening.epsilon,
            attacks=self.hardening.attacks,
            out=place,
            options=Options(
                seed=self.seed,
                ids=subset.ids,
                defense=f"{self.hardening.classifier}, {stage}",
                dataset=self.splits.spec.name,
                weights_sha256=identity.hexdigest(),
                notes=self.splits.notes,
                progress=self.progress,
            ),
        )

    def flag(self, defense: Flagging) -> Flag:
        """Return the run's flag, chosen on held-out images where it keeps none."""
        kept = kept_flag(self.run.read(), self.run.manifest_path)
        if kept is not None:
            return kept
        rate = max(DEFAULT_FALSE_ALARMS, 1.01 / (len(self.splits.held_out) + 1))  # fewer cannot tell a smaller one
        flag = calibrated(cast("Any", defense), self.splits.held_out, rate)
        keep_flag(self.run, flag)
        self._note(f"the flag's threshold is kept in {self.run.manifest_path}")
        return flag

    def assessed(self, defense: Any, flag: Flag | None) -> Record:
        """Return the defense's record, with its detection part where it flags, from where it lies or made now."""
        record = _kept(self.run.record, self.recipe.sha256, self.seed)
        if record is None:
            self._note(f"attacks on the {self.hardening.result}")
            self.part(whole(self.hardening))
            record = assess(self.recipe, self.run, defense, self.splits, options=self._options())
        else:
            subset = self.splits.test.first(record.images)
            check_still_its_own(record, self.run.record, defense, Pixels.of(subset), subset.ids)
            self._note(f"{self.run.record} was finished before, and is taken as it is")
        if record.detection or flag is None:
            return record
        plan = self.recipe.evaluation
        self.part(FLAG)
        return add_detection(record, self.run.record, defense, self.splits, plan, flag, self._options())

    def part(self, name: str) -> None:
        """Say that a part of the work begins."""
        if isinstance(self.progress, Outlook):
            self.progress.part(name)

    def _options(self) -> Options:
        return Options(seed=self.seed, notes=self.splits.notes, progress=self.progress)

    def _note(self, text: str) -> None:
        if self.progress:
            self.progress.note(text)


def _kept(place: Path, sha256: str, seed: int) -> Record | None:
    """Return the record in a place, if it is of this very recipe and whole."""
    if not place.is_file() or state_path(place).is_file():  # with a state its writing was stopped half-way
        return None
    record = read_whole(place)
    if not per_image_of(record, place).is_file():
        return None
    made_by = record.provenance.recipe_sha256, record.provenance.seed
    return record if made_by == (sha256, seed) else None


_WHERE = ("source", "notes")
"""Fields of `ImagesFrom` that say where images lie and what was found there; the images are their SHA-256."""
_SINCE: dict[str, object] = {
    "keep_clean_accuracy": False,
    "without_memory": False,
    "arguments": [],
    "preprocess": "",
    "accumulate": 1,
    "train_last": None,
    "train_only": [],
    "geometry": None,
    "outputs": None,
}
"""Options that hardenings of earlier versions did not have, and what they did."""


def begin_run(
    run: RunDirectory,
    recipe: Recipe,
    asked: Mapping[str, Mapping[str, object]],
    source: ImagesFrom,
    splits: Splits,
    *,
    seed: int,
) -> None:
    """Begin the run, or find that the directory holds this very one.

    Parameters
    ----------
    asked
        The user's options as an entry of the manifest, which `workflows.run_recipe` makes the recipe from again.
    """
    entries: dict[str, dict[str, object]] = json.loads(json.dumps({**asked, IMAGES_FROM: entry_of(source)}))
    with run.only_writer():
        manifest = run.begin(recipe, seed, len(splits.train), splits.spec.sha256, resume=True)
        for key, entry in entries.items():
            found = _SINCE | manifest.get(key, entry)
            different = [name for name in entry if found.get(name) != entry[name] and name not in _WHERE]
            if different:
                raise ValueError(
                    f"{run.path} holds another run ({different[0]} is {found.get(different[0])!r}, "
                    f"not {entry[different[0]]!r}); choose another directory"
                )
        run.write({**manifest, **entries})


def check_untied(place: str, classifier: nn.Module) -> None:
    """Raise ValueError where two names of the state share their numbers: a file of weights has each once."""
    owner: dict[int, str] = {}
    for name, tensor in classifier.state_dict().items():
        first = owner.setdefault(tensor.data_ptr() if tensor.numel() else id(tensor), name)
        if first != name:
            raise ValueError(f"{place}: {first} and {name} share their weights; give each its own, and save again")


def _check_trainable(place: str, classifier: nn.Module, images: ImageSet) -> None:
    """Raise ValueError unless a copy in train mode answers with logits whose gradient reaches the images."""
    model = copy.deepcopy(classifier).train()
    rows = torch.arange(min(2, len(images)), device=images.labels.device)
    leaf, labels = images.floats(rows).requires_grad_(), images.labels[rows]
    remedy = "change it, or harden it as it is with --no-fine-tune"
    try:
        answer: object = model(leaf)
    except Exception as error:
        raise ValueError(f"{place} in train mode raised {type(error).__name__}: {error}; {remedy}") from error
    if not isinstance(answer, torch.Tensor):
        raise ValueError(f"{place} in train mode answers with {type(answer).__name__}, not logits; {remedy}")
    gradient = None
    if answer.requires_grad:
        (gradient,) = torch.autograd.grad(F.cross_entropy(answer.float(), labels), leaf, allow_unused=True)
    if gradient is None or not bool(torch.isfinite(gradient).all()):
        raise ValueError(f"{place}: no finite gradient reaches its images, and fine-tuning needs one; {remedy}")
