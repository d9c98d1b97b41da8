"""Where a record and what goes with it lie, and whose it is; torch is not needed.

A record ``r.json`` has ``r.images.safetensors`` beside it, and ``r.progress.log`` while its evaluation is
not whole. One evaluation writes there at a time (`store.only_writer`). A record of another evaluation is replaced,
with a line that says so before the work begins; what is no record is never replaced.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from memory_defense.evaluation.record import Record
from memory_defense.outputs import beside, check_file

if TYPE_CHECKING:
    from memory_defense.contracts import Progress


GALLERY = "gallery.safetensors"
"""Ending of the file of images that a report shows."""


def per_image_path(record: Path) -> Path:
    """Return where the verdicts and images of a record are."""
    return beside(record, "images.safetensors")


def state_path(record: Path) -> Path:
    """Return the log that a stopped evaluation goes on from."""
    return beside(record, "progress.log")


def proofs_state_path(record: Path) -> Path:
    """Return the file that a stopped certification goes on from."""
    return beside(record, "progress.safetensors")


def per_image_of(record: Record, place: Path) -> Path:
    """Return where the record that lies in `place` says that its verdicts and images are."""
    return per_image_path(place) if record.per_image is None else place.with_name(Path(record.per_image).name)


def check_place(place: Path, inputs: Mapping[str, Path | None] | None = None) -> None:
    """Raise ValueError unless a record and its files can be written at `place`, over a record or over nothing.

    Parameters
    ----------
    inputs
        What is read, by the name that the user knows it by.
    """
    check_file(place, also=(per_image_path(place), state_path(place)), inputs=inputs)
    other = place.with_name(place.name.removesuffix(".json") if place.suffix == ".json" else f"{place.name}.json")
    if other.is_file() and per_image_path(other) == per_image_path(place):
        raise ValueError(
            f"{place} and {other} would share {per_image_path(place).name}; choose another name, or remove {other}"
        )
    if place.is_file():
        try:
            Record.read(place)
        except ValueError as error:
            raise ValueError(
                f"{place} already exists and is not a record ({error}); choose another name, or remove it"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a record will say of its evaluation, known before the evaluation begins."""

    defense: str
    recipe: str
    dataset: str
    images: int
    seed: int
    weights_sha256: str
    balls: tuple[tuple[str, float], ...]
    """Norm and radius of each worst case, in the record's order."""

    def differs_from(self, record: Record) -> str:
        """Return what a finished record says otherwise, in a few words; empty where it is of this evaluation."""
        found = Claim(
            defense=record.defense,
            recipe=record.recipe,
            dataset=record.dataset,
            images=record.images,
            seed=record.provenance.seed,
            weights_sha256=record.provenance.recipe_sha256,
            balls=tuple((one.norm, one.epsilon) for one in record.worst_case),
        )
        differing = [name for name, value in vars(self).items() if vars(found)[name] != value]
        return ", ".join(_said(name, vars(found)[name]) for name in differing)


def _said(name: str, value: object) -> str:
    if name == "balls":
        balls = cast("tuple[tuple[str, float], ...]", value)
        return "balls " + (" ".join(f"{norm} {epsilon:.4g}" for norm, epsilon in balls) or "none")
    if name == "weights_sha256":
        return "other weights"
    return f"{name} {value}"


def tell_replaced(place: Path, claim: Claim, progress: Progress | None) -> None:
    """Say, in one line, that `place` holds another evaluation's record, which this one will replace."""
    if not place.is_file():
        if per_image_path(place).is_file() and not state_path(place).is_file():
            tell(f"{per_image_path(place)} belongs to no record here; it is replaced when this is done", progress)
        return
    said = claim.differs_from(Record.read(place))
    if said:
        tell(f"{place} holds another evaluation ({said}); it is replaced when this one is done", progress)


def tell(text: str, progress: Progress | None) -> None:
    """Say one line where the progress is shown, or as a warning where none is."""
    if progress is not None:
        progress.note(text)
    else:
        warnings.warn(text, stacklevel=_outside())


def _outside() -> int:
    """Return the stack level of the caller outside this package, whose line a warning names."""
    import inspect

    frame, level = inspect.currentframe(), 0
    while frame is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "memory_defense":
        frame, level = frame.f_back, level + 1
    return level
