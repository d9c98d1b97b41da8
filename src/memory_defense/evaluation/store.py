"""The state of an evaluation as tensors: in a file, to go on after a stop, and between processes.

The file is safetensors. Its metadata say what it belongs to (`fingerprint`); a file of another evaluation is
refused. Adversarial images are kept for broken images only.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, cast

import torch
from torch import Tensor

from memory_defense.contracts import Images, Labels, Rows
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.state import CaseState, State
from memory_defense.files import locked, remove
from memory_defense.noticed import least
from memory_defense.ranks import Ranks
from memory_defense.tensorfiles import read_tensors, write_tensors
from memory_defense.wrappers import modules_of

_COUNTS = ("ran", "forward", "backward", "disagreements", "pilot_cost", "seconds", "note")
_NOTICED = ("no_answer", "no_gradient", "followed", "smallest")
_PER_IMAGE = ("done", "fooled", "silent", "distance", "before")
SAVE_SECONDS = 20.0
"""The most work, in seconds, that a stopped evaluation loses, plus one attack on one chunk of images."""


def fingerprint(
    defense: object, images: Images, labels: Labels, ids: Rows, cases: Sequence[Case], terms: str
) -> str:
    """Return a hash of all that decides an outcome: model, data, attacks and `terms` (seed, submissions, ...)."""
    digest = hashlib.sha256()
    for module in modules_of(defense):
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(_bytes(tensor))
    for tensor in (images, labels, ids):
        digest.update(_bytes(tensor))
    for case in cases:
        content = getattr(case.attack, "sha256", "")  # of images that an attack brings along
        digest.update(f"{case.key} {case.role} {case.attack!r} {content}".encode())
    digest.update(f"{terms} {type(defense).__qualname__}".encode())
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def to_tensors(state: State) -> dict[str, Tensor]:
    """Return everything but the clean images, which whoever goes on has; counts travel as a JSON tensor."""
    tensors = {"labels": state.labels, "ids": state.ids, "predictions": state.predictions, "correct": state.correct}
    for number, one in enumerate(state.cases):
        tensors |= {f"case {number} {name}": getattr(one, name) for name in _PER_IMAGE}
    for number, broken in enumerate(state.broken):
        tensors |= broken.tensors(f"ball {number}")
    counts = [{name: getattr(one, name) for name in (*_COUNTS, *_NOTICED)} for one in state.cases]
    tensors["counts"] = torch.frombuffer(bytearray(json.dumps(counts).encode()), dtype=torch.uint8)
    return tensors


def take_over(state: State, tensors: Mapping[str, Tensor], rows: Rows) -> None:
    """Write what `to_tensors` returned for these rows (of `state`) into it; counts are added to its own.

    Of two processes' seconds the longer counts, as they ran side by side.
    """
    device = state.labels.device
    counts = cast("list[dict[str, Any]]", json.loads(bytes(tensors["counts"].cpu().numpy())))
    for name in ("predictions", "correct"):
        getattr(state, name)[rows] = tensors[name].to(device)
    for number, one in enumerate(state.cases):
        for name in _PER_IMAGE:
            getattr(one, name)[rows] = tensors[f"case {number} {name}"].to(device)
        _add_counts(one, counts[number])
    for number, broken in enumerate(state.broken):
        broken.take_over(tensors, f"ball {number}", rows)


def _add_counts(one: CaseState, counts: Mapping[str, Any]) -> None:
    one.ran += counts["ran"]
    one.forward += counts["forward"]
    one.backward += counts["backward"]
    one.disagreements += counts["disagreements"]
    one.pilot_cost += counts["pilot_cost"]
    one.seconds = max(one.seconds, counts["seconds"])
    one.note = one.note or counts["note"]
    one.no_answer = tuple(sorted({*one.no_answer, *counts.get("no_answer", ())}))
    one.no_gradient = tuple(sorted({*one.no_gradient, *counts.get("no_gradient", ())}))
    one.followed |= bool(counts.get("followed"))
    one.smallest = least(one.smallest, counts.get("smallest"))


@dataclass
class Store:
    """File that a stopped evaluation goes on from.

    Parameters
    ----------
    path
        The file, or None to keep nothing.
    fingerprint
        Fingerprint of the evaluation that may be continued.
    """

    path: Path | None
    fingerprint: str
    _saved: float = field(default_factory=monotonic)

    def resume(self, state: State) -> bool:
        """Bring `state` to where the file stands; return False when there is none.

        Raises
        ------
        ValueError
            For a file of another evaluation, or a damaged one.
        """
        if self.path is None or not self.path.exists():
            return False
        tensors, metadata = read_tensors(self.path)
        if metadata.get("fingerprint") != self.fingerprint:
            raise ValueError(
                f"{self.path} belongs to another evaluation (other weights, images, attacks, seed or number of "
                "processes, or a processor that rounds otherwise); remove it to start anew, or write to another "
                "place"
            )
        try:
            _check(tensors, to_tensors(state))
            take_over(state, tensors, torch.arange(len(state.labels), device=state.labels.device))
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{self.path} is damaged ({error}); remove it to start anew") from error
        return True

    def save(self, state: State, *, at_once: bool = False) -> None:
        """Write the state, if the last time was long enough ago."""
        if self.path is None or (not at_once and monotonic() - self._saved < SAVE_SECONDS):
            return
        write_tensors(self.path, to_tensors(state), {"fingerprint": self.fingerprint})
        self._saved = monotonic()

    def clear(self) -> None:
        """Remove the file, once the evaluation is whole."""
        if self.path is not None:
            remove(self.path)


def of_rank(path: Path, ranks: Ranks) -> Path:
    """Return the file of one process among several."""
    return path if ranks.world == 1 else path.with_name(f"{path.name}.rank-{ranks.rank}")


@contextmanager
def only_writer(path: Path | None, ranks: Ranks) -> Generator[None]:
    """Keep other processes off the file to go on from; raise `files.LockedError` where one is at it."""
    if path is None:
        yield
        return
    with locked(of_rank(path, ranks), f"the evaluation that is saved at {path}"):
        yield


def discard(path: Path) -> None:
    """Remove the files to go on from, of all processes, once the record they led to is written."""
    for one in (path, *sorted(path.parent.glob(f"{glob.escape(path.name)}.rank-*"))):
        remove(one)


def _check(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a file holds what it should; how many images are broken only it knows."""
    for name, tensor in expected.items():
        there, counted = found[name], name == "counts" or name.endswith(" images")
        shapes = (there.shape[1:], tensor.shape[1:]) if counted else (there.shape, tensor.shape)
        if shapes[0] != shapes[1] or there.dtype != tensor.dtype:
            raise ValueError(f"{name} is {there.dtype} {tuple(there.shape)}")
