"""ONNX files of anybody: with gradients by conversion to torch where it answers equally, else queries only."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from memory_defense.data.geometry import Geometry
from memory_defense.evaluation.cases import QUERIES
from memory_defense.systems.doors import LoadedModel
from memory_defense.systems.inputs import Fitted, InputForm, Queried, why_no_gradient
from memory_defense.systems.onnx_run import check_whole, needed, open_session
from memory_defense.systems.preprocessed import Preprocessed
from memory_defense.systems.preprocessing import Preprocessing

ABOUT = "memory_defense_classifier"
"""Entry of the metadata that ``memdef export`` writes for a classifier that is no run: `Described` as JSON."""

TOLERANCE = 1e-4
"""Largest difference of a converted model's logits, as a share of their largest magnitude, at least 1."""

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}


@dataclass(frozen=True, kw_only=True)
class Described:
    """What an exported classifier says of itself, beside its graph."""

    classes: tuple[str, ...]
    """Names by label."""
    geometry: str
    """What `Geometry.parse` reads; empty where nothing was said."""
    source: str
    """The target that it was exported from."""
    notes: tuple[str, ...]
    """What a record of it says: its preprocessing, which is in the graph, and where it comes from."""


class OnnxNetwork(nn.Module):
    """An ONNX file as ONNX Runtime runs it: its own input to its first output, without a gradient."""

    identity: Tensor
    """(32,) uint8: SHA-256 of the file, so that an evaluation knows which one it belongs to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        remedy = "write or download it again, with the files of its weights beside it where it has any"
        self._session = open_session(str(path), path, remedy)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or inputs[0].type not in _TYPES:
            shown = ", ".join(f"{one.name}: {one.type}" for one in inputs)
            raise ValueError(
                f"{path} takes {shown}, but a classifier takes one input of images, {' or '.join(_TYPES)}; export "
                "the classifier alone"
            )
        self.input, self.outputs = inputs[0], tuple(outputs)
        self._type = _TYPES[inputs[0].type]
        model = path.read_bytes()
        check_whole(model, path)
        digest = hashlib.sha256(model).digest()
        self.register_buffer("identity", torch.frombuffer(bytearray(digest), dtype=torch.uint8))

    @property
    def metadata(self) -> dict[str, str]:
        """Whatever the file says about itself."""
        return cast("dict[str, str]", self._session.get_modelmeta().custom_metadata_map)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the first output for an input of the file's own form, on its device."""
        given = np.ascontiguousarray(pixels.detach().cpu().numpy().astype(self._type))
        found = self._session.run([self.outputs[0].name], {self.input.name: given})[0]
        return torch.from_numpy(np.array(found)).to(pixels.device)


