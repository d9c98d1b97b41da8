"""One way to call a classifier, for attacks and judges alike, so that an answer need not depend on invariance.

Matrix products round differently for very small or odd batches, and convolutions for another memory layout.
Every pass here has whole granules of images and one layout. How large a granule must be for the logits and the
gradient of an image to come out bit for bit the same in any batch is up to the processor and the network: 8 images
on many, 16 on others, and on some no number is enough. `evaluation.invariance` measures it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
from torch import Tensor

from memory_defense.checks import NoGradientError, vouched_for
from memory_defense.contracts import Classifier, Images, Logits, Rows
from memory_defense.foreign import (
    MemoryShortError,
    ModelError,
    of_the_model,
    ours,
    out_of_memory,
    put_back,
    shared_modes,
)
from memory_defense.noticed import pass_halved
from memory_defense.progress import beat
from memory_defense.wrappers import CountingPasses, gradient_at, rows_of
from memory_defense.wrappers.fit import check_answer, misfit

GRANULE = 8
"""Images in a pass are a multiple of this unless `granules_of` says otherwise; the last is repeated to fill up."""

CPU_MICRO_BATCH = 256
"""Images in one pass on a CPU: enough that the work around a pass hardly counts, and few enough for its cache."""

ACCELERATOR_MICRO_BATCH = 512
"""Images in one pass elsewhere, where a large batch pays."""

_CANDIDATES = {"cpu": (32, 64, 128, 256), "other": (256, 512, 1024)}
_PROBE_SECONDS = 1.0
_preferred: ContextVar[int | None] = ContextVar("micro_batch", default=None)
_granule: ContextVar[int] = ContextVar("granule", default=GRANULE)
_most: ContextVar[int | None] = ContextVar("most", default=None)
_bfloat16: ContextVar[bool] = ContextVar("bfloat16", default=False)


@dataclass
class _Habits:
    """What a model does with its images; learnt once, shared by all restrictions of a `Regular`."""

    channels_last: bool = True
    """It takes that layout."""
    writes: bool | None = None
    """It changes its images in place, so it gets copies; None before the first pass."""
    fits: int | None = None
    """Images in the largest pass without a gradient that there is memory for; None until there was too little."""


@dataclass(frozen=True)
class Regular:
    """A classifier that is only ever called with whole granules, in one memory layout.

    Parameters
    ----------
    model
        The classifier; answers and gradients are its own.
    index
        (B,) the rows this restriction stands for, kept so that a repeated image brings its own row along.
    """

    model: Classifier
    index: Rows | None = None
    habits: _Habits = field(default_factory=_Habits, repr=False)

    def __call__(self, images: Images) -> Logits:
        """Return the logits (B, K) of these images, in as many passes as the model and the memory ask for.

        Raises
        ------
        ModelError
            For whatever the model's own code raises, in one line.
        MemoryShortError
            If there is no memory for a single image; with a gradient, torch's own error is passed on, so that who
            follows it sends fewer images.
        ValueError
            For an answer that is no tensor of floats.
        """
        with_graph = torch.is_grad_enabled()
        limits = [one for one in (_most.get(), None if with_graph else self.habits.fits) if one is not None]
        if limits and len(images) > min(limits):
            if not with_graph and self.habits.fits is not None:
                pass_halved(min(limits))
            with granules_of(min(granule(), *limits)):
                return torch.cat([self.rows(at)(images[at]) for at in _parts(images, min(limits))])
        if with_graph:
            return self._filled(images)
        try:
            return self._filled(images)
        except Exception as error:  # asked anew below, where nothing holds on to what filled the memory
            if not out_of_memory(error):
                raise
            asked = -(-len(images) // granule()) * granule()
            if asked == 1 or asked == fixed_pass():
                raise MemoryShortError(_no_room()) from error
        self.habits.fits = asked // 2
        pass_halved(asked // 2)
        with granules_of(min(granule(), asked // 2)):
            return self(images)

    def _filled(self, images: Images) -> Logits:
        """Return the logits of one pass, filled up to whole granules."""
        missing = -len(images) % granule()
        model = self.model
        if self.index is not None:
            index = torch.cat([self.index, self.index[-1:].expand(missing)]) if missing else self.index
            model = rows_of(model, index)
        elif missing and len(images) and hasattr(model, "rows"):
            rows = torch.arange(len(images), device=images.device)
            model = rows_of(model, torch.cat([rows, rows[-1:].expand(missing)]))
        if missing:
            images = torch.cat([images, images[-1:].detach().expand(missing, *images.shape[1:])])
        try:
            logits = cast("object", self._laid_out(model, images))
        except (NoGradientError, ModelError, MemoryShortError):
            raise
        except Exception as error:
            if out_of_memory(error) or ours(error):
                raise
            if isinstance(error, (RuntimeError, AssertionError)) and (why := misfit(self.model, images, error)):
                raise ModelError(why, len(images), remedied=True) from error
            raise of_the_model(error, len(images)) from error
        beat(len(images) - missing)
        check_answer(logits, len(images))
        # A copy, as a model may hand out a buffer that its next answer overwrites.
        return cast("Tensor", logits)[: len(images) - missing].clone()

    def rows(self, index: Rows) -> Regular:
        """Return the classifier for these rows."""
        return Regular(self.model, index if self.index is None else self.index[index], self.habits)

    def _laid_out(self, model: Classifier, images: Images) -> Logits:
        # CPU convolutions run 1.3 to 1.9 times faster on channels-last images, whatever the weights' layout.
        if images.device.type != "cpu" or images.dim() != 4:
            return self._untouched(model, images, images)
        if not self.habits.channels_last:
            return self._untouched(model, images, images.contiguous())
        try:
            return self._untouched(model, images, channels_last(images))
        except RuntimeError as error:  # a `view` inside the model needs the default layout
            if out_of_memory(error):
                raise
            logits = self._untouched(model, images, images.contiguous())
            self.habits.channels_last = False
            return logits

    def _untouched(self, model: Classifier, images: Images, given: Images) -> Logits:
        """Return the answers to what is given, with a copy of it where the model might change `images` in place."""
        habits = self.habits
        if habits.writes is not False and given.data_ptr() == images.data_ptr():
            given = given.clone()
        before, modes = _version(given), shared_modes()
        try:
            logits = model(given)
        finally:
            put_back(modes)
        changed = _version(given) != before
        if vouched_for(given):
            return logits
        if habits.writes is None and not changed:  # what is written to `.data` leaves the version as it was
            changed = not torch.equal(given.detach(), images.detach())
        if changed and habits.writes is False:
            raise ValueError("the model changed its images in place, and did not before; let it copy them first")
        habits.writes = bool(habits.writes) or changed
        return logits


def _version(images: Images) -> int:
    """Return a number that grows when images are changed in place; tensors of inference mode have none."""
    return 0 if images.is_inference() else images._version  # pyright: ignore[reportPrivateUsage]


def _parts(images: Images, size: int) -> list[Rows]:
    rows = torch.arange(len(images), device=images.device)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def channels_last(images: Images) -> Images:
    """Return images (B, C, H, W) in channels-last layout, themselves where they have it.

    One channel lies in memory alike in both layouts. torch copies it all the same; here it is seen anew.
    """
    _, channels, height, width = images.shape
    seen = (height * width, 1, width, 1)
    if channels == 1 and images.stride() != seen and images.is_contiguous() and not images.requires_grad:
        return images.as_strided(images.shape, seen)
    return images.to(memory_format=torch.channels_last)


def regular(model: Classifier) -> Classifier:
    """Return `model` made `Regular`; passes are counted outside, where a repeated image is none."""
    if isinstance(model, CountingPasses):
        return CountingPasses(regular(model.model), model.passes)
    return model if isinstance(model, Regular) else Regular(model)


def within_memory(function: Callable[[Images], Tensor], images: Images) -> Tensor:
    """Return ``function(images)``, (B, ...) by image, asking for half as often as the memory is too small for all.

    For what is no classifier, such as a score: `Regular` does it for logits. Raises `MemoryShortError` where not
    even one image fits.
    """
    try:
        return function(images)
    except Exception as error:  # asked anew below, where nothing holds on to what filled the memory
        if not out_of_memory(error) or len(images) == 0:
            raise
        if len(images) == 1:
            raise MemoryShortError(_no_room()) from error
    half = -(-len(images) // 2)
    pass_halved(half)
    return torch.cat([within_memory(function, part) for part in (images[:half], images[half:])])


def original_rows(model: Classifier, rows: Rows) -> Rows:
    """Return which images of the whole batch a restricted model stands for; `rows` where it does not know."""
    inner = model.model if isinstance(model, CountingPasses) else model
    return inner.index if isinstance(inner, Regular) and inner.index is not None else rows


def granule() -> int:
    """Return the number that images in a pass are a multiple of: what `granules_of` says, or `GRANULE`."""
    return _granule.get()


def pass_limit() -> int | None:
    """Return the most images that a pass may have, by `granules_of`; None where any number will do."""
    return _most.get()


def fixed_pass() -> int | None:
    """Return how many images every pass has because the model takes no other number; None where it does."""
    return _most.get() if _most.get() == granule() else None


def one_pass() -> str:
    """Return how many images the smallest pass has, in words: one, or what `fixed_pass` says."""
    fixed = fixed_pass()
    return "one image" if fixed in (None, 1) else f"the {fixed} images that the model takes"


def _no_room() -> str:
    return f"there is not enough memory for {one_pass()} in a pass; use a smaller network, or a device with more"


@contextmanager
def granules_of(count: int | None, most: int | None = None) -> Generator[None]:
    """Run a block whose passes have a multiple of `count` images, at least 1; None stands for `GRANULE`.

    No pass has more than `most` images; None leaves what holds outside. With `most` equal to `count` every pass has
    exactly so many, for models that take no other number, and that stands whatever a block inside asks for.
    """
    fixed = fixed_pass() if most is None else None
    most = most or _most.get()
    chosen = fixed or count or GRANULE
    tokens = _granule.set(min(chosen, most or chosen)), _most.set(most)
    try:
        yield
    finally:
        _granule.reset(tokens[0])
        _most.reset(tokens[1])


def candidates_for(device: torch.device) -> tuple[int, ...]:
    """Return the micro-batches that `fastest_micro_batch` chooses from, small before large."""
    return _CANDIDATES["cpu" if device.type == "cpu" else "other"]


def micro_batch_for(device: torch.device) -> int:
    """Return how many images go through in one pass: what `micro_batches_of` says, or the device's default."""
    default = CPU_MICRO_BATCH if device.type == "cpu" else ACCELERATOR_MICRO_BATCH
    return _preferred.get() or default


