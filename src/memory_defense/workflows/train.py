"""Training a recipe: stage after stage, each resumable, each reusable."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

from torch import nn

from memory_defense.contracts import Classifier, Images, Progress
from memory_defense.data.images import ImageSet, Splits
from memory_defense.data.spec import images_of
from memory_defense.defenses.defense_vae import DefenseVae
from memory_defense.files import LockedError, locked, remove
from memory_defense.machine import device_name
from memory_defense.outputs import check_folder
from memory_defense.progress import stage as shown
from memory_defense.randomness import ImageDraws, derive
from memory_defense.ranks import current
from memory_defense.recipes.recipe import OfflinePairs, Recipe, Stage
from memory_defense.run_directory import SHIPPED, RunDirectory
from memory_defense.systems.build import build_classifier, build_defense, classifier_of
from memory_defense.systems.registry import Finishing, system_of
from memory_defense.tensorfiles import read_tensors
from memory_defense.training.checkpoint import load_weights, save_weights
from memory_defense.training.fit import Validate, fit
from memory_defense.training.precision import resolve
from memory_defense.training.validate import (
    certified_accuracy,
    clean_accuracy,
    negative_objective,
    robust_accuracy,
)
from memory_defense.workflows.offline import Workshop, adversarial_pairs, with_adversarial
from memory_defense.wrappers import frozen

_TURN_SECONDS = 0.5
_IMAGES = "images_sha256"


@dataclass(frozen=True)
class _Training:
    """One training: its recipe, run directory, images and seed."""

    recipe: Recipe
    run: RunDirectory
    manifest: dict[str, Any]
    splits: Splits
    seed: int
    shared: Path | None
    progress: Progress | None

    def stages(self, stages: Sequence[Stage], model: nn.Module, part: str, network: str) -> None:
        """Train a classifier, stage after stage; what another run has trained alike is taken from it."""
        chains = [(network, part, *stages[:count]) for count in range(1, len(stages) + 1)]
        start = self._last_finished(part, stages, chains)
        for place, (stage, chain) in enumerate(zip(stages, chains, strict=True)):
            if place >= start or self._name(part, stage) in self.manifest["stages"]:
                self.stage(stage, model, part, classifier=model, chain=chain)

    def _last_finished(self, part: str, stages: Sequence[Stage], chains: Sequence[tuple[object, ...]]) -> int:
        """Return the place of the last stage that is trained, here or by another run; 0 if none is.

        What comes before it need not be trained.
        """

        def finished(stage: Stage, chain: tuple[object, ...]) -> bool:
            own = self._name(part, stage) in self.manifest["stages"]
            shared = self.shared and _shared_stage(
                self.recipe, self.shared, self.seed, len(self.splits.train), chain
            )
            return own or bool(shared and shared.is_file())

        def last() -> int:
            pairs = enumerate(zip(stages, chains, strict=True))
            return max((place for place, pair in pairs if finished(*pair)), default=0)

        return current().lead(lambda: ({}, last()))[1]

    @staticmethod
    def _name(part: str, stage: Stage) -> str:
        return f"{part}-{stage.name}"

    def stage(
        self,
        stage: Stage,
        model: nn.Module,
        part: str,
        *,
        classifier: nn.Module | None,
        chain: tuple[object, ...] = (),
    ) -> None:
        """Train one stage, or take it from where it already is.

        Parameters
        ----------
        classifier
            What adversarial images of the stage are made against.
        chain
            Everything that decides the outcome, where other recipes may share it; empty where none does.
        """
        name = self._name(part, stage)
        lost = name in self.manifest["stages"] and not self.run.stage(name).is_file()
        if lost and self.progress:
            self.progress.note(f"{self.recipe.name}: the weights of {name} are gone; it is trained again")
        if name in self.manifest["stages"] and not lost:
            load_weights(self.run.stage(name), model)
            self._note(f"{name} was trained before")
            remove(self.run.state(name))  # a run killed just before it would have been
            rmtree(self.run.workshop(name), ignore_errors=True)
            return
        common, leads = None, current().leads
        if self.shared is not None and chain:
            common = _shared_stage(self.recipe, self.shared, self.seed, len(self.splits.train), chain)
        with self._turn(common) if common is not None and leads else nullcontext():
            _, known = current().lead(lambda: ({}, common is not None and common.is_file()))
            if common is not None and known:
                header = self._take(common, model)
                self._note(f"{name} is taken from {common}, where another run trained the very same")
                outcome = {"best_epoch": None, "best_score": None, "shared": common.name}
                outcome |= {SHIPPED: header[SHIPPED]} if SHIPPED in header else {}
            else:
                outcome = self._fit(stage, model, name, classifier)
                if common is not None and leads:
                    save_weights(common, model, {"stage": name, _IMAGES: self.splits.spec.sha256})
        self.manifest["stages"][name] = outcome
        if leads:
            save_weights(self.run.stage(name), model)
            self.run.write(self.manifest)
            remove(self.run.state(name))
            rmtree(self.run.workshop(name), ignore_errors=True)

    def _take(self, common: Path, model: nn.Module) -> dict[str, str]:
        """Load what another run has trained alike, and return its header.

        Raises ValueError where its images were others.
        """
        images = self.splits.spec.sha256
        if read_tensors(common)[1].get(_IMAGES, images) != images:
            raise ValueError(f"{common} was trained on other images; remove it, or choose another directory")
        return load_weights(common, model)

    @contextmanager
    def _turn(self, common: Path) -> Generator[None]:
        """Wait until no other run trains what several share, then be the one that does."""
        with ExitStack() as turn:
            waited = False
            while True:
                try:
                    turn.enter_context(locked(common))
                    break
                except LockedError:
                    if not waited:
                        self._note("another run is training what both need; waiting")
                    waited = True
                time.sleep(_TURN_SECONDS)
                if self.progress:
                    self.progress.advance(0)
            yield

    def _fit(self, stage: Stage, model: nn.Module, name: str, classifier: nn.Module | None) -> dict[str, Any]:
        images = self._images(stage, name, classifier)
        precision = resolve(stage.fit.precision, images.images.device)
        whole = len(self.splits.train)
        of_all = (
            "" if stage.images is None or stage.images >= whole else f" (of {whole:,} the first {stage.images:,})"
        )
        self._note(f"{name}, {stage.fit.epochs} epochs of {len(images):,} images{of_all}, in {precision}")
        result = fit(
            model,
            stage.objective,
            images,
            stage.fit,
            seed=derive(self.seed, name),
            validate=self._score(stage),
            state=self.run.state(name),
            progress=self.progress,
        )
        outcome = {"best_epoch": result.best_epoch, "best_score": result.best_score, "precision": precision}
        return outcome | {"seconds": round(result.seconds), "device": device_name(images.images.device)}

    def _note(self, text: str) -> None:
        if self.progress:
            self.progress.note(f"{self.recipe.name}: {text}")

    def _images(self, stage: Stage, name: str, classifier: nn.Module | None) -> ImageSet:
        images = self.splits.train
        if stage.images is not None:
            images = images.first(min(stage.images, len(images)))
        if stage.offline is None:
            return images
        assert classifier is not None
        seed, workshop = derive(self.seed, name, "offline"), Workshop(self.run.workshop(name), self.progress)
        if isinstance(stage.offline, OfflinePairs):
            return adversarial_pairs(images, classifier, stage.offline, seed, workshop)
        return with_adversarial(images, classifier, stage.offline, seed, workshop)

    def _score(self, stage: Stage) -> Validate:
        held_out = self.splits.held_out
        if stage.score == "clean":
            return clean_accuracy(held_out)
        subset = held_out.first(min(self.recipe.held_out.images, len(held_out)))
        if stage.score == "robust":
            return robust_accuracy(subset, self.recipe.held_out.attack, self.recipe.held_out.ball, self.seed)
        if stage.score == "certified":
            return certified_accuracy(subset, self.recipe.held_out.ball)
        return negative_objective(subset, stage.objective, self.seed)


def _shared_stage(recipe: Recipe, shared: Path, seed: int, train_images: int, chain: tuple[object, ...]) -> Path:
    """Return the file of a stage that every run which trains it alike may take it from."""
    model = recipe.model
    decided_by = (model.dataset, model.images, seed, train_images, recipe.held_out, chain)
    return shared / f"{hashlib.sha256(repr(decided_by).encode()).hexdigest()[:20]}.safetensors"


def shared_stages(recipe: Recipe, shared: Path, seed: int, train_images: int) -> tuple[Path, ...]:
    """Return where the classifiers lie that this recipe trains and other runs may as well, in its order.

    Parameters
    ----------
    shared
        As in `train`.
    train_images
        Number of training images.
    """
    undefended = (recipe.undefended,) if recipe.undefended else ()
    chains = [(recipe.undefended_network, "undefended", stage) for stage in undefended]
    if recipe.model.selector:
        own = [stage for stage in recipe.stages if stage.part == "selector"]
        chains += [(recipe.model.selector, "selector", *own[: count + 1]) for count in range(len(own))]
    return tuple(_shared_stage(recipe, shared, seed, train_images, chain) for chain in chains)


def train(  # noqa: PLR0913 - all keyword-only but what, where and from what
    recipe: Recipe,
    directory: Path,
    splits: Splits,
    *,
    seed: int = 0,
    resume: bool = False,
    undefended_from: Path | None = None,
    shared: Path | None = None,
    selector_weights: Path | None = None,
    progress: Progress | None = None,
) -> RunDirectory:
    """Train every part of a recipe into a run directory.

    Parameters
    ----------
    recipe
        What to train.
    directory
        Created if needed. Finished stages are kept there, so a stopped run can go on.
    splits
        The data, already on the device to train on.
    seed
        Seed of every random draw.
    resume
        Continue a run that is there; a run that was killed ends bit-identical on a CPU.
    undefended_from
        Another run of the same dataset whose undefended net is taken instead of training one.
    shared
        A directory in which runs keep the classifiers they trained, for others that train the very same.
    selector_weights
        What the classifier starts from: a .safetensors file of its state dict.
    progress
        Display of how far the training is.

    Raises
    ------
    ValueError
        If the directory holds another run, or holds this one and `resume` is off, or another process trains it.
    """
    run, ranks = RunDirectory(directory), current()
    check_folder(run.path)
    asked = (recipe, seed, len(splits.train), splits.spec.sha256)
    with run.only_writer() if ranks.leads else nullcontext():
        _, manifest = ranks.lead(lambda: ({}, run.begin(*asked, resume=resume)))
        training = _Training(recipe, run, manifest, splits, seed, shared, progress)
        device = splits.train.images.device
        if recipe.undefended is not None:
            _train_undefended(training, recipe.undefended, undefended_from)
        defense = build_defense(recipe.model, seed).to(device)
        classifier = classifier_of(recipe.model, defense)
        own = [stage for stage in recipe.stages if stage.part == "selector"]
        if classifier is not None:
            network = recipe.model.selector
            if selector_weights is not None:
                load_weights(selector_weights, classifier)
                network += " from " + hashlib.sha256(selector_weights.read_bytes()).hexdigest()
            classifier.requires_grad_(True)
            training.stages(own, classifier, "selector", network)
            classifier.requires_grad_(False)
        for stage in recipe.stages[len(own) :]:
            if stage.releases_classifier and isinstance(defense, DefenseVae):
                defense.release_classifier()
            training.stage(stage, defense, stage.part, classifier=classifier)
        _finish(training, defense)
        if ranks.leads:
            save_weights(run.weights, defense, {"recipe": recipe.name})
            run.seal(manifest)
        ranks.total()  # nobody goes on before everything is written
    return run


def _finish(training: _Training, defense: nn.Module) -> None:
    """Give the system the plain net that it holds, and fit what is fitted once training is over."""
    recipe, seed = training.recipe, training.seed
    system = system_of(recipe.model)
    if system.plain is not None:
        current().total()  # the plain net is written by the rank that leads
        load_weights(training.run.undefended, defense.get_submodule(system.plain))
    if system.finish is None:
        return

    def attacked(victim: Classifier, images: ImageSet) -> Images:
        draws = ImageDraws.of(seed, "finishing", images.ids, images.labels.device)
        attack, ball = recipe.held_out.attack, recipe.held_out.ball
        with frozen(victim):
            return attack(victim, images.floats(), images.labels, ball, draws)

    with shown(training.progress, f"{recipe.name}: finishing"):
        system.finish(defense.eval(), Finishing(training.splits, attacked))


def _train_undefended(training: _Training, stage: Stage, taken_from: Path | None) -> None:
    recipe, seed = training.recipe, training.seed
    images = images_of(recipe.model)
    undefended = build_classifier(recipe.undefended_network, images, derive(seed, "undefended"), "undefended")
    if taken_from is not None:
        load_weights(RunDirectory(taken_from).undefended, undefended)
    else:
        undefended = undefended.to(training.splits.train.images.device)
        training.stages((stage,), undefended, "undefended", recipe.undefended_network)
    if current().leads:
        save_weights(training.run.undefended, undefended)
