"""What a caller may choose about an evaluation beside the model, the images and the threat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memory_defense.checks import shown, whole_number
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
        For a value of another type, a count below 1, a negative seed or position, or a device that is not there.
        Integers of numpy and torch count as Python's; 2.0 is none.
    """

    seed: int = 0
    """Seed of every random draw of the attacks, at least 0."""
    batch_size: int | None = None
    """Images in one pass through the model, at least 1; None finds the fastest by a probe of at most a second."""
    chunk: int = 1024
    """Images that an attack holds in memory at once, at least 1, and fewer where they are large; progress is saved
    between chunks."""
    device: torch.device | str | None = None
    """Device to compute on, such as ``cuda:1``; None is the device of the images. The model returns to its own."""
    submissions: Submissions | int = 1
    """Number of times that a randomised model is asked about an image before it is judged; n stands for
    ``Submissions(count=n)``: one wrong answer among n breaks the image."""
    bfloat16: bool = False
    """Compute attack gradients in bfloat16; verdicts stay float32. Faster on some hardware, but may find less."""
    resume: bool = True
    """Go on from the state that a stopped evaluation left beside its record; False removes it and starts anew."""
    alone: bool = False
    """Under torchrun, evaluate on this rank without the others, such as in ``if rank == 0: ...``; otherwise all
    ranks must make the same call, and share the images."""
    ids: Rows | Sequence[int] | NDArray[np.integer[Any]] | None = None
    """(N,) positions of the images in their dataset, at least 0, which name the images' draws; 0..N-1 by default.
    Integers in a tensor, an array, a list or a range; an image that is there twice may have one position."""
    start_from: Path | str | None = None
    """File of adversarial images beside an earlier record (``*.images.safetensors``), of this model or of another:
    they are tried first."""
    defense: str = "a classifier"
    """Name of the model in the record, and so in reports, comparisons and model cards."""
    dataset: str = "images in memory"
    """Name of the images in the record."""
    weights_sha256: str = ""
    """Hash of the weights, or of whatever else identifies the model; empty if unknown."""
    notes: tuple[str, ...] = ()
    """What was skipped, substituted or assumed before the evaluation began, such as `data.own.DataSplit.notes`: a
    line each, for the record."""
    progress: Progress | None = None
    """Display of how far the evaluation is (`contracts.Progress`), such as `memory_defense.LoggedProgress()`; None
    shows nothing."""

    def __post_init__(self) -> None:
        for name in ("chunk", "batch_size"):
            count = getattr(self, name)
            if not (count is None and name == "batch_size"):
                self._set(name, _images_in(name, count))
        self._set("seed", _seed(self.seed))
        if not isinstance(self.submissions, Submissions):
            self._set("submissions", Submissions(count=self.submissions))
        for name in ("bfloat16", "resume", "alone"):
            self._set(name, _truth(name, getattr(self, name)))
        for name in ("defense", "dataset", "weights_sha256"):
            text: object = getattr(self, name)
            if not isinstance(text, str):
                raise ValueError(f"{name} is {shown(text)}, expected a text, such as {str(text or '')!r}")
        if self.device is not None:
            check_device(self.device)
        if self.ids is not None:
            self._set("ids", _positions(self.ids))
        self._set("notes", _lines(self.notes))
        file: object = getattr(self, "start_from")  # noqa: B009
        if not (file is None or isinstance(file, (str, Path))):
            raise ValueError(
                f"start_from is {shown(file)}, expected the path of a .images.safetensors file, or None"
            )
        _check_progress(self.progress)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def repetitions(self) -> Submissions:
        """`submissions`, a plain number spelled out."""
        assert isinstance(self.submissions, Submissions)
        return self.submissions

    def numbers(self, count: int) -> Rows:
        """Return `ids`, (count,) int64 on the CPU.

        Raises ValueError where there are not as many as images.
        """
        if self.ids is None:
            return torch.arange(count)
        assert isinstance(self.ids, Tensor)
        if len(self.ids) != count:
            raise ValueError(
                f"ids has {len(self.ids)} positions, but there are {count} images; give one for each image, or None"
            )
        return self.ids.cpu()


class OptionFields(TypedDict, total=False):
    """The fields of `Options` as keywords of a call, which also takes ``progress=True``."""

    seed: int
    batch_size: int | None
    chunk: int
    device: torch.device | str | None
    submissions: Submissions | int
    bfloat16: bool
    resume: bool
    alone: bool
    ids: Rows | Sequence[int] | NDArray[np.integer[Any]] | None
    start_from: Path | str | None
    defense: str
    dataset: str
    weights_sha256: str
    notes: tuple[str, ...]
    progress: Progress | bool | None


def _images_in(name: str, count: object) -> int:
    found = whole_number(count, name, 64)
    if found < 1:
        raise ValueError(f"{name} is {found}, but an attack needs at least 1 image; give 64, say")
    return found


def _seed(seed: object) -> int:
    found = whole_number(seed, "seed", 0)
    if found < 0:
        raise ValueError(f"seed is {found}, but a seed is at least 0; give 0, say")
    return found


def _truth(name: str, value: object) -> bool:
    if value is True or value is False:
        return value
    if type(value) is np.bool_:
        return bool(value)
    raise ValueError(f"{name} is {shown(value)}, expected True or False")


def _lines(notes: object) -> tuple[str, ...]:
    lines = tuple(cast("Sequence[object]", notes)) if type(notes) in (tuple, list) else (None,)
    if not all(isinstance(one, str) for one in lines):
        raise ValueError(f"notes is {shown(notes)}, expected texts, a line each, such as ('every third image',)")
    return cast("tuple[str, ...]", lines)


def check_device(device: object) -> None:
    """Raise ValueError unless this names a device that torch can compute on here."""
    try:
        named = isinstance(device, (str, int, torch.device)) and not isinstance(device, bool)
        place = torch.device(cast("str", device)) if named else None
    except (RuntimeError, ValueError):
        place = None
    if place is None:
        raise ValueError(f"device is {shown(device)}, expected one such as 'cpu', 'cuda:0' or 'mps', or None")
    try:
        there = place.type != "meta" and torch.zeros(1, device=place).item() == 0
    except (RuntimeError, AssertionError):  # torch without support for it, or a number beyond the last one
        there = False
    if not there:
        raise ValueError(f"device is {shown(str(place))}, which torch cannot compute on here; use 'cpu', or None")


def _positions(ids: object) -> Rows:
    """Return positions as int64 (N,)."""
    try:
        found = ids.detach() if isinstance(ids, Tensor) else torch.from_numpy(np.array(ids))
    except (TypeError, ValueError, RuntimeError):
        found = torch.empty(0, 0)
    whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    if found.dim() != 1 or not whole or found.is_meta:
        raise ValueError(
            f"ids is {shown(ids)}, expected whole numbers (N,), one for each image, such as range(N) or None"
        )
    found = found.to(torch.int64)
    if len(found) and int(found.min()) < 0:
        raise ValueError(
            f"ids has {int(found.min())}, but a position in a dataset is at least 0; give range(N), say"
        )
    return found


def _check_progress(progress: object) -> None:
    """Raise ValueError unless this is None or shows progress."""
    wanted = ("begin", "advance", "note")
    fits = not isinstance(progress, type) and all(callable(getattr(progress, name, None)) for name in wanted)
    if progress is not None and not fits:
        raise ValueError(
            f"progress is {shown(progress)}, expected None or an object with the methods begin, advance and note "
            "(contracts.Progress)"
        )
