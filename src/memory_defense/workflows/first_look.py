"""A look before the attack: whether a model is trained, and its preprocessing the one it was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor, nn

from memory_defense.contracts import Images
from memory_defense.data.images import ImageSet
from memory_defense.randomness import seeded
from memory_defense.systems.inputs import Queried
from memory_defense.systems.preprocessed import Preprocessed
from memory_defense.systems.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from memory_defense.workflows.evaluate import as_defense
from memory_defense.workflows.first_answer import in_own_precision
from memory_defense.wrappers import frozen

ASKED = 64
"""Images that a model is asked about, at most; each preprocessing costs one pass of them."""
GOOD_ENOUGH = 0.95
"""Share of right answers from which on no other preprocessing is tried."""
SIGNIFICANCE = 0.05
"""Largest probability of the difference, were both preprocessings equally good, for which one is clearly better."""
CHANCE = 0.01
"""Largest probability of so many right answers by guessing, for which a model does not guess."""
_PASS = 16

LIKELY = (
    Preprocessing(),
    Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD),
    Preprocessing(scale=255.0, mean=(127.0,), std=(128.0,)),
    Preprocessing(scale=255.0),
    Preprocessing(mean=(0.5,), std=(0.5,)),
    Preprocessing(scale=255.0, bgr=True, mean=(104.0, 117.0, 123.0)),
)
"""What networks are trained with: none, ImageNet's moments, two ways to [-1, 1], grey levels, those of Caffe."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen of the first images."""

    images: int
    stated: Preprocessing
    right: int
    """Images that are right with the stated preprocessing."""
    best: Preprocessing | None
    """The one of the others with most right answers; None where none was tried, or none answers."""
    best_right: int
    clearly: bool
    """Whether the best is right so much more often that it is no chance."""
    chance: str
    """Why the answers are no better than guesses; empty where they are, or where too few images were there."""

    @property
    def line(self) -> str:
        """The numbers in one line."""
        said = f"with {self.stated.words} {self.right} of {self.images} are right"
        return said if self.best is None else f"{said}, with {self.best.words} {self.best_right}"

    @property
    def warning(self) -> str:
        """The line and its remedy where another preprocessing is clearly better; empty otherwise."""
        if not self.clearly:
            return ""
        return f"{self.line}: give --preprocess {str(self.best) or 'none'} if it was trained so"


def look(network: nn.Module, stated: Preprocessing, images: ImageSet, classes: int) -> Look | None:
    """Return how often a model is right on the first images, as it is stated to be used and as it likely is.

    Parameters
    ----------
    network
        Without its preprocessing, on the device of the images.
    stated
        Its preprocessing.
    images
        In an order that mixes the classes; the first `ASKED` are used.
    classes
        K, for what guessing gives.

    Returns
    -------
    None for a model that does not answer them: what is wrong with it is for the evaluation to say.
    """
    some = images.first(min(ASKED, len(images)))
    floats, labels = some.floats(), some.labels
    answers = _answers(network, stated, floats)
    if answers is None:
        return None
    right = answers == labels
    best, best_right, clearly = None, 0, False
    for other in _others(stated, floats.shape[1]) if float(right.float().mean()) < GOOD_ENOUGH else ():
        found = _answers(network, other, floats)
        if found is not None and (best is None or int((found == labels).sum()) > best_right):
            best, best_right = other, int((found == labels).sum())
            gained, lost = int(((found == labels) & ~right).sum()), int((right & (found != labels)).sum())
            clearly = _at_least(gained, gained + lost, 0.5) <= SIGNIFICANCE
    return Look(
        images=len(some),
        stated=stated,
        right=int(right.sum()),
        best=best,
        best_right=best_right,
        clearly=clearly,
        chance=_chance(int(right.sum()), answers, labels, classes),
    )


def _others(stated: Preprocessing, channels: int) -> list[Preprocessing]:
    turned = Preprocessing(scale=stated.scale, bgr=not stated.bgr, mean=stated.mean, std=stated.std)
    others = [one for one in (*LIKELY, turned) if str(one) != str(stated)]
    return others if channels == 3 else [one for one in others if not one.bgr and len(one.mean) < 2]


@torch.no_grad()
def _answers(network: nn.Module, preprocessing: Preprocessing, images: Images) -> Tensor | None:
    """Return (N,) int64 labels; None where the model gives none."""
    asked = network.network if isinstance(network, Queried) else network
    try:
        model = Preprocessed(asked, preprocessing, images.shape[1]).to(images.device).eval()
        shown = in_own_precision(as_defense(model))
        with frozen(shown), seeded(0, "first look"):
            logits = torch.cat([shown(part) for part in torch.split(images, _PASS)])
        return logits.argmax(1) if logits.dim() == 2 and len(logits) == len(images) else None
    except Exception:  # whatever the user's code raises
        return None


def _chance(right: int, answers: Tensor, labels: Tensor, classes: int) -> str:
    """Return why answers are no better than guesses; empty where they are, or where nobody could tell."""
    count = len(labels)
    if classes < 2 or (1 / classes) ** count > CHANCE or int(labels.min()) == int(labels.max()):
        return ""
    if int(answers.min()) == int(answers.max()):
        return f"all {count} images get the answer {int(answers[0])}"
    if _at_least(right, count, 1 / classes) <= CHANCE:
        return ""
    return f"{right} of {count} images are right, no more than guesses among {classes} classes give"


def _at_least(successes: int, trials: int, probability: float) -> float:
    """Return the probability of so many successes or more (binomial)."""
    tail = range(successes, trials + 1)
    return sum(comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in tail)
