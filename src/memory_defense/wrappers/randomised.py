"""Wrappers of classifiers that draw at every call: their expectation, and the best of several answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from memory_defense.contracts import Classifier, Images, Labels, Logits, Rows
from memory_defense.wrappers.models import rows_of


@dataclass(frozen=True)
class Eot:
    """Expectation over transformation (Athalye et al. 2018) for a classifier that draws at every call.

    Parameters
    ----------
    model
        A classifier that makes its own random draws.
    samples
        Forward passes that are averaged, at least 1. Memory of a backward pass grows with it.
    average
        ``logits``: the mean of the logits, whose scale margin losses see. ``probabilities``: the log of the
        mean softmax, the likelihood under the mixture, in which one confident draw cannot outvote the others.

    Raises
    ------
    ValueError
        For fewer than 1 sample or an unknown average.
    """

    model: Classifier
    samples: int
    average: Literal["logits", "probabilities"] = "logits"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}, but an expectation needs at least 1")
        if self.average not in ("logits", "probabilities"):
            raise ValueError(f"average is {self.average!r}, expected 'logits' or 'probabilities'")

    def __call__(self, images: Images) -> Logits:
        """Return the averaged logits (B, K)."""
        draws = torch.stack([self.model(images) for _ in range(self.samples)])  # (S, B, K)
        if self.average == "logits":
            return draws.mean(0)
        return draws.log_softmax(2).logsumexp(0) - torch.tensor(float(self.samples)).log().to(draws)

    def rows(self, index: Rows) -> Eot:
        """Return the same expectation for these rows."""
        return Eot(rows_of(self.model, index), self.samples, self.average)


@dataclass(frozen=True)
class Resubmission:
    """The worst of several answers, for an adversary who may submit the same image repeatedly.

    The answer for an image is, among `attempts` calls, the logits with the largest margin
    ``max_{i != y} z_i - z_y`` against its label: wrong as soon as one call is. The gradient is that call's.

    Parameters
    ----------
    model
        A classifier that makes its own random draws.
    labels
        (B,) of the images it will be called with, in their order; `rows` restricts them along with the model.
    attempts
        Calls for one answer, at least 1. Memory of a backward pass grows with it.

    Raises
    ------
    ValueError
        For fewer than 1 attempt; when called, for a number of images other than that of labels.
    """

    model: Classifier
    labels: Labels
    attempts: int

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}, but an image is submitted at least once")

    def __call__(self, images: Images) -> Logits:
        """Return the logits (B, K) of each image's best attempt."""
        if len(images) != len(self.labels):
            raise ValueError(
                f"there are {len(images)} images, but labels for {len(self.labels)}; "
                "restrict the classifier with wrappers.rows_of(model, rows) to the images it is called with"
            )
        answers = torch.stack([self.model(images) for _ in range(self.attempts)])  # (A, B, K)
        seen, own = answers.detach(), self.labels.expand(self.attempts, -1)[:, :, None]  # (A, B, 1)
        margins = seen.scatter(2, own, -torch.inf).amax(2) - seen.gather(2, own).squeeze(2)  # (A, B)
        best = margins.argmax(0)[None, :, None].expand(1, *answers.shape[1:])  # (1, B, K)
        return answers.gather(0, best).squeeze(0)

    def rows(self, index: Rows) -> Resubmission:
        """Return the same wrapper for these rows."""
        return Resubmission(rows_of(self.model, index), self.labels[index], self.attempts)
