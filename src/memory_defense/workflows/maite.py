"""MAITE's protocols for image classification: what they name can be evaluated, and ours used by its benches.

MAITE (https://github.com/mit-ll-ai-technology/maite, 0.10) names protocols that are fulfilled by shape, so nothing
of it is imported here. A model of theirs takes a sequence of images (C, H, W) and returns a sequence of answers
(K,); an item of a dataset of theirs is an image (C, H, W), a target (K,) and a mapping with an ``id``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from memory_defense.checks import shown
from memory_defense.contracts import Classifier, Images, Labels, Logits
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import Record
from memory_defense.workflows.arguments import Radii
from memory_defense.workflows.evaluate import evaluate

Array: TypeAlias = Any
"""What numpy reads as an array: one of its own, a tensor, nested sequences."""
Item: TypeAlias = tuple[Array, Array, Mapping[str, Any]]
"""An image (C, H, W), a target (K,) and what is known of both."""


class TheirModel(Protocol):
    """A MAITE model."""

    metadata: Any
    """A mapping with ``id``."""

    def __call__(self, batch: Sequence[Array], /) -> Sequence[Array]:
        """Return an answer (K,) for each image (C, H, W)."""
        ...


class TheirDataset(Protocol):
    """A MAITE dataset."""

    metadata: Any
    """A mapping with ``id``."""

    def __getitem__(self, index: int, /) -> Item:
        """Return the image, target and metadata at this position."""
        ...

    def __len__(self) -> int:
        """Return the number of items."""
        ...


class MaiteModel:
    """A classifier of ours as a MAITE model: a sequence of images in [0, 1] to logits (K,) each.

    Parameters
    ----------
    model
        Images (B, C, H, W) in [0, 1] to logits (B, K).
    id
        Its name.
    classes
        What its classes are called, in order; None leaves that out.
    """

    def __init__(self, model: Classifier, *, id: str, classes: Sequence[str] | None = None) -> None:
        self._model = model
        self.metadata = _metadata(id, classes)

    def __call__(self, batch: Sequence[Array], /) -> Sequence[Tensor]:
        """Return the logits (K,) of each image (C, H, W)."""
        images = torch.stack([_tensor(image) for image in batch])
        with torch.no_grad():
            return list(self._model(images))


class MaiteDataset:
    """Images and labels of ours as a MAITE dataset: targets are one-hot, the metadata hold the position.

    Parameters
    ----------
    images, labels
        (N, C, H, W) in [0, 1] and (N,).
    id
        Its name.
    classes
        What the classes are called, in the order of the labels.
    """

    def __init__(self, images: Images, labels: Labels, *, id: str, classes: Sequence[str]) -> None:
        self._images, self._labels, self._classes = images, labels, len(classes)
        self.metadata = _metadata(id, classes)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor, dict[str, int]]:
        """Return the image (C, H, W), its one-hot target (K,) and its position."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        target = torch.nn.functional.one_hot(self._labels[index], self._classes).float()
        return self._images[index], target, {"id": index % len(self)}


def evaluate_maite(
    model: TheirModel,
    dataset: TheirDataset,
    *,
    epsilon: Radii,
    norm: str = "linf",
    attacks: str | Sequence[str] = "fast",
    differentiable: bool = False,
    out: Path | str | None = None,
    options: Options | None = None,
) -> Record:
    """Attack a MAITE model on a MAITE dataset, as `memory_defense.evaluate` does, and return the record.

    Parameters
    ----------
    model
        Its inputs are images in [0, 1]; a model that wants other ones has to be wrapped before.
    dataset
        Read once, into memory.
    epsilon, norm, attacks, out
        As in `memory_defense.evaluate`.
    differentiable
        Whether its answers are tensors that lead back to its inputs. False hands it arrays: attacks that follow a
        gradient cannot run then, which says less, and the audit says so.
    options
        As in `memory_defense.evaluate`; the names are those of model and dataset where it gives none.

    Raises
    ------
    ValueError
        For an item that is no image and target (K,), and what `memory_defense.evaluate` raises.
    """
    images, labels = _read(dataset)
    chosen = options or Options()
    names = {"defense": model.metadata, "dataset": dataset.metadata}
    unnamed = {key: str(of["id"]) for key, of in names.items() if getattr(chosen, key) == getattr(Options, key)}
    return evaluate(
        _asked(model, differentiable=differentiable),
        images,
        labels,
        epsilon=epsilon,
        norm=norm,
        attacks=attacks,
        out=out,
        options=replace(chosen, **unnamed),
    )


def _asked(model: TheirModel, *, differentiable: bool) -> Classifier:
    def answer(images: Images, /) -> Logits:
        batch = list(images) if differentiable else list(images.detach().cpu().numpy())
        return torch.stack([_tensor(one) for one in model(batch)]).to(images.device)

    return answer


def _read(dataset: TheirDataset) -> tuple[Images, Labels]:
    """Return all images (N, C, H, W) and labels (N,) of a dataset."""
    images: list[Tensor] = []
    labels: list[int] = []
    for index in range(len(dataset)):
        image, target, _ = dataset[index]
        scores = _tensor(target)
        if scores.dim() != 1 or not len(scores):
            raise ValueError(
                f"the target of item {index} is {shown(target)}, expected one number for each class (K,), such as "
                "[0., 1., 0.]"
            )
        images.append(_tensor(image))
        labels.append(int(scores.argmax()))
    if not images:
        raise ValueError("the dataset has no items; give one with at least 1 image")
    return torch.stack(images), torch.tensor(labels)


def _tensor(array: Array) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(np.array(array))


def _metadata(id: str, classes: Sequence[str] | None) -> dict[str, Any]:
    return {"id": id} if classes is None else {"id": id, "index2label": dict(enumerate(classes))}
