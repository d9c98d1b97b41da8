"""Measurement, on the processor at hand, of whether the answers for an image depend on the rest of its batch.

How a matrix product rounds may depend on how many rows it has, and even on which row an image is; that differs
from processor to processor, and from one setting of their libraries to the next. So nothing is assumed. Before an
evaluation the models that it will call are asked about a few of its images in batches of several sizes, at other
places and in another order, and the smallest granule is taken whose multiples all agree, bit for bit.

What is measured is a sample of images and sizes. Purification in whole levels hides rounding until two levels are
nearly equally likely; among some tens of images there are such pixels.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from memory_defense.contracts import Binding, Classifier, Images, Logits, PerImage, Rows, needs_gradient
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.pixels import Pictures
from memory_defense.evaluation.record import BatchInvariance
from memory_defense.foreign import out_of_memory
from memory_defense.passes import (
    Regular,
    candidates_for,
    channels_last,
    differentiable_answers,
    fastest_micro_batch,
    fixed_pass,
    granules_of,
    pass_limit,
    settled_micro_batch,
)
from memory_defense.randomness import generator, seeded
from memory_defense.ranks import Ranks
from memory_defense.wrappers import Backward, frozen, restored, rows_of

GRANULES = (8, 16, 32, 64)
"""The granules that are tried, small before large."""

FEWEST = GRANULES[1]
"""Images that a pass may have, however few are evaluated."""

_MULTIPLES = (1, 2, 3, 4, 5, 6, 7, 8, 13, 21, 34, 55, 89)
"""Sizes of the batches that are compared, in granules: all small ones, and odd and even ones of every magnitude."""

_RANDOM = 1e-4
"""Relative difference between two equal calls from which a model draws at random; rounding stays below 1e-5."""


def largest_pass(images: int, device: torch.device, batch_size: int | None, cases: Sequence[Case]) -> int:
    """Return the most images that one pass of these cases may have.

    An attack may send several copies of an image in one pass, up to its batch size. With few images that is kept
    small, so that their evaluation does not begin with passes of hundreds. A small `batch_size` changes nothing:
    what is measured must be the same for every choice of it. A `batch_size` above the number of images counts as
    that, or as the largest that is ever chosen.
    """
    wanted = min(batch_size or 0, max(candidates_for(device)[-1], -(-images // GRANULES[0]) * GRANULES[0]))
    chosen = max(wanted, *(getattr(case.attack, "micro_batch", None) or 0 for case in cases), 0)
    return max(chosen, min(candidates_for(device)[-1], -(-max(images, 1) // FEWEST) * FEWEST))


def measured(
    defense: Classifier,
    surrogates: Mapping[str, Classifier | Binding],
    cases: Sequence[Case],
    images: Pictures,
    ids: Rows,
    *,
    largest: int,
    seed: int,
) -> BatchInvariance:
    """Return what holds for the answers of the defense and for what these cases ask of its surrogates.

    Nothing here raises: what is wrong with a model is for the evaluation to say, and then nothing is promised.
    Buffers and random numbers are as before afterwards, and no pass is counted.

    Parameters
    ----------
    defense
        In eval mode; of it only answers are needed.
    surrogates
        By knowledge; those that `cases` name are measured, with their gradients unless every attack does without.
    images, ids
        (N, C, H, W) and (N,): the images with the smallest ids are the sample, in whatever order they come.
    largest
        Images in the largest pass.
    seed
        Seed of what a randomised model draws.
    """
    largest = min(largest, pass_limit() or largest)
    sample = images[ids.argsort(stable=True)[:largest].to(images.device)]
    asked: dict[int, tuple[Classifier | Binding, bool]] = {id(defense): (defense, False)}
    for case in cases:
        one = surrogates[case.knowledge]
        follows = needs_gradient(case.attack)
        asked[id(one)] = (one, follows or asked.get(id(one), (one, False))[1])
    needed, room = fixed_pass() or GRANULES[0], largest
    for one, follows in asked.values():
        try:
            with frozen(one), restored(one), undisturbed(seed):
                model = one.bind(sample) if isinstance(one, Binding) else one
                found, fits = _within_memory(model, sample, largest, gradients=follows)
                if found is None:
                    drawn = draws_at_random(model, sample[: GRANULES[-1]], gradients=follows)
                    return BatchInvariance(granule=None, randomised=drawn)
        except Exception:  # whatever a model may raise, the evaluation will meet it and say so
            return BatchInvariance(granule=None)
        needed, room = max(needed, found), min(room, fits)
    too_much = needed > room and room < largest
    return BatchInvariance(granule=None if too_much else needed)


def agreeing_granule(model: Classifier, images: Images, largest: int, *, gradients: bool = True) -> int | None:
    """Return the smallest granule whose multiples all give an image the same answer and gradient, bit for bit.

    None if there is none among `GRANULES`, or what `fixed_pass` says: then they depend on the image's place in the
    batch, on the other images, or on chance. Whether the model has a gradient is found out.

    Parameters
    ----------
    model
        Its rows stay with their images (`contracts.RowBound`).
    images
        (n, C, H, W), n at least 1; where a batch is larger, they are repeated.
    largest
        Images in the largest batch, at least 1; it is rounded up to whole granules.
    gradients
        Whether a gradient is followed; else answers alone count.
    """
    asked = _Asked(model, images, gradients)
    if (fixed := fixed_pass()) is not None:
        return fixed if asked.agrees(fixed, fixed) else None
    for count in GRANULES:
        if count >= 2 * max(largest, GRANULES[0]):
            break  # most of such a pass would only fill it up, and a single size compares little
        if asked.agrees(count, largest):
            return count
    return None


def draws_at_random(model: Classifier, images: Images, *, gradients: bool = True) -> bool:
    """Return whether two equal calls differ by more than rounding."""
    asked, rows = _Asked(model, images, gradients), torch.arange(len(images), device=images.device)
    pairs = zip(asked.about(rows), asked.about(rows), strict=True)
    return any(bool((_length(one - other) > _RANDOM * _length(one)).any()) for one, other in pairs)


def chosen_micro_batch(defense: Classifier, images: Pictures, found: BatchInvariance) -> int:
    """Return the micro-batch for these images: by a clock only where that changes no answer."""
    sample = images[: candidates_for(images.device)[-1]]
    return settled_micro_batch(sample) if found.granule is None else fastest_micro_batch(defense, sample)


def weakest(mine: BatchInvariance, ranks: Ranks) -> BatchInvariance:
    """Return what holds in every process; all of them must ask."""
    here = torch.tensor([mine.granule or 0, mine.randomised])
    found = torch.stack([one["found"] for one in ranks.gather({"found": here})])
    none = bool((found[:, 0] == 0).any())
    return BatchInvariance(granule=None if none else int(found[:, 0].max()), randomised=bool(found[:, 1].any()))


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return whether these are the same bit for bit, where a NaN is the same as any other NaN."""
    return torch.equal(one, other) or torch.equal(_without_nan(one), _without_nan(other))


