"""The state of an evaluation outside of it: in a log, to go on after a stop, and between processes.

The log (`evaluation.log`) begins with the clean verdicts and what it belongs to (`fingerprint`); a log of another
evaluation is refused. Then every attack on a chunk of images appends what came of it, with the images that it broke
first, as changes (`evaluation.coded`). To go on is to take all of that in again, in order. Between processes
travels what is known of every image, and no pixel.
"""

from __future__ import annotations

import glob
import hashlib
import json
import struct
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from memory_defense.answers import ANSWERS, answered_otherwise, repeats_itself
from memory_defense.contracts import Labels, Rows
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.coded import coded
from memory_defense.evaluation.log import Log, with_length
from memory_defense.evaluation.pixels import Pictures, Pixels
from memory_defense.evaluation.state import Attempt, CaseState, State
from memory_defense.files import locked, remove
from memory_defense.noticed import least
from memory_defense.ranks import Ranks
from memory_defense.wrappers import Passes, modules_of

_COUNTS = ("ran", "forward", "backward", "disagreements", "rounded", "pilot_cost", "seconds", "note")
_NOTICED = ("no_answer", "no_gradient", "followed", "smallest")
_PER_IMAGE = ("done", "fooled", "silent", "distance", "before")
_TOLD = ("seconds", "disagreements", "failure", "followed", "smallest")
_OF_ATTEMPT = ("fooled", "silent", "lead", "distance")
SAVE_SECONDS = 20.0
"""Seconds between two times that a log is forced to the disk. A killed process loses the attack on the chunk of
images that it was at; only a machine that fails loses what was not forced yet."""

EARLIER, _LATER = "progress.safetensors", "progress.log"
"""Ending of the file that earlier versions kept a state in, and of that of this one (`place.state_path`)."""


def fingerprint(
    defense: object, images: Pictures, labels: Labels, ids: Rows, cases: Sequence[Case], terms: str
) -> str:
    """Return a hash of all that decides an outcome: model, data, attacks and `terms` (seed, submissions, ...)."""
    digest = hashlib.sha256()
    for module in modules_of(defense):
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            _update(digest, tensor)
    update_by_pixels(digest, images)
    for tensor in (labels, ids):
        _update(digest, tensor)
    for case in cases:
        content = getattr(case.attack, "sha256", "")  # of images that an attack brings along
        digest.update(f"{case.key} {case.role} {case.attack!r} {content}".encode())
    digest.update(f"{terms} {type(defense).__qualname__}".encode())
    return digest.hexdigest()


class Hashing(Protocol):
    """What bytes are hashed into."""

    def update(self, data: memoryview, /) -> None:
        """Take in some bytes."""
        ...


def update_by_pixels(digest: Hashing, images: Pictures) -> None:
    """Hash images a block at a time."""
    for block in Pixels.of(images).content():
        _update(digest, block)


def _update(digest: Hashing, tensor: Tensor) -> None:
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    plain: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    digest.update(memoryview(plain))


def to_tensors(state: State) -> dict[str, Tensor]:
    """Return what is known of every image, and no pixel, for other processes; counts travel as a JSON tensor."""
    tensors = {"predictions": state.predictions, "correct": state.correct}
    tensors[ANSWERS] = state.answers
    for number, one in enumerate(state.cases):
        tensors |= {f"case {number} {name}": getattr(one, name) for name in _PER_IMAGE}
    for number, broken in enumerate(state.broken):
        tensors |= broken.tensors(f"ball {number}") | {f"ball {number} place": broken.place}
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
        getattr(state, name)[rows] = tensors[name].to(device)
    for number, one in enumerate(state.cases):
        for name in _PER_IMAGE:
            getattr(one, name)[rows] = tensors[f"case {number} {name}"].to(device)
        _add_counts(one, counts[number])
    for number, broken in enumerate(state.broken):
        broken.take_over(tensors, f"ball {number}", rows)
        broken.place[rows.cpu()] = tensors[f"ball {number} place"].cpu()