def load_onnx(path: Path, preprocessing: Preprocessing | None = None) -> LoadedModel:
    """Return the classifier in an ONNX file of anybody.

    Its input may be (B, C, H, W) or (B, H, W, C), floats or uint8 grey levels, of any number of images or of one;
    pixels are given to it in [0, 1] but for the preprocessing. Where the package onnx2fx is there and its
    conversion to torch answers as ONNX Runtime does, attacks follow the gradient of that; else only attacks without
    one can run, and the notes say why.

    Parameters
    ----------
    path
        The file. Files of weights beside it are found by ONNX Runtime.
    preprocessing
        What it wants its pixels to be; None takes them as they are, or, for grey levels, from 0 to 255.

    Raises
    ------
    ValueError
        For a file that is missing, damaged or no classifier of images, or a preprocessing that cannot be.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist, or is not a file; give the path of an ONNX model")
    run = OnnxNetwork(path)
    shape = tuple(map(_length, cast("Sequence[object]", run.input.shape)))
    levels = run.input.type == "tensor(uint8)"
    form = InputForm.of_shape(shape, str(path), levels=levels)
    about = _described(run.metadata, path)
    chosen = preprocessing or Preprocessing()
    if about is not None and preprocessing is not None:
        raise ValueError(f"{path} takes images in [0, 1] as exported; leave --preprocess {preprocessing} out")
    if levels and (chosen.scale not in (1.0, 255.0) or chosen.mean or chosen.std):
        raise ValueError(
            f"{path} takes uint8 grey levels, which pixels are turned into by themselves; leave all but bgr out of "
            f"--preprocess {chosen}"
        )
    if levels:
        chosen = Preprocessing(bgr=chosen.bgr)
    asked = Fitted(run, form)
    network, said = _converted(path, form, asked)
    network = network or Queried(asked)
    notes = (f"{path.name}: {said}", *(f"{path.name}: {one}" for one in form.notes), *_several(path, run.outputs))
    return LoadedModel(
        module=placed(network, chosen, form.channels),
        network=network,
        preprocessing=chosen,
        names=about.classes if about else None,
        geometry=Geometry.parse(about.geometry) if about and about.geometry else None,
        channels=form.channels,
        sides=form.sides,
        notes=(*(about.notes if about else ()), *notes),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def placed(network: nn.Module, preprocessing: Preprocessing, channels: int) -> nn.Module:
    """Return a network behind its preprocessing, in eval mode; one without a gradient still says so."""
    if not str(preprocessing):
        return network.eval()
    if isinstance(network, Queried):
        return Queried(Preprocessed(network.network, preprocessing, channels)).eval()
    return Preprocessed(network, preprocessing, channels).eval()


def _converted(path: Path, form: InputForm, asked: nn.Module) -> tuple[nn.Module | None, str]:
    """Return the model as torch computes it, if it can be and answers equally; and one sentence on that."""
    only = f"attacks only ask, none follows a gradient ({QUERIES}), since"
    try:
        converter: Any = importlib.import_module("onnx2fx")
        version = str(converter.__version__)
    except ImportError:
        return (
            None,
            f"{only} onnx2fx, which converts to torch, is not installed: pip install 'memory-defense[models]'",
        )
    try:
        found = Fitted(cast("nn.Module", converter.convert(str(path))).eval(), form).eval()
        images = form.images()
        with torch.no_grad():
            given, wanted = found(images), cast("Tensor", asked(images))
    except Exception as error:  # whatever the converter or its graph raises
        return None, f"{only} onnx2fx {version} does not convert it ({' '.join(str(error).split())[:160]})"
    allowed = TOLERANCE * max(1.0, float(wanted.abs().max()))
    same = given.shape == wanted.shape
    difference = float((given - wanted).abs().nan_to_num(torch.inf).max()) if same else torch.inf
    if difference > allowed:
        return None, f"{only} its conversion by onnx2fx {version} answers differently, by {difference:.2g}"
    if why := why_no_gradient(found, images):
        return None, f"{only} {why}"
    return found, (
        f"computed and differentiated as onnx2fx {version} converts it to torch; ONNX Runtime "
        f"{needed('onnxruntime').__version__} answers the same within {difference:.1g}"
    )


def _length(one: object) -> int | None:
    """Return the length of an axis; None for one that is left open."""
    return one if isinstance(one, int) and one > 0 else None


def _several(path: Path, outputs: Sequence[Any]) -> tuple[str, ...]:
    names = [str(one.name) for one in outputs]
    return () if len(names) == 1 else (f"{path.name}: of its outputs {', '.join(names)} the first is the answer",)


def _described(metadata: dict[str, str], path: Path) -> Described | None:
    """Return what `memdef export` wrote into a file about its classifier; None for a file of others."""
    if ABOUT not in metadata:
        return None
    try:
        values = cast("dict[str, Any]", json.loads(metadata[ABOUT]))
        return Described(
            classes=tuple(map(str, values["classes"])),
            geometry=str(values["geometry"]),
            source=str(values["source"]),
            notes=tuple(map(str, values["notes"])),
        )
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: what it says about its classifier is damaged ({type(error).__name__}: {error}); export it "
            "again"
        ) from error