def _without_nan(found: Tensor) -> Tensor:
    return torch.stack([found.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf), found.isnan().to(found)])


def _length(found: Tensor) -> PerImage:
    return found.flatten(1).square().sum(1).sqrt()


class _Asked:
    """A model that is asked about the same few images in batches of many kinds."""

    def __init__(self, model: Classifier, images: Images, gradients: bool) -> None:
        self.model, self.images, self.gradients = Regular(model), images, gradients

    def agrees(self, count: int, largest: int) -> bool:
        """Return whether all multiples of `count` up to `largest` agree."""
        most = -(-largest // count) * count
        sizes = sorted({most, *(count * many for many in _MULTIPLES if count * many < most)})
        device, distinct = self.images.device, len(self.images)
        first = torch.arange(most, device=device) % distinct
        whole = self.about(first)
        expected = [one[:distinct] for one in whole]

        def same(rows: Rows, found: list[Tensor]) -> bool:
            pairs = zip(found, expected, strict=True)
            return len(found) == len(expected) and all(_equal(one, other[rows]) for one, other in pairs)

        if not same(first, whole):
            return False
        for size in (most, *sizes[:-1]):
            places = torch.randperm(most, generator=generator(0, "company", size))[:size]
            # Some images twice and others not at all: a model that sorts its images into groups is found out.
            mixed = torch.randint(most, (size,), generator=generator(0, "mixed", size))
            for rows in (first[places.to(device)], first[mixed.to(device)]):
                if not same(rows, self.about(rows)):
                    return False
        return True

    def about(self, rows: Rows) -> list[Tensor]:
        """Return the answers of one batch of these images, and of a pass with a gradient, that gradient as well."""
        images, model = self.images[rows], rows_of(self.model, rows)
        with granules_of(
            GRANULES[0]
        ):  # or what is fixed; every size here is a multiple of that, so nothing is filled up
            with torch.no_grad():
                found = [model(images)]
            if self.gradients:
                found += _descended(model, images)
        return found


def _descended(model: Classifier, images: Images) -> list[Tensor]:
    """Return the answers of a pass with a gradient and the gradient of some weighted sum of them; none without."""
    with torch.enable_grad():
        laid_out = channels_last(images) if images.device.type == "cpu" and images.dim() == 4 else images
        leaf = laid_out.clone().requires_grad_()
        gradient, logits = Backward()(leaf, lambda: _weighted(differentiable_answers(model, leaf)))
    return [] if gradient is None else [logits.detach(), gradient]


def _weighted(logits: Logits) -> tuple[Tensor, None, Logits]:
    weights = torch.arange(1, logits[0].numel() + 1, device=logits.device).cos()
    return (logits.flatten(1) * weights).sum(), None, logits


def _within_memory(model: Classifier, images: Images, largest: int, *, gradients: bool) -> tuple[int | None, int]:
    """Return what `agreeing_granule` does, for the largest batch that there is memory for, and that batch."""
    while True:
        try:
            found = agreeing_granule(model, images, largest, gradients=gradients)
            return found, max(largest, found or 0)
        except Exception as error:  # asked anew below, where nothing holds on to what filled the memory
            if not out_of_memory(error) or largest <= GRANULES[0]:
                raise
        largest //= 2


@contextmanager
def undisturbed(seed: int) -> Generator[None]:
    """Run a block whose draws from any global generator leave it as it was."""
    plain, numbers = random.getstate(), np.random.get_state()
    try:
        with seeded(seed, "company"):
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(numbers)
