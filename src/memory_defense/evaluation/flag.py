"""The flag of a defense: its scores on many images, and the threshold that held-out clean images give it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from memory_defense.checks import nearest
from memory_defense.contracts import Flagging, Images, PerImage
from memory_defense.data.images import ImageSet
from memory_defense.evaluation.detection import conformal_rank, conformal_threshold
from memory_defense.evaluation.metrics import JUDGE_BATCH
from memory_defense.passes import regular
from memory_defense.randomness import seeded
from memory_defense.wrappers import frozen


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A threshold and where it comes from."""

    score: str
    """Name of the score that is compared with it."""
    threshold: float
    false_alarms: float
    """Share of clean images that may be flagged, in (0, 1)."""
    calibration_images: int
    """Held-out clean images that the threshold was chosen on."""

    def put_on(self, defense: Flagging) -> None:
        """Make the defense flag by this threshold."""
        defense.flag_score, defense.flag_threshold = self.score, self.threshold


@contextmanager
def flagging(defense: Flagging, flag: Flag) -> Generator[None]:
    """Run a block with this flag; afterwards the defense's own is back."""
    before = defense.flag_score, defense.flag_threshold
    flag.put_on(defense)
    try:
        yield
    finally:
        defense.flag_score, defense.flag_threshold = before


@torch.no_grad()
def score_images(defense: Flagging, images: Images, *, seed: int = 0) -> Mapping[str, PerImage]:
    """Return every score of a defense by name, (B,) each, no image's depending on its batch.

    Parameters
    ----------
    defense
        In eval mode while it is asked.
    images
        (B, C, H, W) in [0, 1].
    seed
        Of what a randomised defense draws.

    Raises
    ------
    ValueError
        When a score is not (B,), or is NaN or infinite.
    """
    names: list[str] = []

    def stacked(part: Images) -> Tensor:
        scores = defense.scores(part)
        names[:] = scores
        for name, one in scores.items():
            if one.shape != (len(part),):
                raise ValueError(f"the score {name!r} has shape {tuple(one.shape)}, expected ({len(part)},)")
        return torch.stack([one.float() for one in scores.values()], 1)  # (B, S)

    with frozen(defense), seeded(seed, "scores"):
        judge = regular(stacked)
        table = torch.cat([judge(part) for part in torch.split(images, JUDGE_BATCH)])
    for name, column in zip(names, table.unbind(1), strict=True):
        if not torch.isfinite(column).all():
            raise ValueError(f"the score {name!r} is NaN or infinite for some images; nothing can be flagged by it")
    return dict(zip(names, table.unbind(1), strict=True))


def calibrate(
    defense: Flagging, held_out: ImageSet, *, false_alarms: float, score: str | None = None, seed: int = 0
) -> Flag:
    """Return the flag whose threshold keeps false alarms at most this frequent; the defense itself stays as it is.

    Parameters
    ----------
    defense
        On the device of the images.
    held_out
        Clean images that the defense was not trained on, and that no result is reported on.
    false_alarms
        See `detection.conformal_threshold`.
    score
        Name of the score; by default the one that the defense flags by.
    seed
        Of what a randomised defense draws.

    Raises
    ------
    ValueError
        What `detection.conformal_threshold` raises, and for a score that the defense does not publish.
    """
    conformal_rank(len(held_out), false_alarms)  # before any image is scored
    parts = torch.split(torch.arange(len(held_out)), JUDGE_BATCH)
    tables = [score_images(defense, held_out.floats(rows), seed=seed) for rows in parts]
    name = defense.flag_score if score is None else score
    if name not in tables[0]:
        raise nearest(name, tables[0], "score")
    threshold = conformal_threshold(torch.cat([table[name] for table in tables]), false_alarms)
    return Flag(score=name, threshold=threshold, false_alarms=false_alarms, calibration_images=len(held_out))
