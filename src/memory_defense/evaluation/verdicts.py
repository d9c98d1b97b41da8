"""What became of every image, read from the file beside a record without the images themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from memory_defense.evaluation.place import per_image_of
from memory_defense.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from memory_defense.evaluation.record import Record

Value: TypeAlias = str | int | float | bool | None

_KINDS = ("ids", "labels", "predictions", "robust", "breaker", "distance", "lead")
"""Last words of the names of the tensors that are read; the images are left in the file."""
_NO_ANSWER = -1


@dataclass(frozen=True)
class BallVerdicts:
    """What became of the images inside one ball; every list has an entry for each image."""

    norm: str
    epsilon: float
    standing: list[bool]
    """Classified correctly, and no attack broke it."""
    breaker: list[tuple[str, str] | None]
    """Attack and knowledge that broke it first; None where none did, and for images that are wrong when clean."""
    distance: list[float]
    """Of the breaking image to the clean one, in the ball's norm; 0 where there is none."""
    lead: list[float]
    """The largest lead of a wrong class over the right one that any image inside the ball had, in logits."""

    @property
    def name(self) -> str:
        """The ball in one word, such as ``linf_0.0314``."""
        return f"{self.norm}_{self.epsilon:.4g}"


@dataclass(frozen=True)
class Verdicts:
    """What became of every image of a record; every list has an entry for each image, in the record's order."""

    ids: list[int]
    """Positions in the dataset."""
    labels: list[int]
    predictions: list[int]
    """The defense's answers to the clean images; -1 where it had none."""
    balls: tuple[BallVerdicts, ...]

    def lines(self, record: Record) -> Iterator[dict[str, object]]:
        """Yield what became of each image, as JSON has it: one entry for each ball inside it."""
        odd = _odd_kinds(record)
        for place, position in enumerate(self.ids):
            clean = self._clean(place, odd)
            inside = [{"norm": ball.norm, "epsilon": ball.epsilon, **_inside(ball, place)} for ball in self.balls]
            yield {"id": position, **clean, "balls": inside}

    def rows(self, record: Record) -> Iterator[dict[str, Value]]:
        """Yield one flat row for each image; what belongs to a ball has the ball's name behind it."""
        odd = _odd_kinds(record)
        for place, position in enumerate(self.ids):
            row: dict[str, Value] = {"id": position, **self._clean(place, odd)}
            for ball in self.balls:
                row |= {f"{name}_{ball.name}": value for name, value in _inside(ball, place).items()}
            yield row

    def _clean(self, place: int, odd: dict[int, str]) -> dict[str, Value]:
        label, answer = self.labels[place], self.predictions[place]
        return {
            "label": label,
            "predicted": None if answer == _NO_ANSWER else answer,
            "right": label == answer,
            "odd": odd.get(self.ids[place], ""),
        }


def _inside(ball: BallVerdicts, place: int) -> dict[str, Value]:
    attack, knowledge = ball.breaker[place] or (None, None)
    return {
        "standing": ball.standing[place],
        "broken_by": attack,
        "knowledge": knowledge,
        "distance": ball.distance[place] if attack is not None else None,
        "lead": ball.lead[place] if abs(ball.lead[place]) != float("inf") else None,
    }


def _odd_kinds(record: Record) -> dict[int, str]:
    """Return the kinds of oddness of the images without a finite answer or gradient, by position."""
    found: dict[int, list[str]] = {}
    for one in record.odd_images:
        for position in one.ids:
            found.setdefault(position, []).append(one.kind)
    return {position: ", ".join(kinds) for position, kinds in found.items()}


def verdicts_of(record: Record, place: Path | None = None) -> Verdicts:
    """Return what became of every image of a record.

    Parameters
    ----------
    record
        The record.
    place
        Its file, beside which the file of every image lies; None is where it was read from or written to.

    Raises
    ------
    ValueError
        Where that file is not there, is damaged, or is another record's.
    """
    found = place or record.place
    if found is None:
        raise ValueError(
            "this record was never written, so there is no file of its images; give evaluate(..., "
            "out='record.json'), or read the record with Record.read('record.json')"
        )
    path = per_image_of(record, found)
    if not path.is_file():
        raise ValueError(
            f"{path} is not there, where every image's verdict is kept beside {found}; bring it back, or evaluate "
            "again"
        )
    from memory_defense.tensorfiles import checksum_of

    verdicts = read_verdicts(path)
    if record.per_image_sha256 and checksum_of(path) != record.per_image_sha256:
        raise ValueError(f"{path} is another record's, by its checksum; bring back the one of {found}")
    return verdicts


def read_verdicts(path: Path) -> Verdicts:
    """Return the verdicts in an evaluation's file of images; raise ValueError for a damaged or another file."""
    from memory_defense.tensorfiles import read_tensors

    tensors, header = read_tensors(path, lambda name: name.rpartition(" ")[2] in _KINDS)
    try:
        names = [_named(text) for text in json.loads(header["breakers"])]
        balls = tuple(
            _ball(tensors, f"ball {number}", str(norm), float(epsilon), names)
            for number, (norm, epsilon) in enumerate(json.loads(header["balls"]))
        )
        ids, labels, predictions = (_numbers(tensors[name]) for name in ("ids", "labels", "predictions"))
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{path} is not a file of per-image results ({error}); write it again") from error
    return Verdicts(ids, labels, predictions, balls)


def _ball(
    tensors: dict[str, Tensor], prefix: str, norm: str, epsilon: float, names: list[tuple[str, str]]
) -> BallVerdicts:
    breaker = [None if at < 0 else names[at] for at in _numbers(tensors[f"{prefix} breaker"])]
    standing = [bool(one) for one in _numbers(tensors[f"{prefix} robust"])]
    distance, lead = (cast("list[float]", tensors[f"{prefix} {name}"].tolist()) for name in ("distance", "lead"))
    return BallVerdicts(norm, epsilon, standing, breaker, distance, lead)


def _numbers(tensor: Tensor) -> list[int]:
    return cast("list[int]", tensor.tolist())


def _named(text: str) -> tuple[str, str]:
    """Return attack and knowledge of a line such as ``pgd, end-to-end, Linf(epsilon=0.1)``."""
    attack, _, rest = text.partition(", ")
    return attack, rest.partition(", ")[0]


def write_lines(path: Path, record: Record, place: Path | None = None) -> None:
    """Write one JSON object a line for each image of a record, atomically; see `lines_of` and `verdicts_of`."""
    write_text(path, lines_of(record, place))


def lines_of(record: Record, place: Path | None = None) -> str:
    """Return one JSON object a line for each image of a record: what it shows, what was said, and each ball."""
    lines = verdicts_of(record, place).lines(record)
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
