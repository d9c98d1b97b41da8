"""Flags: a defense may call an image suspicious if a score exceeds a threshold; an adversary may stay below it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import cast

import torch
from torch import Tensor, nn

from memory_defense.contracts import Adaptation, Classifier, Images, PerImage
from memory_defense.defenses.flag_adversaries import AlarmBinder, SilentBinder
from memory_defense.names import check_name

SCORED_AT_ONCE = 256
"""Images in one pass when thresholds are chosen."""

SMALLEST_UNIT = 1e-6
"""Smallest unit that an excess is measured in, for thresholds near 0."""


class ThresholdFlag(ABC):
    """The flag of a defense (`contracts.Flagging`): an image is suspicious if one score exceeds a threshold.

    `MemoryDefense` uses it as it is: its threshold is kept beside the weights. For all other defenses see
    `FlaggingModule`.
    """

    flag_score: str
    """Name of the score, of those in `scores`, that is compared with the threshold."""
    flag_threshold: float | None
    """Largest score of an image that is not suspicious; None while no threshold was chosen."""

    @abstractmethod
    def scores(self, images: Images) -> Mapping[str, PerImage]:
        """Return every score by name, (B,), higher where more suspicious, with gradients."""

    def watched_score(self, images: Images) -> PerImage:
        """Return (B,) the score `flag_score`; raise ValueError if it is not among `scores`."""
        scores = self.scores(images)
        check_name(self.flag_score, scores, "score")
        return scores[self.flag_score]

    @torch.no_grad()
    def suspicious(self, images: Images) -> PerImage:
        """Return (B,) bool: the score exceeds the threshold.

        Raises ValueError while there is no threshold, or if `flag_score` is no score.
        """
        return self.excess(images) > 0

    def excess(self, images: Images) -> PerImage:
        """Return (B,) by how much the score exceeds the threshold, in units of the threshold, with a gradient.

        Raises ValueError as `suspicious` does.
        """
        threshold = self.flag_threshold
        if threshold is None:
            raise ValueError(
                "no image can be flagged before flag_threshold is set; choose it on held-out clean images: "
                "evaluation.flag.calibrate(defense, held_out, false_alarms=0.01).put_on(defense), or for a run "
                "'memdef evaluate RUN --detection'"
            )
        return (self.watched_score(images) - threshold) / max(abs(threshold), SMALLEST_UNIT)

    def alarm(self) -> AlarmBinder:
        """Return the adversary that wants images flagged; it needs a threshold when it is asked."""
        return AlarmBinder(cast("Classifier", self), self.excess)


class FlaggingModule(nn.Module, ThresholdFlag):
    """A module whose flag's threshold is part of its state; subclasses define `scores` and set `flag_score`."""

    flag: Tensor
    """() the threshold, infinite while there is none; a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("flag", torch.tensor(torch.inf))

    @property
    def flag_threshold(self) -> float | None:
        """Largest score of an image that is not suspicious; None while no threshold was chosen."""
        return None if bool(self.flag.isinf()) else float(self.flag)

    @flag_threshold.setter
    def flag_threshold(  # pyright: ignore[reportIncompatibleVariableOverride]  # a property where others have a field
        self, threshold: float | None
    ) -> None:
        check_threshold(threshold)
        self.flag.fill_(torch.inf if threshold is None else threshold)

    def adaptive(self) -> Mapping[str, Adaptation]:
        """Return ``silent`` and ``crossing``, which err and are not flagged, once there is a threshold."""
        return {} if self.flag_threshold is None else against_flag(self, self.excess)


def against_flag(classifier: Classifier, excess: Callable[[Images], PerImage]) -> dict[str, Adaptation]:
    """Return the adaptations that every flag is fought by; see `SilentBinder` for the arguments."""
    return {
        "silent": Adaptation(SilentBinder(classifier, excess), fights_flag=True),
        "crossing": Adaptation(SilentBinder(classifier, excess, crossing=True), fights_flag=True),
    }


def check_threshold(threshold: float | None) -> None:
    """Raise ValueError unless this is None or finite: nothing exceeds a NaN."""
    if threshold is not None and not math.isfinite(threshold):
        raise ValueError(f"flag_threshold is {threshold}, but a threshold is a finite number; None unsets it")


def thresholds_at(scores: Tensor, drop_rate: float) -> Tensor:
    """Return (S,) for each detector the threshold that a share `drop_rate` of clean images exceeds.

    It is the score of rank ``floor(drop_rate (N + 1))`` from the top. If held-out and fresh images are exchangeable
    and scores distinct, a fresh one exceeds it with probability ``floor(drop_rate (N + 1)) / (N + 1)``, never more
    than `drop_rate`.

    Parameters
    ----------
    scores
        (N, S) the scores of held-out clean images, one column for each detector.
    drop_rate
        Share of clean images that each detector may flag, in (0, 1).

    Raises
    ------
    ValueError
        For scores that are not finite, a rate outside (0, 1), or too few images for it.
    """
    if not 0 < drop_rate < 1:
        raise ValueError(f"drop_rate is {drop_rate}, but the share of clean images to flag lies in (0, 1)")
    rate = Fraction(str(drop_rate))  # as written: 0.05 is five in a hundred, not the nearest binary fraction
    rank = math.floor((len(scores) + 1) * rate)
    if rank < 1:
        larger = f", or raise drop_rate to 1/{len(scores)}" if len(scores) > 1 else ""
        raise ValueError(
            f"{len(scores)} images cannot tell a drop rate of {drop_rate:g}; give at least "
            f"{math.ceil(1 / rate) - 1} held-out clean images{larger}"
        )
    if not bool(torch.isfinite(scores).all()):
        raise ValueError(
            "some scores are NaN or infinite; train the defense again before its thresholds are chosen"
        )
    return scores.topk(rank, dim=0).values[-1]


def scores_of(images: Images, score: Callable[[Images], Tensor]) -> Tensor:
    """Return ``score(images)`` in passes of `SCORED_AT_ONCE` images, without gradients."""
    with torch.no_grad():
        return torch.cat([score(part) for part in torch.split(images, SCORED_AT_ONCE)])
