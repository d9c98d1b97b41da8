"""Explanations for systems that stay under their published numbers: by how much, and why.

The gap and its parts come from the records. The reasons are ours; each can be checked where it points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TOLERATED = 5.0
"""Points under the published number that need no explanation."""

_CLASSIFIER = (
    "a classifier that the attack sees whole falls to it, whatever its size; docs/anatomy.md counts, choice by "
    "choice, what prints a higher number"
)
_SMALL = "at this scale its network is small and trained for minutes on two processor cores"
REASONS: dict[str, str] = {
    "resnet-benign": _CLASSIFIER,
    "resnet-offline": f"images made once do not defend against images made for what they trained: {_CLASSIFIER}",
    "target-classifier": _CLASSIFIER,
    "autoencoder": "nothing is hidden from the attack, which differentiates the whole chain",
    "memory-defense": "classifier-B still reads some of the image where it should repeat the slot it is fed",
}
"""Reasons by row, for rows whose gap has nothing to do with how long they were trained."""

CW_REASON = (
    "Carlini-Wagner, where it is under the published number: it may go anywhere in [0, 1], and with a learning "
    "rate that moves pixels it ends at images of another class; the published 0.005 hardly moves a pixel near 0 or "
    "1, and one that is exactly there not at all."
)
"""Said once for a table in which something says `SEE_CW`."""

SEE_CW = "which the last remark explains"


@dataclass(frozen=True)
class Gap:
    """One cell under the published one, in percent."""

    head: str
    published: float
    ours: float

    @property
    def points(self) -> float:
        """Difference to the published number, in percentage points."""
        return self.published - self.ours

    def __str__(self) -> str:
        return f"{self.points:.1f} points under the published number for {self.head}"


def explained(title: str, key: str, scale: str, clean: Gap | None, gaps: Sequence[Gap]) -> str | None:
    """Return a sentence about the cells that are more than `TOLERATED` points under the published ones, or None.

    Parameters
    ----------
    title, key
        Title and key of the row.
    scale
        Name of the scale.
    clean
        The clean column, where the paper has one.
    gaps
        Every other cell that has a published number.
    """
    lost_clean = max(clean.points, 0.0) if clean else 0.0
    aside = f", {lost_clean:.1f} under it without any attack" if lost_clean >= 1 else ""
    searched = [gap for gap in gaps if gap.head.startswith("CW")]
    parts: list[str] = []
    if (worst := _widest([gap for gap in gaps if gap not in searched])) is not None:
        attacked = REASONS.get(key, "") if worst.points - lost_clean > TOLERATED else ""
        small = _SMALL if scale == "cpu" and (aside or not attacked) else ""
        reasons = "; ".join(reason for reason in (attacked, small) if reason)
        parts.append(f"{worst}{aside}: {reasons or 'no reason is known'}")
    if (worst := _widest(searched)) is not None:
        parts.append(f"{worst}, {SEE_CW}" if worst.points - lost_clean > TOLERATED else f"{worst}{aside}")
    if not parts:
        return None
    return f"{title}, under the attack of its own protocol: {'. '.join(parts)}."


def _widest(gaps: Sequence[Gap]) -> Gap | None:
    wide = [gap for gap in gaps if gap.points > TOLERATED]
    return max(wide, key=lambda gap: gap.points) if wide else None
