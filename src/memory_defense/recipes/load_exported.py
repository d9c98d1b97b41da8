"""Defenses back from what `recipes.export` wrote: a safetensors file, an ONNX model, or a hub folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from memory_defense.contracts import Flagging
from memory_defense.recipes.build import build_classifier, build_defense, images_of
from memory_defense.recipes.export_facts import KEY, Facts, read_facts
from memory_defense.recipes.exported_onnx import read_onnx
from memory_defense.recipes.flag import KEY as FLAG
from memory_defense.recipes.flag import restore_flag
from memory_defense.run_directory import CONFIG, WEIGHTS
from memory_defense.tensorfiles import read_tensors
from memory_defense.training.precision import lay_out

_UNDEFENDED = "undefended/"


def load_exported(path: Path) -> nn.Module:
    """Return the defense in an exported file or folder, in eval mode and on the CPU.

    Raises
    ------
    ValueError
        For a file that is missing, damaged or of something else; the message says what to do.
    """
    if path.suffix == ".onnx":
        return read_onnx(path)
    return _from_folder(path) if path.is_dir() else _from_file(path)


def _from_file(path: Path) -> nn.Module:
    tensors, described = read_tensors(path)
    if KEY not in described:
        raise ValueError(
            f"{path} holds tensors but does not say of which model (no {KEY!r} in its metadata); "
            "load a run directory, or export one with 'memdef export RUN --format safetensors'"
        )
    return _built(read_facts(described[KEY], path), tensors, path)


def _from_folder(path: Path) -> nn.Module:
    facts = read_facts((path / CONFIG).read_text(encoding="utf-8"), path / CONFIG)
    weights = path / WEIGHTS
    tensors, _ = read_tensors(weights)
    if hashlib.sha256(weights.read_bytes()).hexdigest() != facts.weights_sha256:
        raise ValueError(
            f"{weights} is not the file that {CONFIG} was written for (its sha256 is another); "
            "download the folder again, or export it again with --force"
        )
    return _built(facts, tensors, weights)


def _built(facts: Facts, tensors: dict[str, torch.Tensor], source: Path) -> nn.Module:
    facts.refuse_foreign_code(source)
    own = {name: value for name, value in tensors.items() if not name.startswith(_UNDEFENDED)}
    theirs = {name.removeprefix(_UNDEFENDED): tensors[name] for name in tensors if name not in own}
    defense = build_defense(facts.spec())
    _fill(defense, own, source)
    if facts.undefended_network is not None:
        undefended = build_classifier(facts.undefended_network, images_of(facts.spec()), 0, "undefended")
        _fill(undefended, theirs, source)
        defense.transfer_source = undefended.eval()
    if isinstance(defense, Flagging):
        restore_flag(defense, {FLAG: facts.flag}, source)
    lay_out(defense, torch.device("cpu"))
    return defense.eval()


def _fill(module: nn.Module, tensors: dict[str, torch.Tensor], source: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{source} does not fit the model it names ({reason}); export it again") from error
