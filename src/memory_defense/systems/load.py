"""Trained defenses back from their run directories, and from what was exported of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import nn

from memory_defense.checks import check_path
from memory_defense.contracts import Binding, Classifier, Flagging, Images, Logits
from memory_defense.data.geometry import Geometry
from memory_defense.data.spec import images_of
from memory_defense.defenses.memory.defense import MemoryDefense
from memory_defense.evaluation.flag import KEY as FLAG
from memory_defense.evaluation.flag import restore_flag
from memory_defense.evaluation.kept import read_whole
from memory_defense.model_spec import ModelSpec
from memory_defense.run_directory import CONFIG, WEIGHTS, RunDirectory, is_exported
from memory_defense.systems.build import build_classifier, build_defense
from memory_defense.systems.doors import LoadedModel, check_no_pickle, door_of, path_of
from memory_defense.systems.facts import KEY, UNDEFENDED, Facts, made_again, read_facts
from memory_defense.systems.onnx_run import ForeignOnnxError, OnnxDefense, read_onnx
from memory_defense.systems.preprocessing import Preprocessing
from memory_defense.tensorfiles import read_tensors
from memory_defense.training.checkpoint import load_weights
from memory_defense.training.precision import lay_out
from memory_defense.zoo import located


class TrainedDefense(nn.Module):
    """Type of what `load` returns, for type checkers: an `nn.Module` that is a `contracts.Defense`."""

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
        A finished run, such as ``runs/demo``; one that comes with the package, such as
        ``zoo:fashion-mnist/sound`` (``memdef zoo`` lists them); what ``memdef export`` wrote: a .safetensors
        file, an .onnx file (that of a run answers but has no gradient), or a folder for a model hub; or somebody
        else's classifier, ``hf:DIR`` (transformers), ``onnx:FILE`` or ``FILE.pt2`` (see `load_model`).

    Returns
    -------
    In eval mode, on the CPU, with gradients to its input.

    Raises
    ------
    ValueError
        If the directory is no run, is unfinished, its weights are damaged or of another model, or its record
        contradicts itself or the file of its images.
    """
    target = str(check_path(directory, "directory", "runs/demo"))
    check_no_pickle(target)
    if door_of(target) in ("transformers", "onnx", "program"):
        return cast("TrainedDefense", load_model(target).module)
    place = located(target)
    record = RunDirectory(place).record
    if record.is_file():
        try:
            read_whole(record)
        except ValueError as error:
            raise ValueError(f"{error}; remove {record} to load the defense without a record") from error
    return load_defense(place)


def load_model(target: str, preprocess: str | None = None) -> LoadedModel:
    """Return a classifier with what its own files say of its classes, its images and its preprocessing.

    Parameters
    ----------
    target
        ``hf:DIR``, a folder that ``save_pretrained`` of transformers wrote; ``onnx:FILE`` or ``FILE.onnx``;
        ``pt2:FILE`` or ``FILE.pt2``, a program of torch.export; or what ``memdef export`` wrote of a run.
    preprocess
        What the network wants its pixels to be, as `Preprocessing.parse` reads it; None takes what the files say,
        or pixels in [0, 1] as they are.

    Raises
    ------
    ValueError
        For a target that is none of these, or that cannot be read; the message says what to do.
    """
    door, path = door_of(target), path_of(target)
    chosen = None if preprocess is None else Preprocessing.parse(preprocess)
    if door == "transformers":
        from memory_defense.systems.transformers_model import load_transformers

        return load_transformers(path, chosen)
    if door == "program":
        from memory_defense.systems.program_model import load_program

        return load_program(path, chosen)
    if door == "onnx":
        from memory_defense.systems.onnx_foreign import load_onnx

        if target != str(path):  # named by its prefix
            return load_onnx(path, chosen)
        try:
            module: nn.Module = read_onnx(path)
        except ForeignOnnxError:
            return load_onnx(path, chosen)
    elif door == "export":
        module = load_exported(path)
    else:
        raise ValueError(f"{target} is not a classifier by itself; give hf:DIR, onnx:FILE, FILE.pt2 or an export")
    if chosen is not None:
        raise ValueError(f"{path} takes images in [0, 1] as exported; leave --preprocess {chosen} out")
    facts = module.facts if isinstance(module, OnnxDefense) else None
    geometry = Geometry.parse(facts.geometry) if facts and facts.geometry else None
    return LoadedModel(module=module, network=module, preprocessing=Preprocessing(), geometry=geometry)


def load_defense(directory: str | Path) -> TrainedDefense:
    """Return what `load` does, without a look at the record, for whoever reads that too or writes it anew."""
    place = located(check_path(directory, "directory", "runs/demo"))
    if place.is_file() or is_exported(place):
        return cast("TrainedDefense", load_exported(place))
    run = RunDirectory(place)
    manifest = run.read_finished()
    run.check_room(manifest)
    model = ModelSpec(**manifest["model"])
    other = manifest["undefended_network"]
    try:
        defense = build_defense(model)
        undefended = build_classifier(other, images_of(model), 0, "undefended", model.own) if other else None
    except ValueError as error:
        if ":" in model.selector or ":" in other:
            raise ValueError(f"{run.path} needs the classifier that it was made with: {error}") from error
        raise ValueError(
            f"{run.manifest_path} is damaged, or of another version ({error}); restore it, or train again into a "
            "new directory"
        ) from error
    load_weights(run.weights, defense)
    if undefended is not None and isinstance(defense, MemoryDefense) and run.undefended.is_file():
        load_weights(run.undefended, undefended)
        defense.transfer_source = undefended.eval()
    run.verify(manifest)
    if isinstance(defense, Flagging):
        restore_flag(defense, manifest, run.manifest_path)
    lay_out(defense, torch.device("cpu"))
    return cast("TrainedDefense", defense.eval())


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
            "load a run directory, or export one with 'memdef export RUN'"
        )
    return _built(read_facts(described[KEY], path), tensors, path)


def _from_folder(path: Path) -> nn.Module:
    facts = read_facts((path / CONFIG).read_bytes(), path / CONFIG)
    weights = path / WEIGHTS
    tensors, _ = read_tensors(weights)
    if hashlib.sha256(weights.read_bytes()).hexdigest() != facts.weights_sha256:
        raise ValueError(
            f"{weights} is not the file that {CONFIG} was written for (its sha256 is another); "
            f"{made_again(weights)}"
        )
    return _built(facts, tensors, weights)


def _built(facts: Facts, tensors: dict[str, torch.Tensor], source: Path) -> nn.Module:
    facts.refuse_foreign_code(source)
    own = {name: value for name, value in tensors.items() if not name.startswith(UNDEFENDED)}
    theirs = {name.removeprefix(UNDEFENDED): tensors[name] for name in tensors if name not in own}
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
        raise ValueError(f"{source} does not fit the model it names ({reason}); {made_again(source)}") from error
