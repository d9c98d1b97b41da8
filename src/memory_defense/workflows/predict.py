"""Predictions with a flag: what a trained system answers, how sure it is, and whether the image is suspicious."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from memory_defense.contracts import Flagging, Progress
from memory_defense.data.images import ImageSet
from memory_defense.data.pictures import LeftOut, Picture, Unreadable
from memory_defense.evaluation.flag import DEFAULT_FALSE_ALARMS, Flag, calibrate, keep_flag, kept_flag, score_images
from memory_defense.evaluation.metrics import answers
from memory_defense.evaluation.place import tell
from memory_defense.files import WriteError
from memory_defense.randomness import seeded
from memory_defense.run_directory import RunDirectory
from memory_defense.wrappers import frozen

DEFAULT_BATCH = 256
"""Number of pictures that are held in memory at once."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the system says of one picture."""

    file: str
    label: str
    """Name of the predicted class."""
    confidence: float
    """The class's softmax probability, in [0, 1]; nothing promises that it is calibrated."""
    flag: Literal["accept", "suspicious"] | None
    """None for a classifier that cannot flag."""
    score: float | None
    """What the flag looks at; suspicious above the threshold."""
    threshold: float | None
    changes: tuple[str, ...]
    """What had to be done to the picture before the model could read it."""


def predict(
    defense: nn.Module,
    flag: Flag | None,
    source: Iterable[Picture | Unreadable | LeftOut],
    *,
    classes: Sequence[str] | None,
    batch: int = DEFAULT_BATCH,
    seed: int = 0,
) -> Iterator[Prediction | Unreadable | LeftOut]:
    """Yield a prediction for every picture, in order; what could not be read, or was left out, passes through.

    An answer does not depend on the batch that its picture travels in.

    Parameters
    ----------
    defense
        With scores (`contracts.Flagging`), or any classifier where there is no flag.
    flag
        Its score and threshold; None where nothing is to be flagged.
    source
        See `data.pictures.pictures`.
    classes
        Names by label; None names them by their numbers.
    batch
        Pictures held at once, at least 1.
    seed
        Seed of what a randomised defense draws.

    Raises
    ------
    ValueError
        For a batch below 1, a defense without scores, or one that answers NaN.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}, but at least 1 picture must be held at once")
    scored = None if flag is None else (_flagging(defense), flag)
    waiting: list[Picture | Unreadable | LeftOut] = []
    for one in source:
        waiting.append(one)
        if len(waiting) == batch:
            yield from _answered(defense, scored, waiting, classes, seed)
            waiting = []
    yield from _answered(defense, scored, waiting, classes, seed)


def flag_for(
    run: RunDirectory,
    defense: nn.Module,
    held_out: Callable[[], ImageSet],
    *,
    false_alarms: float | None = None,
    progress: Progress | None = None,
) -> tuple[Flag, bool]:
    """Return the flag to predict with, and whether it was chosen just now.

    A run that keeps a flag for this rate of false alarms needs no data. Otherwise the threshold is chosen on
    held-out images of the run's dataset; a run that kept no flag keeps this one, if its manifest can be written.

    Parameters
    ----------
    run, defense
        The trained system.
    held_out
        Called only where the images are needed; what it raises is passed on.
    false_alarms
        None takes the kept one, or 5 %.
    progress
        Is told when the flag cannot be kept.

    Raises
    ------
    ValueError
        For a defense without scores, too few held-out images for the rate, or a damaged manifest.
    """
    scored = _flagging(defense)
    kept = kept_flag(run.read(), run.manifest_path)
    if kept is not None and false_alarms in (None, kept.false_alarms):
        return kept, False
    rate = DEFAULT_FALSE_ALARMS if false_alarms is None else false_alarms
    chosen = calibrate(scored, held_out(), false_alarms=rate)
    if kept is None:
        try:
            keep_flag(run, chosen)
        except WriteError as error:
            tell(f"the threshold is used but not kept, and is chosen again next time: {error}", progress)
    return chosen, True


def _flagging(defense: nn.Module) -> Flagging:
    if not isinstance(defense, Flagging):
        raise ValueError(
            f"{type(defense).__name__} has no scores, so it cannot flag an image; choose a run whose system has"
        )
    return defense


@torch.no_grad()
def _answered(
    defense: nn.Module,
    scored: tuple[Flagging, Flag] | None,
    waiting: list[Picture | Unreadable | LeftOut],
    classes: Sequence[str] | None,
    seed: int,
) -> Iterator[Prediction | Unreadable | LeftOut]:
    read = [one for one in waiting if isinstance(one, Picture)]
    found: list[Prediction] = []
    if read:
        device = next(defense.parameters(), torch.empty(0)).device
        images = torch.stack([one.pixels for one in read]).to(device)
        with frozen(defense), seeded(seed, "predict"):
            best = answers(defense, images).softmax(1).max(1)
        found = [
            Prediction(
                file=one.name,
                label=str(int(best.indices[row])) if classes is None else classes[int(best.indices[row])],
                confidence=float(best.values[row]),
                flag=None,
                score=None,
                threshold=None,
                changes=one.changes,
            )
            for row, one in enumerate(read)
        ]
        if scored is not None:
            flagging, flag = scored
            scores = score_images(flagging, images, seed=seed)[flag.score]
            found = [_flagged(one, float(score), flag.threshold) for one, score in zip(found, scores, strict=True)]
    predictions = iter(found)
    for one in waiting:
        yield next(predictions) if isinstance(one, Picture) else one


def _flagged(one: Prediction, score: float, threshold: float) -> Prediction:
    return replace(one, flag="suspicious" if score > threshold else "accept", score=score, threshold=threshold)