@contextmanager
def micro_batches_of(count: int | None) -> Generator[None]:
    """Run a block whose attacks send `count` images in one pass, unless they say otherwise; None changes nothing.

    Raises
    ------
    ValueError
        For a count below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"a micro-batch of {count} images is none; give at least 1, or None for the default")
    token = _preferred.set(count or _preferred.get())
    try:
        yield
    finally:
        _preferred.reset(token)


@contextmanager
def bfloat16_gradients(wanted: bool) -> Generator[None]:
    """Run a block whose attacks compute gradients in bfloat16 where `wanted`; what is judged stays float32.

    An image that seems to fool the model in such a pass is asked anew in float32 at once, and goes on if it does
    not. It pays on processors and GPUs made for it, up to threefold, and may find less: a gradient's small
    differences drown. Compare with float32 before believing a number.
    """
    token = _bfloat16.set(wanted)
    try:
        yield
    finally:
        _bfloat16.reset(token)


def gradients_in_bfloat16() -> bool:
    """Return whether passes made for their gradient run in bfloat16."""
    return _bfloat16.get()


def differentiable_answers(model: Classifier, images: Images) -> Logits:
    """Return the logits (B, K), float32, of a pass made for its gradient; see `bfloat16_gradients`."""
    if not _bfloat16.get():
        return model(images)
    with torch.autocast(images.device.type, torch.bfloat16):
        return model(images).float()


def settled_micro_batch(images: Images) -> int:
    """Return the micro-batch for these images that no clock has a say in: the largest candidate that they fill.

    Where they do not fill two, it is the device's default, as in `fastest_micro_batch`.
    """
    filled = [size for size in candidates_for(images.device) if size <= len(images)]
    return filled[-1] if len(filled) > 1 else micro_batch_for(images.device)


def fastest_micro_batch(model: Classifier, images: Images) -> int:
    """Return the micro-batch that sends these images forward and back fastest, by a probe of about a second.

    A clock may only choose where the choice has no influence on any answer: ask `evaluation.invariance` first. With
    fewer images than two of the smallest candidates there is nothing to choose.

    Parameters
    ----------
    model
        Differentiable or not; without a gradient only the forward pass is timed.
    images
        (B, C, H, W) in [0, 1], a sample of what will come; as many as the largest candidate are enough.
    """
    best, best_time = micro_batch_for(images.device), float("inf")
    candidates = [size for size in candidates_for(images.device) if size <= len(images)]
    if len(candidates) < 2:
        return best
    total, deadline = candidates[-1], time.perf_counter() + _PROBE_SECONDS
    sample, called = images[:total], Regular(model)
    try:
        _timed(called, sample, candidates[0])  # the first pass pays for what the others find ready
        for size in candidates:
            taken = min(_timed(called, sample, size) for _ in range(2))
            if taken < best_time:
                best, best_time = size, taken
            if time.perf_counter() > deadline:
                break
    except Exception as error:  # larger ones would not fit either
        if not out_of_memory(error):
            raise
        return best if best_time < float("inf") else candidates[0]
    return best


def _summed(model: Classifier, images: Images) -> Tensor:
    return model(images).sum()


def _timed(model: Regular, images: Images, size: int) -> float:
    started = time.perf_counter()
    for start in range(0, len(images), size):
        rows = torch.arange(start, min(start + size, len(images)), device=images.device)
        leaf = images[start : start + size].detach().clone().requires_grad_()
        with torch.enable_grad():
            gradient_at(leaf, partial(_summed, rows_of(model, rows), leaf))
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - started
