"""Trained defenses as files for others: one safetensors file, one ONNX model, or a folder for a model hub."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from memory_defense.data.spec import images_of
from memory_defense.defenses.memory.defense import MemoryDefense
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.kept import read_whole
from memory_defense.evaluation.record import Record
from memory_defense.files import atomic, write_text
from memory_defense.model_spec import ModelSpec
from memory_defense.names import FORMATS, check_name
from memory_defense.randomness import generator
from memory_defense.run_directory import CARD, CONFIG, HARDENED, IMAGES_FROM, RECORD, WEIGHTS, RunDirectory
from memory_defense.systems.exported import Exported
from memory_defense.systems.facts import KEY, UNDEFENDED, Facts, facts_of
from memory_defense.systems.load import load_defense
from memory_defense.tensorfiles import read_tensors, write_tensors

RANDOM_IMAGES = 8
"""Random images that a hardened classifier's file is compared on where the run has no gallery."""

CardWriter = Callable[[Facts, Record], str]
"""Writes a folder's model card; `reporting.model_card` is one, which the command line hands in."""


def export(
    directory: Path | str,
    out: Path | str,
    *,
    format: str = "safetensors",
    force: bool = False,
    card: CardWriter | None = None,
) -> Exported:
    """Write a trained defense in a format that ``memory_defense.load`` reads back.

    Parameters
    ----------
    directory
        A finished run.
    out
        The file or, for ``hub-folder``, the folder to write.
    format
        ``safetensors``, ``onnx`` or ``hub-folder``.
    force
        Replace what is there.
    card
        Writes the folder's ``README.md``; only for ``hub-folder``, which needs it.

    Raises
    ------
    ValueError
        For an unknown format, something already there, a run that is not finished or (hub folder) not evaluated,
        or an ONNX model that does not answer as the defense does. Nothing is then written.
    """
    check_name(format, FORMATS, "format")
    if (card is not None) != (format == "hub-folder"):
        raise ValueError(f"a model card goes with the format hub-folder and with no other; the format is {format}")
    run, place = RunDirectory(Path(directory)), Path(out)
    run.check_export(place, folder=format == "hub-folder", force=force)
    defense = load_defense(run.path)
    facts = facts_of(run)
    if format == "onnx":
        if HARDENED in run.read() and isinstance(defense, Undefended):
            return _as_classifier(run, defense, place)
        from memory_defense.systems.onnx_export import checked_onnx

        model, said = checked_onnx(defense, facts, run.gallery)
        with atomic(place) as temporary:
            temporary.write_bytes(model)
        return Exported(place, said)
    facts.refuse_foreign_code(run.manifest_path)
    tensors = tensors_of(defense)
    if card is None:
        write_tensors(place, tensors, {"format": "pt", KEY: facts.to_json()})
        return Exported(place, f"{len(tensors)} tensors")
    return _write_folder(run, place, facts, tensors, card)


def _as_classifier(run: RunDirectory, defense: Undefended, place: Path) -> Exported:
    """Write a hardened classifier that is nothing more as any classifier is, whose gradient attacks can follow."""
    from memory_defense.systems.classifier_export import export_classifier
    from memory_defense.systems.onnx_foreign import Described

    manifest = run.read()
    model = ModelSpec(**manifest["model"])
    images, kept = images_of(model), manifest.get(IMAGES_FROM, {})
    described = Described(
        classes=images.classes,
        geometry=str(kept.get("geometry") or ""),
        source=str(run.path),
        notes=(f"{manifest['recipe']}, exported from {run.path.name}", *_preprocessing(model)),
    )
    shape = (RANDOM_IMAGES, images.channels, *images.sides)
    shown = torch.rand(*shape, generator=generator(0, "onnx check"))
    if run.gallery.is_file():
        shown = read_tensors(run.gallery)[0].get("images", shown).float()
    return export_classifier(cast("nn.Module", defense.network).eval(), place, shown, described)


def _preprocessing(model: ModelSpec) -> tuple[str, ...]:
    stated = "" if model.own is None else model.own.preprocess
    return (f"the model's first layer is its preprocessing of pixels in [0, 1]: {stated}",) if stated else ()


def tensors_of(defense: nn.Module) -> dict[str, Tensor]:
    """Return the state of a defense and, under the prefix `UNDEFENDED`, of its transfer source."""
    tensors = dict(defense.state_dict())
    source = defense.transfer_source if isinstance(defense, MemoryDefense) else None
    if isinstance(source, nn.Module):
        tensors |= {f"{UNDEFENDED}{name}": tensor for name, tensor in source.state_dict().items()}
    return tensors


def _write_folder(
    run: RunDirectory, place: Path, facts: Facts, tensors: dict[str, Tensor], card: CardWriter
) -> Exported:
    """Write the four files, `CONFIG` last: without it, or with another hash, the folder is not loaded."""
    record = read_whole(run.record)
    weights = place / WEIGHTS
    text = card(facts, record)
    write_tensors(weights, tensors, {"format": "pt"})
    sealed = replace(facts, weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
    record.write(place / RECORD)
    write_text(place / CARD, text)
    write_text(place / CONFIG, sealed.to_text())
    return Exported(place, f"{len(tensors)} tensors, sha256 {sealed.weights_sha256[:12]}")
