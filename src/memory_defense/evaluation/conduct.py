"""How an evaluation is carried out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from memory_defense.evaluation.metrics import Submissions

_ONCE = Submissions()


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How an evaluation is carried out.

    But for `submissions` and `bfloat16`, nothing here changes a result where the record's batch invariance holds;
    where it does not, `chunk` and `micro_batch` may change last bits, and with them who falls.

    Parameters
    ----------
    submissions
        How often an image is handed in before it is judged.
    chunk
        Images that an attack holds at once, at least 1; the state is saved between chunks.
    micro_batch
        Images in one pass, at least 1; None finds the fastest by a short probe, where that changes no result.
    bfloat16
        Compute attacks' gradients in bfloat16; verdicts stay float32. Off by default, as it may find less.
    resume_at
        A file to save to and to go on from; it is removed once the evaluation is whole. None keeps nothing.
    keep_state
        Leave that file to whoever writes the record and removes it then (`store.discard`): nothing is lost between.

    Raises
    ------
    ValueError
        For a count below 1.
    """

    submissions: Submissions = _ONCE
    chunk: int = 1024
    micro_batch: int | None = None
    bfloat16: bool = False
    resume_at: Path | None = None
    keep_state: bool = False

    def __post_init__(self) -> None:
        for name, count in {"chunk": self.chunk, "micro_batch": self.micro_batch or 1}.items():
            if count < 1:
                raise ValueError(f"{name} is {count}, but an attack needs at least 1 image")
