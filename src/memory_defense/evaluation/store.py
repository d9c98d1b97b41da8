"""The state of an evaluation as tensors: in a file, to go on after a stop, and between processes.

The file is safetensors. Its metadata say what it belongs to (`fingerprint`); a file of another evaluation is
refused. Adversarial images are kept for broken images only.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, cast

import torch
from torch import Tensor

from memory_defense.answers import ANSWERS, answered_otherwise, predicted_otherwise, repeats_itself
from memory_defense.contracts import Images, Labels, Rows
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.state import CaseState, State
from memory_defense.files import locked, remove
from memory_defense.noticed import least
from memory_defense.ranks import Ranks
from memory_defense.tensorfiles import read_tensors, write_tensors
from memory_defense.wrappers import modules_of

_COUNTS = ("ran", "forward", "backward", "disagreements", "rounded", "pilot_cost", "seconds", "note")
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
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def to_tensors(state: State) -> dict[str, Tensor]:
    """Return everything but the clean images, which whoever goes on has; counts travel as a JSON tensor."""
    tensors = {"labels": state.labels, "ids": state.ids, "predictions": state.predictions, "correct": state.correct}
    tensors[ANSWERS] = state.answers
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
    for name in ("predictions", "correct", ANSWERS):
        if name in tensors:  # no state of an earlier version has the answers
            getattr(state, name)[rows] = tensors[name].to(device)
    for number, one in enumerate(state.cases):
        for name in _PER_IMAGE:
            getattr(one, name)[rows] = tensors[f"case {number} {name}"].to(device)
        _add_counts(one, counts[number], int(tensors[f"case {number} done"].sum()))
    for number, broken in enumerate(state.broken):
        broken.take_over(tensors, f"ball {number}", rows)


def _add_counts(one: CaseState, counts: Mapping[str, Any], done: int) -> None:
    one.ran += counts.get("ran", done)  # an earlier version's state has no such count
    one.forward += counts["forward"]
    one.backward += counts["backward"]
    one.disagreements += counts["disagreements"]
    one.rounded += counts.get("rounded", 0)
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
    made_on
        Processor that answers are made on now (`answers.made_on`).
    agreeing
        Whether its passes were found to agree, so that the same processor gives the same answers.
    randomised
        Whether the model draws at random: another kind of processor draws otherwise from the same seed.
    """

    path: Path | None
    fingerprint: str
    made_on: str = ""
    agreeing: bool = False
    randomised: bool = False
    _saved: float = field(default_factory=monotonic)

    def resume(self, state: State, ask: Callable[[], Tensor] | None = None) -> str:
        """Bring `state`, which has the answers of now, to where the file stands; return what there is to say.

        Parameters
        ----------
        state
            Judged clean; nothing else is done yet.
        ask
            Gives the answers (N, 2) once more, with the same seed.

        Returns
        -------
        One line; empty where there is no file.

        Raises
        ------
        ValueError
            For a file of another evaluation, of a model that answered otherwise, or a damaged one.
        """
        if self.path is None or not self.path.exists():
            return ""
        tensors, metadata = read_tensors(self.path)
        if metadata.get("fingerprint") != self.fingerprint:
            raise ValueError(
                f"{self.path} belongs to another evaluation (other weights, images, attacks, seed or number of "
                "processes, or a processor that rounds otherwise); remove it to start anew, or write to another "
                "place"
            )
        said, images = "going on where the evaluation stopped", len(state.labels)
        with _damage(self.path):
            _check(tensors, to_tensors(state))
            differing = self._answered_otherwise(state, tensors, metadata)
        moved = self.randomised and metadata.get("made_on") != self.made_on
        if differing and not moved and (ask is None or repeats_itself(ask, state.answers)):
            raise ValueError(
                f"{self.path} belongs to another evaluation: the classifier answers otherwise now, on {differing} "
                f"of {images} clean images; remove it to start anew, or write to another place"
            )
        with _damage(self.path):
            take_over(state, tensors, torch.arange(images, device=state.labels.device))
        if differing:
            said += "; the classifier draws at random, so its answers cannot tell whether it is still the same"
        return said

    def _answered_otherwise(self, state: State, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
        if ANSWERS not in tensors:
            return predicted_otherwise(state.predictions, tensors["predictions"])
        here = self.agreeing and metadata.get("made_on") == self.made_on
        return answered_otherwise(state.answers, tensors[ANSWERS], here=here)

    def save(self, state: State, *, at_once: bool = False) -> None:
        """Write the state, if the last time was long enough ago."""
        if self.path is None or (not at_once and monotonic() - self._saved < SAVE_SECONDS):
            return
        write_tensors(self.path, to_tensors(state), {"fingerprint": self.fingerprint, "made_on": self.made_on})
        self._saved = monotonic()

    def clear(self) -> None:
        """Remove the file, once the evaluation is whole."""
        if self.path is not None:
            remove(self.path)


def of_rank(path: Path, ranks: Ranks) -> Path:
    """Return the file of one process among several."""
    return path if ranks.world == 1 else path.with_name(f"{path.name}.rank-{ranks.rank}")


_held: ContextVar[frozenset[Path]] = ContextVar("states that are written here", default=frozenset())


@contextmanager
def only_writer(path: Path | None, ranks: Ranks) -> Generator[None]:
    """Keep others off the file to go on from; raise `files.LockedError` where one is at it.

    Inside such a block the same file may be asked for again, so that whoever writes the record holds it throughout.
    """
    own = None if path is None else of_rank(path, ranks).absolute()
    if own is None or own in _held.get():
        yield
        return
    with locked(own, f"the evaluation that is saved at {path}"):
        token = _held.set(_held.get() | {own})
        try:
            yield
        finally:
            _held.reset(token)


def discard(path: Path) -> None:
    """Remove the files to go on from, of all processes, once the record they led to is written."""
    for one in _of_all(path):
        remove(one)


def of_other_company(path: Path | None, ranks: Ranks) -> list[Path]:
    """Return the files to go on from that another number of processes than this one left."""
    if path is None:
        return []
    own = {of_rank(path, Ranks(rank, ranks.world)) for rank in range(ranks.world)}
    return [one for one in _of_all(path) if one not in own]


def _of_all(path: Path) -> list[Path]:
    ranks = sorted(path.parent.glob(f"{glob.escape(path.name)}.rank-*[0-9]"))
    return [one for one in (path, *ranks) if one.is_file()]


@contextmanager
def _damage(path: Path) -> Generator[None]:
    """Run a block that reads a state's tensors, and turn what goes wrong there into one error."""
    try:
        yield
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it to start anew") from error


def _check(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a file holds what it should; how many images are broken only it knows."""
    for name, tensor in expected.items():
        if name == ANSWERS and name not in found:
            continue
        there, counted = found[name], name == "counts" or name.endswith(" images")
        shapes = (there.shape[1:], tensor.shape[1:]) if counted else (there.shape, tensor.shape)
        if shapes[0] != shapes[1] or there.dtype != tensor.dtype:
            raise ValueError(f"{name} is {there.dtype} {tuple(there.shape)}")
