"""Finished records, read back: whole, in agreement with the file of every image beside them, and of this model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from memory_defense.answers import answered_otherwise, in_short, predicted_otherwise, repeats_itself
from memory_defense.contracts import Classifier, Rows
from memory_defense.evaluation.metrics import asked, predicted
from memory_defense.evaluation.pixels import Pictures
from memory_defense.evaluation.place import per_image_of
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.results import PerImageResults, read_per_image
from memory_defense.evaluation.state import Broken
from memory_defense.passes import granules_of
from memory_defense.randomness import seeded
from memory_defense.tensorfiles import checksum_of
from memory_defense.wrappers import frozen

ASKED = 16
"""Clean images that a model is asked about again before a record of it is taken for its own."""


def read_whole(place: Path) -> Record:
    """Return the record in a file, checked against the file of every image beside it, if that is there.

    Raises
    ------
    ValueError
        What `Record.read` raises, and for two files that contradict each other.
    """
    record = Record.read(place)
    path = per_image_of(record, place)
    if record.per_image is not None and path.is_file():
        wrong = _disagreement(record, path)
        if wrong:
            raise ValueError(
                f"{place} and {path.name}, which it names as the file of its images, contradict each other: "
                f"{wrong}; evaluate again, or remove {path} if it is another evaluation's"
            )
    return record


def _disagreement(record: Record, path: Path) -> str:
    """Return what a record and the file of every image say differently; empty where they agree."""
    results = read_per_image(path)
    if record.per_image_sha256 and checksum_of(path) != record.per_image_sha256:
        return "the record was written with another one, by its checksum"
    if len(results.ids) != record.images:
        return f"the record has {record.images} images, the file {len(results.ids)}"
    said = {(one.norm, one.epsilon): one.accuracy for one in record.worst_case}
    found = [(one.ball.norm, one.ball.epsilon) for one in results.broken]
    if sorted(said) != sorted(found):
        return f"the record has the balls {sorted(said)}, the file {sorted(found)}"
    faults = [_in_ball(record, broken, said[broken.ball.norm, broken.ball.epsilon]) for broken in results.broken]
    faults += [_stages(record, number, results) for number in range(len(record.cascades))]
    return next((one for one in faults if one), "")


def _in_ball(record: Record, broken: Broken, worst: float | None) -> str:
    ball = f"{broken.ball.norm} {broken.ball.epsilon:.4g}"
    standing, fallen = int(broken.robust.sum()), int((broken.breaker >= 0).sum())
    if bool((broken.robust & (broken.breaker >= 0)).any()):
        return f"in the ball {ball} the file has images that stand and are broken"
    if worst is None and fallen:
        return f"in the ball {ball} nothing was tried by the record, and {fallen} images are broken by the file"
    if worst is not None and standing != round(worst * record.images):
        return f"in the ball {ball} the record has a worst case of {worst}, the file {standing} images"
    if standing + fallen != round(record.clean.accuracy * record.images):
        return f"the record has a clean accuracy of {record.clean.accuracy}, the file {standing + fallen} images"
    return ""


def _stages(record: Record, number: int, results: PerImageResults) -> str:
    """Return where a cascade's stages broke other numbers of images first than the file says."""
    cascade = record.cascades[number]
    broken = next(
        one for one in results.broken if (one.ball.norm, one.ball.epsilon) == (cascade.norm, cascade.epsilon)
    )
    counts = Counter(cast("list[int]", broken.breaker.tolist()))
    ends = f", {broken.ball!r}"
    if not any(text.endswith(ends) for text in results.breakers):
        return ""  # an earlier version may have written balls otherwise
    for stage in cascade.stages:
        begins = f"{stage.attack}, {stage.knowledge}"
        first = sum(counts[at] for at, text in enumerate(results.breakers) if text == begins + ends)
        if first < stage.first:
            return f"{begins} broke {stage.first} images first, by the file {first}"
    return ""


def check_still_its_own(record: Record, place: Path, defense: Classifier, images: Pictures, ids: Rows) -> None:
    """Raise ValueError where a model no longer answers as it did when its record was made.

    Weights may be the same while the code around them is not. Without the file of every image nothing can be told.

    Parameters
    ----------
    record, place
        The record and its file.
    defense
        The model as it is now, on the device of the images.
    images, ids
        (N, C, H, W) and (N,): those of the record; a few are enough, unless the model draws at random.
    """
    path = per_image_of(record, place)
    if not path.is_file():
        return
    results, invariance = read_per_image(path), record.batch_invariance
    randomised = invariance is not None and invariance.randomised
    count = len(images) if randomised else min(len(images), ASKED)
    if not torch.equal(results.ids[:count], ids[:count].cpu()):
        return

    def ask() -> tuple[Tensor, Tensor]:
        with (
            frozen(defense),
            granules_of(invariance and invariance.granule),
            seeded(record.provenance.seed, "clean judge"),
        ):
            logits = asked(defense, images[:count])
        return predicted(logits), in_short(logits)

    predictions, now = ask()
    if results.answers is None:
        differing = predicted_otherwise(predictions, results.predictions[:count])
    else:
        differing = answered_otherwise(now, results.answers[:count], here=False)
    moved = randomised and record.provenance.device.startswith("cpu") != (images.device.type == "cpu")
    if differing and not moved and repeats_itself(lambda: ask()[1], now):
        raise ValueError(
            f"{place} belongs to another classifier: it gives other answers now, on {differing} of {count} clean "
            "images; choose another directory, or bring back the code that it was made with"
        )
