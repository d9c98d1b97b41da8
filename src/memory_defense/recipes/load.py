"""Trained defenses back from their run directories, and from what was exported of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import nn

from memory_defense.contracts import Binding, Classifier, Flagging, Images, Logits
from memory_defense.defenses.memory.defense import MemoryDefense
from memory_defense.recipes.build import build_classifier, build_defense, images_of
from memory_defense.recipes.flag import restore_flag
from memory_defense.recipes.load_exported import load_exported
from memory_defense.recipes.recipe import ModelSpec
from memory_defense.run_directory import RunDirectory, is_exported
from memory_defense.training.checkpoint import load_weights
from memory_defense.training.precision import lay_out


class TrainedDefense(nn.Module):
    """What `load` returns, to type checkers: any `nn.Module` that is a `contracts.Defense`."""

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        raise NotImplementedError

    def surrogates(self) -> Mapping[str, Classifier | Binding]:
        """See `contracts.Defense`."""
        raise NotImplementedError


def load(directory: str | Path) -> TrainedDefense:
    """Return the trained defense of a run: an `nn.Module`, images (B, C, H, W) in [0, 1] to logits (B, K).

    Parameters
    ----------
    directory
        A finished run, such as ``runs/demo``, or what ``memdef export`` wrote: a .safetensors file, an .onnx
        file (which answers but has no gradient), or a folder for a model hub.

    Returns
    -------
    In eval mode, on the CPU, with gradients to its input.

    Raises
    ------
    ValueError
        When the directory is no run, is unfinished, or its weights are damaged or of another model.
    """
    if Path(directory).is_file() or is_exported(Path(directory)):
        return cast("TrainedDefense", load_exported(Path(directory)))
    run = RunDirectory(Path(directory))
    manifest = run.read_finished()
    run.check_room(manifest)
    model = ModelSpec(**manifest["model"])
    other = manifest["undefended_network"]
    try:
        defense = build_defense(model)
        undefended = build_classifier(other, images_of(model), 0, "undefended") if other else None
    except ValueError as error:
        if ":" in model.selector or ":" in other:
            raise ValueError(f"{run.path} needs the classifier that it was made with: {error}") from error
        raise ValueError(f"{run.manifest_path} is damaged, or of another version: {error}") from error
    load_weights(run.weights, defense)
    if undefended is not None and isinstance(defense, MemoryDefense) and run.undefended.is_file():
        load_weights(run.undefended, undefended)
        defense.transfer_source = undefended.eval()
    run.verify(manifest)
    if isinstance(defense, Flagging):
        restore_flag(defense, manifest, run.manifest_path)
    lay_out(defense, torch.device("cpu"))
    return cast("TrainedDefense", defense.eval())
