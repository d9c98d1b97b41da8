"""What a caller may choose about an evaluation beside the model, the images and the threat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from memory_defense.contracts import Progress, Rows
from memory_defense.evaluation.metrics import Submissions


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `memory_defense.evaluate`; every one has a default.

    `seed`, `ids`, `submissions`, `bfloat16` and `start_from` have a part in the numbers. `batch_size`, `chunk` and
    `device` change rounding at most; if the record's `batch_invariance` holds, no outcome depends on the first two.

    Examples
    --------
    >>> Options(seed=1, batch_size=64, device="cpu", submissions=3, resume=False).submissions
    Submissions(count=3, rule='any')

    Raises
    ------
    ValueError
        For a count below 1 or a negative seed.
    """

    seed: int = 0
    """Seed of every random draw of the attacks, at least 0."""
    batch_size: int | None = None
    """Images in one pass through the model, at least 1; None finds the fastest by a probe of at most a second."""
    chunk: int = 1024
    """Images that an attack holds in memory at once, at least 1; progress is saved between chunks."""
    device: torch.device | str | None = None
    """Device to compute on, such as ``cuda:1``; None is the device of the images. The model returns to its own."""
    submissions: Submissions | int = 1
    """Number of times that a randomised model is asked about an image before it is judged; n stands for
    ``Submissions(count=n)``: one wrong answer among n breaks the image."""
    bfloat16: bool = False
    """Compute attack gradients in bfloat16; verdicts stay float32. Faster on some hardware, but may find less."""
    resume: bool = True
    """Go on from the state that a stopped evaluation left beside its record; False removes it and starts anew."""
    ids: Rows | None = None
    """(N,) int64 positions of the images in their dataset, which name the images' draws; 0..N-1 by default."""
    start_from: Path | str | None = None
    """File of adversarial images beside an earlier record (``*.images.safetensors``), of this model or of another:
    they are tried first."""
    defense: str = "a classifier"
    """Name of the model in the record."""
    dataset: str = "images in memory"
    """Name of the images in the record."""
    weights_sha256: str = ""
    """Hash of the weights, or of whatever else identifies the model; empty if unknown."""
    notes: tuple[str, ...] = ()
    """What was skipped, substituted or assumed before the evaluation began, such as `data.own.DataSplit.notes`: a
    line each, for the record."""
    progress: Progress | None = None
    """Display of how far the evaluation is (`contracts.Progress`); None shows nothing."""

    def __post_init__(self) -> None:
        for name, count in {
            "chunk": self.chunk,
            "batch_size": 1 if self.batch_size is None else self.batch_size,
        }.items():
            if count < 1:
                raise ValueError(f"{name} is {count}, but an attack needs at least 1 image")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, but a seed is at least 0")
        if isinstance(self.submissions, int):
            object.__setattr__(self, "submissions", Submissions(count=self.submissions))

    @property
    def repetitions(self) -> Submissions:
        """`submissions`, a plain number spelled out."""
        assert isinstance(self.submissions, Submissions)
        return self.submissions
