"""The flag of a defense: its scores on many images, and the threshold that held-out clean images give it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from memory_defense.checks import nearest
from memory_defense.contracts import Flagging, Images, PerImage
from memory_defense.data.images import ImageSet
from memory_defense.evaluation.detection import conformal_rank, conformal_threshold
from memory_defense.evaluation.metrics import JUDGE_BATCH
from memory_defense.passes import regular
from memory_defense.randomness import seeded
from memory_defense.run_directory import FLAG, RunDirectory
from memory_defense.wrappers import frozen
from memory_defense.zoo import is_shipped

KEY = FLAG
"""Entry of the manifest: ``{"score": ..., "threshold": ..., "false_alarms": ..., "calibration_images": ...}``."""

DEFAULT_FALSE_ALARMS = 0.05
"""Share of clean images that a flag may call suspicious if no rate was chosen."""


def kept_flag(manifest: Mapping[str, Any], where: Path) -> Flag | None:
    """Return the flag of a run's manifest, or None where it keeps none.

    Raises ValueError for a damaged entry; the text names the file, `where`.
    """
    entry = manifest.get(KEY)
    if entry is None:
        return None
    fault = _fault(entry)
    if fault:
        raise ValueError(
            f"{where}: {KEY!r} {fault}; remove this entry and 'checksum', then choose it again with "
            "'memdef evaluate RUN --detection'"
        )
    return Flag(**entry)


def keep_flag(run: RunDirectory, flag: Flag) -> bool:
    """Write the flag into the run's manifest, in place of an earlier one; return whether that was done.

    A run that comes with the package stays as it is.
    """
    if is_shipped(run.path):
        return False
    run.write({**run.read(), KEY: asdict(flag)})
    return True


def restore_flag(defense: Flagging, manifest: Mapping[str, Any], where: Path) -> None:
    """Put a run's flag, if it keeps one, on its defense; raises what `kept_flag` raises."""
    flag = kept_flag(manifest, where)
    if flag is not None:
        flag.put_on(defense)


def _fault(entry: object) -> str:
    """Return what is wrong with a manifest's entry, or nothing."""
    if not isinstance(entry, dict):
        return "is not a table"
    values = cast("dict[str, object]", entry)
    if set(values) != {"score", "threshold", "false_alarms", "calibration_images"}:
        return f"holds {', '.join(sorted(map(str, values))) or 'nothing'}"
    score, count = values["score"], values["calibration_images"]
    if not isinstance(score, str) or not isinstance(count, int) or isinstance(count, bool) or count < 1:
        return f"has the score {score!r} from {count!r} images"
    for name in ("threshold", "false_alarms"):
        number = values[name]
        if not isinstance(number, (int, float)) or isinstance(number, bool) or not isfinite(number):
            return f"has {name} {number!r}, which is not a number"
    if not 0 < cast("float", values["false_alarms"]) < 1:
        return f"has false_alarms {values['false_alarms']!r}, which is not between 0 and 1"
    return ""


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


PROVEN = Flag(score="certified", threshold=0.0, false_alarms=0.0, calibration_images=0)
"""That of a gate (`defenses.gated.Gated`): no clean image was asked, and how many it flags is not bounded."""


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
        Seed of what a randomised defense draws.

    Raises
    ------
    ValueError
        If a score is not (B,), or is NaN or infinite.
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
        Seed of what a randomised defense draws.

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
