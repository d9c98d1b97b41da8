"""The numbers of images that a model takes in one pass, where it does not take every number.

Programs that were exported or scripted for one batch, and models that count the images they are given, take exactly
so many, or no more. What they take is found by asking, and then every pass is made so.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from memory_defense.contracts import Classifier, Rows
from memory_defense.evaluation.invariance import undisturbed
from memory_defense.evaluation.metrics import JUDGE_BATCH
from memory_defense.evaluation.odd import NAMED
from memory_defense.evaluation.pixels import Pictures
from memory_defense.foreign import ModelError
from memory_defense.passes import GRANULE, granule, granules_of, regular
from memory_defense.wrappers import frozen, restored, rows_of

_DOUBLED = (16, 32, 64, 128, 256, 512, 1024)
_FEW = (1, 2, 4)
_MOST_NAMED = 1024


class Taken(NamedTuple):
    """What a model takes."""

    granule: int | None = None
    """Passes have a multiple of so many images; None for the usual number."""
    most: int | None = None
    """No pass has more; None for any number."""

    @property
    def note(self) -> str:
        """What to say of it; nothing for a model that takes any number."""
        if self.most is None:
            return ""
        if self.granule == self.most:
            return f"every pass had exactly {_images(self.most)}: the model does not take every number"
        return f"no pass had more than {_images(self.most)}: the model does not take every larger number"


def taken_by(model: Classifier, images: Pictures, *, largest: int, wanted: int | None, seed: int) -> Taken:
    """Return what the model takes, by asking it about the largest pass, and then about others.

    Buffers and random numbers are as before afterwards.

    Parameters
    ----------
    model
        Its errors are taken for answers; one that takes no number at all is for others to refuse.
    images
        (N, C, H, W) in [0, 1], N at least 1.
    largest
        Images in the largest pass.
    wanted
        A number that the caller knows of (`Options.batch_size`).
    seed
        Seed of what a randomised model draws.
    """
    with frozen(model), restored(model), undisturbed(seed), torch.no_grad():
        error = _refusal(model, images, min(len(images), largest))
        if error is None:
            if _takes(model, images, GRANULE):
                return Taken()
            size = -(-min(len(images), largest) // granule()) * granule()  # exported for just these images, say
            return Taken(size, size)
        if _takes(model, images, GRANULE):
            most = GRANULE
            while most < largest and _takes(model, images, 2 * most):
                most *= 2
            # Up to the largest pass every number is taken: then the images are at fault, not their number.
            return Taken() if most >= largest else Taken(GRANULE, most)
        named = [int(one) for one in re.findall(r"\d+", str(error)) if 0 < int(one) <= _MOST_NAMED]
        sizes: list[int] = [*([] if wanted is None else [wanted]), *named, *_DOUBLED, *_FEW]
        for size in dict.fromkeys(sizes):
            if _takes(model, images, size):
                return Taken(size, size)
    return Taken()


def _refusal(model: Classifier, images: Pictures, count: int) -> ModelError | None:
    try:
        regular(model)(images[:count])
    except ModelError as error:
        return error
    except ValueError:  # what else is wrong is for the evaluation to say
        return None
    return None


def _takes(model: Classifier, images: Pictures, size: int) -> bool:
    """Return whether the model answers the first image, repeated to fill one pass of so many."""
    with granules_of(size, size):
        return _refusal(model, images, 1) is None


def culprits(model: Classifier, images: Pictures, most: int = NAMED) -> list[int]:
    """Return the rows of the images that the model raises an error for even alone, the first `most` of them."""
    found: list[int] = []

    def look(rows: torch.Tensor) -> None:
        if len(found) >= most or _refusal(rows_of(model, rows), images[rows], len(rows)) is None:
            return
        if len(rows) == 1:
            found.append(int(rows))
            return
        half = len(rows) // 2
        look(rows[:half])
        look(rows[half:])

    with frozen(model), restored(model), undisturbed(0), torch.no_grad():
        for part in torch.split(torch.arange(len(images), device=images.device), JUDGE_BATCH):
            look(part)
    return found


@contextmanager
def located(model: Classifier, images: Pictures, ids: Rows, doing: str) -> Generator[None]:
    """Run a block of work on these images; a `ModelError` from it says which of them the model failed on.

    Parameters
    ----------
    model
        Asked about the images once more where it failed.
    images, ids
        (N, C, H, W) in [0, 1], and their positions in the dataset (N,).
    doing
        What the block does, for the text.
    """
    try:
        yield
    except ModelError as error:
        if error.remedied:
            raise
        found = culprits(model, images)
        numbers = [str(int(ids[row])) for row in found]
        if not numbers:
            where = f"{doing}, on images that it was not given as they are; fix the model for those"
        elif len(found) < min(len(images), NAMED):
            where = f"{doing}; it fails on {_listed(numbers)} even alone: leave out such images, or fix it"
        else:
            where = f"{doing}; it fails on every image that was tried; fix the model"
        raise ModelError(f"{error}, {where}", error.images, remedied=True) from error


def _listed(numbers: list[str]) -> str:
    return ("the image with id " if len(numbers) == 1 else "the images with ids ") + ", ".join(numbers)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