def _add_counts(one: CaseState, counts: Mapping[str, Any]) -> None:
    one.ran += counts["ran"]
    one.forward += counts["forward"]
    one.backward += counts["backward"]
    one.disagreements += counts["disagreements"]
    one.rounded += counts.get("rounded", 0)
    one.pilot_cost += counts["pilot_cost"]
    one.seconds = max(one.seconds, counts["seconds"])
    one.note = one.note or counts["note"]
    one.no_answer = tuple(sorted({*one.no_answer, *counts["no_answer"]}))
    one.no_gradient = tuple(sorted({*one.no_gradient, *counts["no_gradient"]}))
    one.followed |= counts["followed"]
    one.smallest = least(one.smallest, counts["smallest"])


@dataclass
class Store:
    """Log that a stopped evaluation goes on from.

    Parameters
    ----------
    path
        The file, or None to keep nothing beyond this process.
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
    log: Log | None = None
    _forced: float = field(default_factory=monotonic)
    _told: dict[int, list[object]] = field(default_factory=dict[int, "list[object]"])
    """What was last said of each case besides its attempts."""

    def resume(self, state: State, ask: Callable[[], Tensor] | None = None) -> str:
        """Bring `state`, which has the answers of now, to where the log stands; return what there is to say.

        Parameters
        ----------
        state
            Judged clean; nothing else is done yet.
        ask
            Gives the answers (N, 2) once more, with the same seed.

        Returns
        -------
        One line; empty where nothing was done before.

        Raises
        ------
        ValueError
            For a log of another evaluation, of a model that answered otherwise, a damaged one, or a state of an
            earlier version.
        """
        self._refuse_earlier()
        if self.path is None or not self.path.exists():
            return ""
        said = ""
        self.log = Log(self.path)
        state.logs[:] = [self.log]
        for number, (tensors, metadata, places) in enumerate(self.log.entries()):
            if number == 0:
                said = self._taken_up(state, tensors, metadata, ask)
                continue
            with _damage(self.path):
                self._again(state, tensors, metadata, places)
        return said

    def _refuse_earlier(self) -> None:
        for earlier in of_earlier_versions(self.path):
            raise ValueError(
                f"{earlier} was left by an earlier version, which stored the state of an evaluation differently; "
                "finish it with that version, or remove it to start over"
            )

    def _taken_up(
        self,
        state: State,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, str],
        ask: Callable[[], Tensor] | None,
    ) -> str:
        """Start `state` from a log's first entry; return what there is to say."""
        path, images = self.path, len(state.labels)
        assert path is not None
        if metadata.get("fingerprint") != self.fingerprint:
            raise ValueError(
                f"{path} belongs to another evaluation (other weights, images, attacks, seed or number of "
                "processes, or a processor that rounds differently); remove it to start over, or write to another "
                "place"
            )
        said = "going on where the evaluation stopped"
        with _damage(path):
            here = self.agreeing and metadata.get("made_on") == self.made_on
            differing = answered_otherwise(state.answers, tensors[ANSWERS], here=here)
        moved = self.randomised and metadata.get("made_on") != self.made_on
        if differing and not moved and (ask is None or repeats_itself(ask, state.answers)):
            raise ValueError(
                f"{path} belongs to another evaluation: the classifier gives other answers now, on {differing} "
                f"of {images} clean images; remove it to start over, or write to another place"
            )
        with _damage(path):
            given = {name: tensors[name].to(state.labels.device) for name in ("predictions", ANSWERS)}
            for name, tensor in given.items():
                getattr(state, name).copy_(tensor)
            correct, lead = state.correct.clone(), torch.zeros_like(state.answers[:, 0])
            state.start(correct.copy_(tensors["correct"]), lead.copy_(tensors["lead"]))
        if differing:
            said += "; the classifier draws at random, so its answers cannot tell whether it is still the same"
        return said

    def _again(
        self, state: State, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], places: Sequence[int]
    ) -> None:
        """Take in once more what an entry says of an attack on a chunk of images."""
        told, device = cast("dict[str, Any]", json.loads(metadata["attempt"])), state.labels.device
        for number, (cost, note, begun) in ((int(one), said) for one, said in told.pop("cases").items()):
            one = state.cases[number]
            one.pilot_cost, one.note = cost, note
            if begun:
                one.before = tensors[f"before {number}"].to(one.before)
            self._told[number] = _besides(one)
        rows = tensors["rows"].to(device)
        kept = torch.full((len(rows),), -1)
        kept[tensors["kept"]] = torch.tensor(places, dtype=torch.int64)
        one = Attempt(
            images=state.images[rows[:0]],
            passes=Passes(*told.pop("passes")),
            no_answer=tuple(told.pop("no_answer")),
            no_gradient=tuple(told.pop("no_gradient")),
            **{name: tensors[name].to(device) for name in _OF_ATTEMPT},
            **{name: told[name] for name in _TOLD},
        )
        state.add(told["position"], rows, one, kept)

    def add(self, state: State, position: int, rows: Rows, attempt: Attempt) -> None:
        """Write what the case at this position did to these rows of `state`, and take it in.

        Raises `files.WriteError`; then neither happened.
        """
        log = self._begun(state)
        which = state.newly_broken(position, rows, attempt).nonzero().squeeze(1)
        images = coded(attempt.images[which], state.images[rows[which]], state.balls[position].epsilon)
        told: dict[str, Any] = {name: getattr(attempt, name) for name in _TOLD} | {"position": position}
        told |= {"passes": [attempt.passes.forward, attempt.passes.backward]}
        told |= {"no_answer": attempt.no_answer, "no_gradient": attempt.no_gradient, "cases": {}}
        tensors = {name: getattr(attempt, name) for name in _OF_ATTEMPT} | {"rows": rows, "kept": which}
        for number, one in enumerate(state.cases):
            if self._told.get(number, _NOTHING) != (now := _besides(one)):
                told["cases"][number] = self._told[number] = now
                if now[2]:
                    tensors[f"before {number}"] = one.before
        places = log.append(tensors, {"attempt": json.dumps(told)}, [with_length(one) for one in images])
        kept = torch.full((len(rows),), -1)
        kept[which.cpu()] = torch.tensor(places, dtype=torch.int64)
        state.add(position, rows, attempt, kept)
        self.force()

    def _begun(self, state: State) -> Log:
        """Return the log, begun with the clean verdicts."""
        if self.log is None:
            self.log = state.logs[0] if self.path is None else Log(self.path)
            state.logs[:] = [self.log]
        if self.log.empty:
            lead = state.broken[0].lead if state.broken else torch.zeros_like(state.answers[:, 0])
            tensors = {"predictions": state.predictions, "correct": state.correct, "lead": lead}
            tensors |= {ANSWERS: state.answers}
            self.log.append(tensors, {"fingerprint": self.fingerprint, "made_on": self.made_on})
        return self.log

    def keep(self, state: State) -> None:
        """Have on the disk all that is known, and be it only the clean verdicts; without a path nothing is kept."""
        if self.path is not None:
            self._begun(state)
            self.force(at_once=True)

    def force(self, *, at_once: bool = False) -> None:
        """Have the log on the disk, if the last time was long enough ago."""
        if self.log is not None and (at_once or monotonic() - self._forced >= SAVE_SECONDS):
            self.log.force()
            self._forced = monotonic()

    def clear(self) -> None:
        """Remove the file, once the evaluation is whole; broken images can be read until it is forgotten."""
        if self.log is not None:
            self.log.remove()


def _besides(one: CaseState) -> list[object]:
    """Return what is known of a case besides its attempts: cost of the pilot, note, whether it began."""
    return [one.pilot_cost, one.note, bool((~one.before.isnan()).any())]


_NOTHING: list[object] = [0, "", False]


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


def of_earlier_versions(path: Path | None) -> list[Path]:
    """Return the files to go on from that an earlier version left in the place of this one."""
    if path is None or _LATER not in path.name:
        return []
    start, _, _ = path.name.rpartition(_LATER)
    return _of_all(path.with_name(start + EARLIER))


def _of_all(path: Path) -> list[Path]:
    ranks = sorted(path.parent.glob(f"{glob.escape(path.name)}.rank-*[0-9]"))
    return [one for one in (path, *ranks) if one.is_file()]


@contextmanager
def _damage(path: Path) -> Generator[None]:
    """Run a block that reads a state's tensors, and turn what goes wrong there into one error."""
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it to start over") from error
