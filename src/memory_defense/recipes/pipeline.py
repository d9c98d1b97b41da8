"""Training a recipe: stage after stage, each resumable, each reusable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from memory_defense.contracts import Progress
from memory_defense.data.images import ImageSet, Splits
from memory_defense.randomness import ImageDraws, derive
from memory_defense.recipes.build import build_classifier, build_defense
from memory_defense.recipes.recipe import OfflineSet, Recipe, Stage
from memory_defense.recipes.run_directory import RunDirectory
from memory_defense.training.checkpoint import load_weights, save_weights
from memory_defense.training.fit import Validate, fit
from memory_defense.training.validate import clean_accuracy, negative_objective, robust_accuracy


@dataclass(frozen=True)
class _Training:
    """One run in progress."""

    recipe: Recipe
    run: RunDirectory
    manifest: dict[str, Any]
    splits: Splits
    seed: int
    progress: Progress | None

    def stage(self, stage: Stage, model: nn.Module, prefix: str) -> None:
        """Train one stage, or take it from where it already is."""
        name = f"{prefix}-{stage.name}"
        if name in self.manifest["stages"]:
            load_weights(self.run.stage(name), model)
            return
        if self.progress:
            self.progress.note(f"{self.recipe.name}: {name}")
        images = self.splits.train
        if stage.offline:
            images = with_adversarial(images, model, stage.offline, derive(self.seed, name, "offline"))
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
        save_weights(self.run.stage(name), model)
        self.manifest["stages"][name] = {"best_epoch": result.best_epoch, "best_score": result.best_score}
        self.run.write(self.manifest)
        self.run.state(name).unlink(missing_ok=True)

    def _score(self, stage: Stage) -> Validate:
        held_out = self.splits.held_out
        if stage.score == "clean":
            return clean_accuracy(held_out)
        subset = held_out.first(min(self.recipe.held_out.images, len(held_out)))
        if stage.score == "robust":
            return robust_accuracy(subset, self.recipe.held_out.attack, self.recipe.held_out.ball, self.seed)
        return negative_objective(subset, stage.objective, self.seed)


def train(
    recipe: Recipe,
    directory: Path,
    splits: Splits,
    *,
    seed: int = 0,
    resume: bool = False,
    undefended_from: Path | None = None,
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
        Of every draw.
    resume
        Continue a run that is there; a run that was killed ends bit-identical on a CPU.
    undefended_from
        Another run of the same dataset whose undefended net is taken instead of training one.
    progress
        Told how far it is.

    Raises
    ------
    ValueError
        When the directory holds another run, or holds this one and `resume` is off.
    """
    run = RunDirectory(directory)
    manifest = run.begin(recipe, seed, len(splits.train), resume=resume)
    training = _Training(recipe, run, manifest, splits, seed, progress)
    dataset, device = recipe.model.dataset, splits.train.images.device
    undefended = build_classifier(recipe.undefended_network, dataset, derive(seed, "undefended"), "undefended")
    if undefended_from is not None:
        load_weights(RunDirectory(undefended_from).undefended, undefended)
    else:
        training.stage(recipe.undefended, undefended.to(device), "undefended")
    save_weights(run.undefended, undefended)

    defense = build_defense(recipe.model, seed).to(device)
    _train_selector(training, recipe.selector, defense.selector)
    defense.selector.requires_grad_(False)
    training.stage(recipe.autoencoder, defense, "autoencoder")
    save_weights(run.weights, defense, {"recipe": recipe.name})
    manifest["complete"] = True
    run.write(manifest)
    return run


def _train_selector(training: _Training, stages: Sequence[Stage], selector: nn.Module) -> None:
    for stage in stages:
        training.stage(stage, selector, "selector")


def with_adversarial(images: ImageSet, model: nn.Module, offline: OfflineSet, seed: int) -> ImageSet:
    """Return the clean images and, after them, what an attack on `model` makes of them, as 8-bit images.

    Rounding to grey levels never leaves the ball: the change is cut to whole levels inside it.
    """
    draws = ImageDraws.of(seed, "offline", images.ids, images.labels.device)
    parts: list[torch.Tensor] = []
    levels = int(offline.ball.epsilon * 255 + 1e-6)
    for rows in torch.split(torch.arange(len(images), device=images.labels.device), 1000):
        clean = images.images[rows]
        attacked = offline.attack(model, images.floats(rows), images.labels[rows], offline.ball, draws.rows(rows))
        change = (attacked * 255).round().to(torch.int16) - clean
        if offline.ball.norm == "linf":
            change = change.clamp(-levels, levels)
        parts.append((clean + change).clamp(0, 255).to(torch.uint8))
    adversarial = torch.cat(parts)
    keep = torch.ones(len(images), dtype=torch.bool, device=adversarial.device)
    if offline.successful_only:
        with torch.no_grad():
            answers = torch.cat([model(part.float() / 255).argmax(1) for part in torch.split(adversarial, 500)])
        keep = answers != images.labels
    return ImageSet(
        torch.cat([images.images, adversarial[keep]]),
        torch.cat([images.labels, images.labels[keep]]),
        torch.cat([images.ids, images.ids[keep] + int(images.ids.max()) + 1]),
    )
