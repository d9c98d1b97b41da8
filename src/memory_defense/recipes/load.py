"""Trained defenses back from their run directories."""

from __future__ import annotations

from pathlib import Path

import torch

from memory_defense.defenses.memory.defense import MemoryDefense
from memory_defense.recipes.build import build_classifier, build_defense
from memory_defense.recipes.recipe import ModelSpec
from memory_defense.recipes.run_directory import RunDirectory
from memory_defense.training.checkpoint import load_weights
from memory_defense.training.precision import lay_out


def load(directory: str | Path) -> MemoryDefense:
    """Return the trained defense of a run: an `nn.Module`, images (B, C, H, W) in [0, 1] to logits (B, K).

    Parameters
    ----------
    directory
        A finished run, such as ``runs/demo``.

    Returns
    -------
    In eval mode, on the CPU, with gradients to its input.

    Raises
    ------
    ValueError
        When the directory is no run, is unfinished, or its weights are damaged or of another model.
    """
    run = RunDirectory(Path(directory))
    manifest = run.read()
    if not manifest.get("complete"):
        raise ValueError(f"{run.path} is not finished; continue it with 'memdef train --resume'")
    model = ModelSpec(**manifest["model"])
    defense = build_defense(model)
    load_weights(run.weights, defense)
    if run.undefended.is_file():
        undefended = build_classifier(manifest["undefended_network"], model.dataset, 0, "undefended")
        load_weights(run.undefended, undefended)
        defense.transfer_source = undefended.eval()
    lay_out(defense, torch.device("cpu"))
    return defense.eval()
