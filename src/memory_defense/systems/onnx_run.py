"""An ONNX model as a classifier, run by ONNX Runtime: inference only, so no surrogate has a gradient."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from memory_defense.contracts import Classifier, Images, Logits, PerImage
from memory_defense.evaluation.cases import QUERIES
from memory_defense.evaluation.flag import KEY as FLAG
from memory_defense.evaluation.flag import kept_flag
from memory_defense.systems.facts import KEY, Facts, made_again, read_facts

INPUT = "images"
OUTPUTS = ("logits", "slots", "reconstruction_error")
"""(B, K) float32; (B,) int64; (B,) float32 in squared pixel units. A plain classifier has the first alone."""

SCORE = "reconstruction"
"""Name of the flag's score for the third output."""


def needed(name: str, extra: str = "export") -> Any:
    """Return a module of an extra, such as ``export``; raise ValueError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"this needs the package {name}, which is not installed: pip install 'memory-defense[{extra}]'"
        ) from error


class ForeignOnnxError(ValueError):
    """An ONNX model that ``memdef export RUN`` did not write; `onnx_foreign.load_onnx` reads it."""


class OnnxDefense(nn.Module):
    """Images (B, C, H, W) in [0, 1] to logits (B, K), computed on the processor by ONNX Runtime.

    It has no gradient and publishes none: its one surrogate, ``queries``, is itself. Attacks that ask for a
    gradient report that there is none and break nothing; those without one run as always.

    Parameters
    ----------
    model
        The bytes of an ONNX model that ``memdef export`` wrote.
    source
        Path of the model, for messages.

    Raises
    ------
    ValueError
        For bytes that are no such model.
    """

    identity: Tensor
    """(32,) uint8: SHA-256 of the model, so that an evaluation knows which one it belongs to."""

    transfer_knowledge: frozenset[str] = frozenset()
    """Knowledge whose surrogate decides otherwise than the defense; there is none."""

    def __init__(self, model: bytes, source: Path) -> None:
        super().__init__()
        self._session = open_session(model, source)
        described = cast("dict[str, str]", self._session.get_modelmeta().custom_metadata_map)
        if KEY not in described:
            raise ForeignOnnxError(
                f"{source} is an ONNX model of something else: its metadata have no {KEY!r}; "
                "write one with 'memdef export RUN --format onnx'"
            )
        self.facts: Facts = read_facts(described[KEY], source)
        self.outputs = tuple(cast("str", one.name) for one in self._session.get_outputs())
        if self.outputs[:1] != OUTPUTS[:1] or [one.name for one in self._session.get_inputs()] != [INPUT]:
            raise ValueError(f"{source} does not map {INPUT} to {OUTPUTS[0]}; {made_again(source)}")
        digest = hashlib.sha256(model).digest()
        self.register_buffer("identity", torch.frombuffer(bytearray(digest), dtype=torch.uint8))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names by label."""
        return self.facts.classes

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K); raise ValueError for images of another shape."""
        return self.run(images)[0]

    def run(self, images: Images) -> tuple[Tensor, ...]:
        """Return every output of the model, in the order of `outputs`, on the images' device."""
        expected = (self.facts.channels, *self.facts.sides)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"images have shape {tuple(images.shape)}, the model takes (B, {', '.join(map(str, expected))}); "
                "resize or convert them"
            )
        given = np.ascontiguousarray(images.detach().cpu().float().numpy())
        found = self._session.run(list(self.outputs), {INPUT: given})
        return tuple(torch.from_numpy(np.array(one)).to(images.device) for one in found)

    def surrogates(self) -> Mapping[str, Classifier]:
        """Return the model itself, which can be queried but not differentiated."""
        return {QUERIES: self}


class FlaggingOnnxDefense(OnnxDefense):
    """One whose model also gives the reconstruction error, so that it can flag by it."""

    flag_score: str = SCORE
    flag_threshold: float | None = None

    def __init__(self, model: bytes, source: Path) -> None:
        super().__init__(model, source)
        flag = kept_flag({FLAG: self.facts.flag}, source)
        if flag is not None and flag.score == SCORE:  # another score is not in the model
            flag.put_on(self)

    def scores(self, images: Images) -> Mapping[str, PerImage]:
        """Return ``reconstruction``, (B,): the mean squared reconstruction error, in squared pixel units."""
        return {SCORE: self.run(images)[self.outputs.index(OUTPUTS[2])]}

    def suspicious(self, images: Images) -> PerImage:
        """Return (B,) bool: the score lies above the threshold; raise ValueError while there is none."""
        if self.flag_threshold is None:
            raise ValueError(
                "no image can be flagged, since this model was exported without a threshold for its score; choose "
                "one with 'memdef evaluate RUN --detection', then export it again"
            )
        return self.scores(images)[SCORE] > self.flag_threshold


def open_session(model: bytes | str, source: Path, remedy: str = "") -> Any:
    """Return an ONNX Runtime session with as many threads as torch uses.

    Raises ValueError, with a remedy, for bytes, or a file at a path, that it cannot run.
    """
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own types are not exported
        raise ValueError(
            f"{source} is not a complete ONNX model that ONNX Runtime {runtime.__version__} can run "
            f"({str(error).splitlines()[0][:200]}); {remedy or made_again(source)}"
        ) from error


def read_onnx(path: Path) -> OnnxDefense:
    """Return the classifier in an ONNX file; raise ValueError for a missing, damaged or foreign one."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; {made_again(path)}")
    model = path.read_bytes()
    check_whole(model, path)
    return from_bytes(model, path)


def check_whole(model: bytes, source: Path) -> None:
    """Raise ValueError for a model whose content is not what the checksum at its end says; most have none."""
    content, kept = model[:-_TAIL], model[-_TAIL:]
    if kept.startswith(_HEAD) and kept != _tail(content):
        raise ValueError(f"{source} is damaged: its content is not what its checksum says; {made_again(source)}")


def with_checksum(model: bytes) -> bytes:
    """Return an ONNX model with one more entry of its metadata at the end: the SHA-256 of all before it."""
    return model + _tail(model)


def _tail(model: bytes) -> bytes:
    return _HEAD + hashlib.sha256(model).hexdigest().encode()


_KEY = b"memory_defense_sha256"
_DIGITS = 64
_PAIR = b"\x0a" + bytes([len(_KEY)]) + _KEY + b"\x12" + bytes([_DIGITS])
_HEAD = b"\x72" + bytes([len(_PAIR) + _DIGITS]) + _PAIR
"""What the entry begins with, as protobuf writes it: field 14 of a model, of a key and a value."""
_TAIL = len(_HEAD) + _DIGITS


def from_bytes(model: bytes, source: Path) -> OnnxDefense:
    """Return the classifier in the bytes of an ONNX model, one that can flag where the model can."""
    plain = OnnxDefense(model, source)
    return FlaggingOnnxDefense(model, source) if OUTPUTS[2] in plain.outputs else plain
